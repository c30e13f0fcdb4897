"""Each check of a release fails for what it is about, with a message that says what to do; a tag needs all of them."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import release
from dependencies import Dependency, DependencyError
from release import ReleaseError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-01-31

### Added

- A thing.

## [1.2.2] - 2025-12-31

- An older thing.
"""
FILES = {
    ".gitignore": "dist/\nbuild/\n",
    "CHANGELOG.md": CHANGELOG,
    "LICENSE": "Apache",
    "Makefile": "good:\n\ttrue\nbad:\n\tfalse\nlock:\n\techo new==1.0 >> $(LOCK)\n",
    "NOTICE": "Packages that are installed with Beholder or with an extra:\n\n- MIT: one\n\nEnd\n",
    "README.md": "Beholder",
    "packaging/wheel.txt": """beholder/*.py
beholder/py.typed
beholder-VERSION.dist-info/*
beholder-VERSION.dist-info/licenses/*
""",
    "pyproject.toml": """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "beholder"
dynamic = ["version"]
[tool.setuptools.dynamic]
version = { attr = "beholder.version.__version__" }
[tool.setuptools.packages.find]
where = ["src"]
[tool.setuptools.package-data]
beholder = ["py.typed"]
""",
    "requirements.lock": "one==1.0 \\\n    --hash=sha256:00\n",
    "src/beholder/__init__.py": "",
    "src/beholder/py.typed": "",
    "src/beholder/version.py": '"""The version."""\n\n__version__ = "1.2.3"\n',
}
BUILT_SOMEWHERE = """import os, pathlib, setuptools
pathlib.Path("src/beholder/where.py").write_text(f"FOLDER = {os.getcwd()!r}")
setuptools.setup()
"""
ONE = [Dependency("one", "1.0", "MIT")]


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, "utf-8")


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "A commit")


@pytest.fixture(name="project")
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package that can be released; its dependencies are ONE."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # such as those of a hook
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A. Person")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "person@example.org")
        monkeypatch.setenv(f"GIT_{role}_DATE", "2026-01-31T12:00:00Z")
    monkeypatch.setattr(release, "read_dependencies", lambda root: ONE)
    root = tmp_path / "project"
    for name, text in FILES.items():
        write(root, name, text)
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root)
    return root


def test_a_clean_tree_passes(project: Path) -> None:
    write(project, "build/ignored.txt", "")
    assert git(project, "rev-parse", "--short", "HEAD") in release.check_tree(project)


@pytest.mark.parametrize("name", ["README.md", "src/beholder/forgotten.py"])
def test_a_changed_or_untracked_file_fails(project: Path, name: str) -> None:
    write(project, name, "changed")
    with pytest.raises(ReleaseError, match=f"(?s)not clean.*{re.escape(name)}"):
        release.check_tree(project)


def test_a_version_that_follows_the_last_tag_passes(project: Path) -> None:
    git(project, "tag", "v1.2.2")
    git(project, "tag", "vintage")
    assert release.check_version(project) == "1.2.3"


@pytest.mark.parametrize("tag", ["v1.2.3", "v1.10.0"])
def test_a_version_that_is_tagged_or_older_fails(project: Path, tag: str) -> None:
    git(project, "tag", tag)
    with pytest.raises(ReleaseError, match=rf"1\.2\.3 does not follow {tag[1:]}"):
        release.check_version(project)


@pytest.mark.parametrize("version", ["1.2.3.dev0", "1.2", "1.2.3rc1", "1.2.3+local", "01.2.3", "next"])
def test_a_version_of_no_release_fails(project: Path, version: str) -> None:
    write(project, "src/beholder/version.py", f'__version__ = "{version}"\n')
    with pytest.raises(ReleaseError, match=rf"version\.py: .*{re.escape(version)}"):
        release.check_version(project)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docs/install.md", "Install\n\nbeholder-1.2.3-py3-none-any.whl"),
        ("README.md", "\n\nBeholder 1.2.2 is out"),
        ("src/beholder/other.py", '\n\n__version__ = "1.2.3"\n'),
    ],
)
def test_a_version_that_is_said_twice_fails(project: Path, name: str, text: str) -> None:
    write(project, name, text)
    commit(project)
    with pytest.raises(ReleaseError, match=rf"^{re.escape(name)}:3 says a version"):
        release.check_version(project)


