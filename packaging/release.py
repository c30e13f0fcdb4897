"""Check everything that a release needs, build it, and tag it.

python packaging/release.py                    # all checks; then dist/ and the tag
python packaging/release.py version changelog  # these checks alone; nothing is written

A release is made of the commit that is checked out. Nothing is uploaded and nothing is pushed.
"""

import argparse
import difflib
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from datetime import date as Date
from pathlib import Path

from packaging.version import InvalidVersion, Version

from dependencies import (
    ROOT,
    DependencyError,
    list_licenses,
    read_dependencies,
    read_notice,
)
from distributions import (
    BuildError,
    build_distributions,
    commit_date,
    compare_contents,
    list_contents,
    read_version,
    tracked_files,
)
from sbom import validate_sbom, write_sbom


class ReleaseError(Exception):
    """A check failed; the message says what and what to do."""


FAILURES = (ReleaseError, DependencyError, BuildError)


def run(root: Path, *order: str) -> str:
    """Run a command in a folder and return its output.

    Raises:
        ReleaseError: it failed; with the end of what it said.
    """
    ended = subprocess.run(order, cwd=root, capture_output=True, text=True)
    if ended.returncode:
        raise ReleaseError(f"{' '.join(order)} failed:\n{(ended.stdout + ended.stderr).strip()[-3000:]}")
    return ended.stdout.strip()


def check_tree(root: Path) -> str:
    """Nothing is changed and nothing lies about that git does not know, so that the tag names what was checked."""
    changed = run(root, "git", "status", "--porcelain")
    if changed:
        raise ReleaseError(f"the working tree is not clean; commit or remove:\n{changed}")
    return f"clean at {run(root, 'git', 'rev-parse', '--short', 'HEAD')}"


def read_tags(root: Path) -> dict[Version, str]:
    """Return the releases that are tagged, such as ``v1.2.0``."""
    tags = {}
    for tag in run(root, "git", "tag", "--list", "v*").split():
        try:
            tags[Version(tag[1:])] = tag
        except InvalidVersion:
            continue
    return tags


def check_version(root: Path) -> str:
    """The version is one of a release, follows the last one, and is said in ``version.py`` alone."""
    version = read_version(root)
    try:
        parsed = Version(version)
    except InvalidVersion as error:
        raise ReleaseError(f"src/beholder/version.py: {error}") from None
    if parsed.is_prerelease or parsed.local or str(parsed) != version or len(parsed.release) != 3:
        raise ReleaseError(f"src/beholder/version.py: {version} is no version of a release, such as 1.2.3")
    last = max(read_tags(root), default=None)
    if last is not None and parsed <= last:
        raise ReleaseError(f"src/beholder/version.py: {version} does not follow {last}, which is tagged")
    if "version" not in tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"].get("dynamic", ()):
        raise ReleaseError("pyproject.toml: the version must be dynamic, so that it is said once")
    other = re.compile(r"\bbeholder[-_ =@]{1,3}v?\d+\.\d+\.\d+|^__version__ = ", re.I | re.M)
    for name in tracked_files(root):
        if name.startswith(("tests/", "docs/locale/")) or name in ("CHANGELOG.md", "src/beholder/version.py"):
            continue
        try:
            text = (root / name).read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if found := other.search(text):
            line = text[: found.start()].count("\n") + 1
            raise ReleaseError(f"{name}:{line} says a version ({found[0]}); only src/beholder/version.py may")
    return version


