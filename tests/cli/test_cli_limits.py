"""--max-megapixels and --max-bytes of the commands that read many pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image

from command import beholder


@pytest.fixture(name="photo")
def _photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (200, 100), "teal").save(path)
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], None),
        (["--max-megapixels", "0.1", "--max-bytes", "1000000"], None),
        (["--max-megapixels", "0.01"], "the limit is 0.01 million (megapixels)"),
        (["--max-bytes", "100"], "0.0001 MB, the limit (megabytes)"),
    ],
)
@pytest.mark.parametrize("command", ["embed", "index"])
def test_a_limit_is_enforced_and_can_be_raised(
    command: str, options: list[str], says: str | None, photo: Path, tiny_model: Path, tmp_path: Path
) -> None:
    more = ["--album", tmp_path / "album"] if command == "index" else []
    run = beholder(command, photo, "--json", "--model", tiny_model, *options, *more)
    assert run.returncode == (0 if says is None else 1), run.stderr
    if says is not None:
        assert says in run.stderr + run.stdout
    elif command == "embed":
        assert len(json.loads(run.stdout)["embedding"]) > 0


def test_a_limit_of_zero_is_refused(photo: Path, tiny_model: Path) -> None:
    run = beholder("embed", photo, "--max-megapixels", "0", "--model", tiny_model)
    assert run.returncode == 2 and "megapixels" in run.stderr