def test_a_version_in_pyproject_fails(project: Path) -> None:
    write(project, "pyproject.toml", '[project]\nname = "beholder"\nversion = "1.2.3"\n')
    with pytest.raises(ReleaseError, match=r"pyproject\.toml: the version must be dynamic"):
        release.check_version(project)


def test_a_dated_changelog_passes(project: Path) -> None:
    assert release.check_changelog(project) == "1 entries of 2026-01-31"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("## [Unreleased]\n", "", "the first section must be"),
        ("## [Unreleased]\n", "## [Unreleased]\n\n- Another thing.\n", 'move the entries of "Unreleased"'),
        ("[1.2.3] - 2026-01-31", "1.2.3", '"1.2.3" is no version with a date'),
        ("2026-01-31", "2026-02-31", "2026-02-31 is no date"),
        ("2026-01-31", "9999-01-31", "9999-01-31 is in the future"),
        ("[1.2.3]", "[1.3.0]", "the newest section is 1.3.0, but the version is 1.2.3"),
        ("- A thing.", "", "1.2.3 has no entries"),
        ("2026-01-31", "2026-01-01", "2026-01-01 is before the release 1.2.2 of 2026-01-31"),
    ],
)
def test_a_changelog_that_is_not_ready_fails(project: Path, before: str, after: str, says: str) -> None:
    git(project, "tag", "v1.2.2")
    assert before in CHANGELOG
    write(project, "CHANGELOG.md", CHANGELOG.replace(before, after, 1))
    with pytest.raises(ReleaseError, match=re.escape(says)):
        release.check_changelog(project)


def test_an_environment_that_is_not_the_locks_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", {"one": "1.0+cpu"}.__getitem__)
    assert release.check_environment(project) == "1 packages"
    monkeypatch.setattr("importlib.metadata.version", {"one": "0.9"}.__getitem__)
    with pytest.raises(ReleaseError, match=r"one 0\.9 \(1\.0 is locked\)"):
        release.check_environment(project)


def test_a_notice_without_a_license_or_with_another_fails(project: Path) -> None:
    assert release.check_licenses(project) == "1 licenses of 1 packages"
    write(project, "NOTICE", FILES["NOTICE"].replace("- MIT: one", "- MIT: two"))
    with pytest.raises(ReleaseError, match=r"(?s)NOTICE is not up to date.*-- MIT: two\n\+- MIT: one"):
        release.check_licenses(project)
    write(project, "NOTICE", "Nothing")
    with pytest.raises(ReleaseError, match=r"\+- MIT: one"):
        release.check_licenses(project)


def test_an_sbom_that_is_not_valid_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert release.check_sbom(project) == "1 packages"
    monkeypatch.setattr(release, "write_sbom", lambda *arguments: '{"bomFormat": "other"}')
    with pytest.raises(ReleaseError, match="the SBOM is not valid"):
        release.check_sbom(project)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (None, None, None),
        ("src/beholder/sub/__init__.py", "", "+ beholder/sub/__init__.py"),
        ("packaging/wheel.txt", FILES["packaging/wheel.txt"] + "beholder/page.html\n", "- beholder/page.html"),
        ("src/beholder/words.txt", "", "not in the wheel: beholder/words.txt"),
        ("src/beholder/version.py", '__version__ = "1.2.3"\n1 / 0\n', "the package cannot be built"),
    ],
)
def test_a_wheel_that_is_not_as_listed_fails(
    project: Path, name: str | None, text: str | None, says: str | None
) -> None:
    if name is None or text is None or says is None:
        assert "files" in release.check_wheel(project)
        return
    write(project, name, text)
    if says.startswith("the package"):
        write(project, "pyproject.toml", FILES["pyproject.toml"].replace("packages.find", "packages.lost"))
    commit(project)
    with pytest.raises(release.FAILURES, match=re.escape(says)):
        release.check_wheel(project)