def read_changes(root: Path) -> tuple[str, Date, str]:
    """Return the version, date and text of the newest release in the changelog.

    Raises:
        ReleaseError: it has no date, or something stands above it.
    """
    text = (root / "CHANGELOG.md").read_text("utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.M)
    sections = [section.strip() for section in sections]
    if not sections or sections[0].splitlines()[0] != "[Unreleased]":
        raise ReleaseError('CHANGELOG.md: the first section must be "## [Unreleased]", without entries')
    if sections[0] != "[Unreleased]":
        raise ReleaseError(
            'CHANGELOG.md: move the entries of "Unreleased" into a section such as "## [1.2.3] - 2026-01-31"'
        )
    heading, _, changes = (sections[1] if len(sections) > 1 else "").partition("\n")
    found = re.fullmatch(r"\[(\S+)\] - (\d{4}-\d\d-\d\d)", heading)
    if found is None:
        raise ReleaseError(f'CHANGELOG.md: "{heading}" is no version with a date, such as "[1.2.3] - 2026-01-31"')
    try:
        when = Date.fromisoformat(found[2])
    except ValueError:
        raise ReleaseError(f"CHANGELOG.md: {found[2]} is no date") from None
    return found[1], when, changes.strip()


def check_changelog(root: Path) -> str:
    """The changelog's newest section is this version's, has entries, and is dated no later than today."""
    version, when, changes = read_changes(root)
    if version != read_version(root):
        raise ReleaseError(f"CHANGELOG.md: the newest section is {version}, but the version is {read_version(root)}")
    if when > datetime.now(UTC).date():
        raise ReleaseError(f"CHANGELOG.md: {when} is in the future")
    tags = read_tags(root)
    if tags:
        tagged = run(root, "git", "log", "-1", "--format=%cs", tags[max(tags)])
        if when < Date.fromisoformat(tagged):
            raise ReleaseError(f"CHANGELOG.md: {when} is before the release {max(tags)} of {tagged}")
    entries = re.findall(r"^- ", changes, re.M)
    if not entries:
        raise ReleaseError(f"CHANGELOG.md: {version} has no entries")
    return f"{len(entries)} entries of {when}"


def check_environment(root: Path) -> str:
    """What is installed is what the lock says, so that the tests tried it and its licenses are those read."""
    dependencies = read_dependencies(root)
    other = []
    for one in dependencies:
        try:
            installed = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        if installed.partition("+")[0] != one.version:
            other.append(f"{one.name} {installed} ({one.version} is locked)")
    if other:
        raise ReleaseError(f"the environment is not the lock's: {', '.join(other)}; run: make clean, and again")
    return f"{len(dependencies)} packages"


def check_licenses(root: Path) -> str:
    """NOTICE names every dependency under its license."""
    dependencies = read_dependencies(root)
    listed = read_notice((root / "NOTICE").read_text("utf-8")).splitlines()
    right = list_licenses(dependencies).splitlines()
    if listed != right:
        changes = "\n".join(difflib.unified_diff(listed, right, "NOTICE", "metadata", lineterm="", n=0))
        raise ReleaseError(f"NOTICE is not up to date; run: python packaging/dependencies.py --write\n{changes}")
    return f"{len({one.license for one in dependencies})} licenses of {len(dependencies)} packages"


def build_sbom(root: Path) -> str:
    """Return the SBOM of the commit."""
    return write_sbom(read_version(root), read_dependencies(root), commit_date(root))


def check_sbom(root: Path) -> str:
    """The SBOM is valid CycloneDX."""
    text = build_sbom(root)
    error = validate_sbom(text)
    if error is not None:
        raise ReleaseError(f"the SBOM is not valid: {error[:1000]}")
    return f"{len(json.loads(text)['components'])} packages"


def check_wheel(root: Path) -> str:
    """The wheel holds what ``packaging/wheel.txt`` lists, and every file of the package that git knows."""
    patterns = (root / "packaging" / "wheel.txt").read_text("utf-8").split()
    package = [name.removeprefix("src/") for name in tracked_files(root) if name.startswith("src/")]
    with tempfile.TemporaryDirectory() as folder:
        wheel, _ = build_distributions(root, Path(folder) / "build", commit_date(root))
        names = list_contents(wheel)
        size = wheel.stat().st_size
    differences = compare_contents(names, patterns, read_version(root))
    if differences:
        raise ReleaseError("the wheel is not as packaging/wheel.txt lists it:\n" + "\n".join(differences))
    missing = sorted(set(package) - set(names))
    if missing:
        raise ReleaseError(f"not in the wheel: {', '.join(missing)}; see package-data in pyproject.toml")
    return f"{len(names)} files, {size / 1e6:.1f} MB"


def check_reproducible(root: Path) -> str:
    """Two builds in different folders, time zones and dates give the same wheel and the same sdist."""
    with tempfile.TemporaryDirectory() as folder:
        date = commit_date(root)
        built = [build_distributions(root, Path(folder) / str(seed), date, seed) for seed in (0, 86_400_001)]
        sums = [[(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in pair] for pair in built]
    for one, other in zip(*sums, strict=True):
        if one != other:
            raise ReleaseError(f"{one[0]} is not reproducible: SHA-256 {one[1][:16]}, then {other[1][:16]}")
    return f"SHA-256 of the wheel {sums[0][0][1]}"


def check_lock(root: Path) -> str:
    """``make lock`` would change nothing: the lock follows from pyproject.toml and requirements.in."""
    lock = (root / "requirements.lock").read_text("utf-8")
    again = root / "build" / "release.lock"
    again.parent.mkdir(exist_ok=True)
    again.write_text(lock, "utf-8")  # pins in it are kept, so that only what pyproject.toml asks for can change it
    run(root, "make", "lock", f"LOCK={again.relative_to(root)}")
    if again.read_text("utf-8") != lock:
        raise ReleaseError("requirements.lock is not up to date; run: make lock")
    return f"{len(re.findall(r'^[^ #]+==', lock, re.M))} packages"


def make(*targets: str) -> Callable[[Path], str]:
    """Return a check that makes these targets, and shows what they print."""

    def check(root: Path) -> str:
        if subprocess.run(["make", *targets], cwd=root).returncode:
            raise ReleaseError(f"make {' '.join(targets)} failed; its output is above")
        return f"make {' '.join(targets)}"

    return check


# The quick ones first.
CHECKS: dict[str, Callable[[Path], str]] = {
    "tree": check_tree,
    "version": check_version,
    "changelog": check_changelog,
    "environment": check_environment,
    "licenses": check_licenses,
    "sbom": check_sbom,
    "wheel": check_wheel,
    "reproducible": check_reproducible,
    "lock": check_lock,
    "audit": make("audit"),
    "docs": make("docs"),
    "tests": make("lint", "test"),
}
SLOW = ("audit", "docs", "tests")  # take minutes, and are left out when one before them has failed


def run_checks(root: Path, names: Sequence[str]) -> list[str]:
    """Run checks, print a line for each, and return the names of those that failed or were left out."""
    failed: list[str] = []
    for name in names:
        if failed and name in SLOW:
            print(f"left out     {name}: mend the others first", flush=True)
            failed.append(name)
            continue
        try:
            print(f"ok           {name}: {CHECKS[name](root)}", flush=True)
        except FAILURES as error:
            print(f"FAILED       {name}: {error}", flush=True)
            failed.append(name)
    return failed


def release(root: Path, commit: str) -> list[Path]:
    """Write the wheel, the sdist and the SBOM into ``dist/``, and tag the commit with the changes as its message.

    Raises:
        ReleaseError: the checkout is no longer the commit that was checked.
    """
    check_tree(root)
    if run(root, "git", "rev-parse", "HEAD") != commit:
        raise ReleaseError(f"another commit was checked out during the checks, which began with {commit}")
    version, _, changes = read_changes(root)
    folder = root / "dist"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        built = build_distributions(root, Path(scratch) / "build", commit_date(root))
        files = [Path(shutil.copy(file, folder)) for file in built]
    files.append(folder / f"beholder-{version}.cdx.json")
    files[-1].write_text(build_sbom(root), "utf-8")
    message = f"Beholder {version}\n\n{changes}"
    run(root, "git", "tag", "--annotate", "--cleanup=verbatim", f"--message={message}", f"v{version}", commit)
    return files


def main(words: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the checks that are named, or all of them and the release; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"one of: {', '.join(CHECKS)}")
    names = parser.parse_args(words).checks
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)}; there are: {', '.join(CHECKS)}")
    commit = run(root, "git", "rev-parse", "HEAD")
    failed = run_checks(root, names or list(CHECKS))
    if failed:
        print(f"failed or left out: {', '.join(failed)}")
        return 1
    if not names:
        try:
            files = release(root, commit)
        except FAILURES as error:
            print(f"FAILED       {error}")
            return 1
        print(*(f"written      {file.relative_to(root)}" for file in files), sep="\n")
        print(f"tagged       v{read_version(root)}; publish it with: git push origin v{read_version(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
