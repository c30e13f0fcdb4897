"""The wheel and the sdist: reproducible, complete, and without extraneous files."""

import shutil
import tarfile
from pathlib import Path

import pytest

import beholder
from distributions import build_distributions, compare_contents, list_contents, tracked_files

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
DATE = 1_750_000_000


@pytest.fixture(name="tracked", scope="module")
def _tracked() -> list[str]:
    """Return the tracked files of the project; skips outside a git checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    return tracked_files(ROOT)


@pytest.fixture(name="built", scope="module")
def _built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build_distributions(ROOT, tmp_path_factory.mktemp("one") / "build", DATE)


def test_two_builds_produce_the_same_wheel_and_sdist(built: tuple[Path, Path], tmp_path: Path) -> None:
    again = build_distributions(ROOT, tmp_path / "other", DATE, seed=86_400_001)
    for one, other in zip(built, again, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_wheel_contains_only_the_package(built: tuple[Path, Path], tracked: list[str]) -> None:
    names = set(list_contents(built[0]))
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/beholder/")}
    documents = {name for name in package if name.endswith(".md")}  # model cards travel with their weights
    metadata = {name for name in names if ".dist-info/" in name}
    assert package - names == set(), "listed in git but not in the wheel: see package-data in pyproject.toml"
    assert names - package - metadata == set()
    assert documents and f"beholder-{beholder.__version__}.dist-info/licenses/NOTICE" in metadata


def test_the_wheel_contains_what_the_list_says(built: tuple[Path, Path]) -> None:
    patterns = (ROOT / "packaging" / "wheel.txt").read_text("utf-8").split()
    assert compare_contents(list_contents(built[0]), patterns, beholder.__version__) == []


def test_the_sdist_builds_the_package(built: tuple[Path, Path], tracked: list[str]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE"} <= names
    assert {name for name in tracked if name.startswith("src/beholder/")} <= names