@pytest.mark.slow
def test_a_build_that_is_not_reproducible_fails(project: Path) -> None:
    assert "SHA-256" in release.check_reproducible(project)
    write(project, "setup.py", BUILT_SOMEWHERE)
    commit(project)
    with pytest.raises(ReleaseError, match=r"beholder-1\.2\.3-py3-none-any\.whl is not reproducible"):
        release.check_reproducible(project)


def test_a_lock_that_make_lock_would_change_fails(project: Path) -> None:
    with pytest.raises(ReleaseError, match=r"requirements\.lock is not up to date; run: make lock"):
        release.check_lock(project)
    assert (project / "requirements.lock").read_text("utf-8") == FILES["requirements.lock"]
    write(project, "Makefile", "lock:\n\ttest -s $(LOCK)\n")
    assert release.check_lock(project) == "1 packages"
    write(project, "Makefile", "lock:\n\t@echo no network >&2; false\n")
    with pytest.raises(ReleaseError, match=r"(?s)make lock LOCK=build/release\.lock failed.*no network"):
        release.check_lock(project)


def test_a_target_that_fails_fails_the_check(project: Path) -> None:
    assert release.make("good")(project) == "make good"
    with pytest.raises(ReleaseError, match=r"make good bad failed"):
        release.make("good", "bad")(project)


def test_the_targets_of_the_checks_exist() -> None:
    makefile = (release.ROOT / "Makefile").read_text("utf-8")
    for target in ("audit", "docs", "lint", "lock", "test"):
        assert re.search(rf"^{target}:", makefile, re.M), target


def passes(root: Path) -> str:
    return "fine"


def fails(root: Path) -> str:
    raise ReleaseError("not fine")


@pytest.fixture(name="checks")
def _checks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Path], str]]:
    checks: dict[str, Callable[[Path], str]] = {"version": passes, "tests": passes}
    monkeypatch.setattr(release, "CHECKS", checks)
    return checks


def test_all_checks_are_run_before_minutes_are_spent(
    project: Path, checks: dict[str, Callable[[Path], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    checks.clear()
    checks.update(version=fails, sbom=passes, tests=passes)
    assert release.main([], project) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["FAILED", "version:", "not"],
        ["ok", "sbom:", "fine"],
        ["left", "out", "tests:"],
        ["failed", "or", "left"],
    ]
    assert git(project, "tag") == ""


def test_a_check_alone_tags_nothing(project: Path, checks: dict[str, Callable[[Path], str]]) -> None:
    assert release.main(["version"], project) == 0
    assert git(project, "tag") == "" and not (project / "dist").exists()
    with pytest.raises(SystemExit):
        release.main(["versions"], project)


def test_a_dependency_error_is_a_failed_check(
    project: Path, checks: dict[str, Callable[[Path], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(root: Path) -> str:
        raise DependencyError("one is not in requirements.lock")

    checks["version"] = unknown
    assert release.main(["version"], project) == 1
    assert "FAILED       version: one is not in requirements.lock" in capsys.readouterr().out


@pytest.mark.slow
def test_a_release_is_built_and_tagged_with_its_changes(
    project: Path, checks: dict[str, Callable[[Path], str]]
) -> None:
    assert release.main([], project) == 0
    assert sorted(file.name for file in (project / "dist").iterdir()) == [
        "beholder-1.2.3-py3-none-any.whl",
        "beholder-1.2.3.cdx.json",
        "beholder-1.2.3.tar.gz",
    ]
    assert git(project, "cat-file", "-t", "v1.2.3") == "tag"
    assert git(project, "rev-parse", "v1.2.3^{commit}") == git(project, "rev-parse", "HEAD")
    assert git(project, "tag", "--list", "--format=%(contents)") == "Beholder 1.2.3\n\n### Added\n\n- A thing."


@pytest.mark.parametrize("left", ["README.md", None])
def test_what_the_tests_change_prevents_the_tag(
    project: Path,
    checks: dict[str, Callable[[Path], str]],
    left: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def test(root: Path) -> str:
        write(root, left or "new.py", "changed by the tests")
        if left is None:
            commit(root)
        return "fine"

    checks["tests"] = test
    assert release.main([], project) == 1
    assert git(project, "tag") == "" and not (project / "dist").exists()
    assert ("not clean" if left else "another commit was checked out") in capsys.readouterr().out
