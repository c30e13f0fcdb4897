"""Build the wheel and the sdist so that the same commit gives the same bytes, and read what is in them.

python packaging/distributions.py dist
"""

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

BUILD = """
import os, sys
folder = sys.argv[1]  # setuptools changes sys.argv
os.umask(0o022)
from setuptools import build_meta
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""


class BuildError(Exception):
    """The package cannot be built; the message has the end of what setuptools said."""


def tracked_files(root: Path) -> list[str]:
    """Return the tracked files of a git checkout that exist.

    Raises:
        subprocess.CalledProcessError: it is none.
    """
    order = ["git", "ls-files", "-z"]
    listed = subprocess.run(order, cwd=root, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def read_version(root: Path) -> str:
    """Return the version of a checkout without importing it."""
    text = (root / "src" / "beholder" / "version.py").read_text("utf-8")
    (version,) = re.findall(r'^__version__ = "(.*)"$', text, re.M)
    return version


def build_distributions(root: Path, folder: Path, date: int, seed: int = 0) -> tuple[Path, Path]:
    """Build the wheel and the sdist from a copy of the tracked files, and return their paths.

    Args:
        root: a git checkout.
        folder: where the copy and the files are written; must not exist.
        date: of the distributions' content, in seconds since 1970.
        seed: what must not matter is derived from it: the dates of the copy, the umask, the order of sets, the time
            zone.

    Raises:
        BuildError: setuptools failed.
    """
    source, out = folder / "source", folder / "dist"
    out.mkdir(parents=True)
    for name in tracked_files(root):
        if name.startswith(("tests/", "benchmarks/", "docs/", "demo/")):
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, source / name)
        (source / name).chmod(0o755 if os.access(root / name, os.X_OK) else 0o644)  # whatever the umask of the checkout
        os.utime(source / name, (1_700_000_000 + seed, 1_700_000_000 + seed))
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": str(date),
        "PYTHONHASHSEED": str(seed % 1000),
        "TZ": ("UTC", "Asia/Shanghai")[seed % 2],
    }
    order = [sys.executable, "-c", BUILD, str(out)]
    umask = (0o022, 0o077)[seed % 2]
    run = subprocess.run(order, cwd=source, env=environment, capture_output=True, text=True, umask=umask)
    if run.returncode:
        raise BuildError(f"the package cannot be built: {run.stderr.strip()[-1000:]}")
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    date_sdist(sdist, date)
    return wheel, sdist


def date_sdist(sdist: Path, date: int) -> None:
    """Write an sdist again with one date and no owner; setuptools dates wheels alone by SOURCE_DATE_EPOCH."""
    with tarfile.open(sdist) as archive:
        members = [(one, archive.extractfile(one)) for one in sorted(archive.getmembers(), key=lambda one: one.name)]
        with (
            sdist.with_suffix(".new").open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=date) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as dated,
        ):
            for one, content in members:
                one.mtime, one.uid, one.gid, one.uname, one.gname, one.pax_headers = date, 0, 0, "", "", {}
                dated.addfile(one, content)
    sdist.with_suffix(".new").replace(sdist)


def list_contents(wheel: Path) -> list[str]:
    """Return the names of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def compare_contents(names: list[str], patterns: list[str], version: str) -> list[str]:
    """Return which names are on no list, as ``+ name``, and which patterns match no name, as ``- pattern``.

    Args:
        names: files in a wheel.
        patterns: names, in which ``*`` stands for anything but a slash, and ``VERSION`` for the version.
        version: the wheel's.
    """
    matches = {}
    for pattern in (line.replace("VERSION", version) for line in patterns):
        same_depth = [name for name in names if name.count("/") == pattern.count("/")]
        matches[pattern] = {name for name in same_depth if fnmatchcase(name, pattern)}
    listed = set().union(*matches.values())
    unmatched = [f"- {pattern}" for pattern, found in matches.items() if not found]
    return [f"+ {name}" for name in names if name not in listed] + unmatched


def commit_date(root: Path) -> int:
    """Return the time of the commit that is checked out, which dates what is built of it."""
    order = ["git", "log", "-1", "--format=%ct"]
    return int(subprocess.run(order, cwd=root, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    project = Path(__file__).parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            built = build_distributions(project, Path(scratch) / "build", commit_date(project))
        except BuildError as error:
            sys.exit(str(error))
        for file in built:
            print(shutil.copy(file, folder))
