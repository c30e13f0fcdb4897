"""The wheel and the sdist: reproducible, complete, and without extraneous files."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import beholder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes sys.argv
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""


def tracked() -> list[str]:
    """Return the tracked files of the project; skips outside a git checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def build(folder: Path, date: int) -> dict[str, Path]:
    """Build a wheel and an sdist from a copy of the project whose files have the given modification time."""
    source, out = folder / "source", folder / "dist"
    out.mkdir(parents=True)
    for name in tracked():
        if name.startswith(("tests/", "benchmarks/", "docs/", "demo/")):
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
        os.utime(source / name, (date, date))
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1750000000", "PYTHONHASHSEED": str(date % 1000)}
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, env=environment, capture_output=True, check=True
    )
    return {file.suffix: file for file in out.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("one"), 1_700_000_000)


def test_two_builds_produce_the_same_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    again = build(tmp_path / "other", 1_760_000_001)
    assert again[".whl"].name == built[".whl"].name
    assert again[".whl"].read_bytes() == built[".whl"].read_bytes()


def test_the_wheel_contains_only_the_package(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = set(wheel.namelist())
    package = {name.removeprefix("src/") for name in tracked() if name.startswith("src/beholder/")}
    documents = {name for name in package if name.endswith(".md")}  # model cards travel with their weights
    metadata = {name for name in names if ".dist-info/" in name}
    assert package - names == set(), "listed in git but not in the wheel: see package-data in pyproject.toml"
    assert names - package - metadata == set()
    assert documents and f"beholder-{beholder.__version__}.dist-info/licenses/NOTICE" in metadata


def test_the_sdist_builds_the_package(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE"} <= names
    assert {name for name in tracked() if name.startswith("src/beholder/")} <= names
