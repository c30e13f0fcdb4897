"""photo_metadata and read_caption on the table of files in metadata_files.py."""

from pathlib import Path

import pytest
from awkward import AWKWARD
from metadata_files import METADATA, Case

from beholder.pictures.caption_metadata import read_caption
from beholder.pictures.photo_metadata import photo_metadata


def write_case(case: Case, folder: Path) -> Path:
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    return folder / next(iter(case.files))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", METADATA, ids=lambda case: case.name)
def test_metadata_is_read_as_expected(case: Case, tmp_path: Path) -> None:
    path = write_case(case, tmp_path)
    found = photo_metadata(path.read_bytes(), path)
    for field, value in case.expected.items():
        expected = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
        assert getattr(found, field) == expected, field
    if "caption" in case.expected:
        assert read_caption(path) == case.expected["caption"]


def test_the_tables_contain_enough_uniquely_named_files() -> None:
    assert len(METADATA) >= 120 and len({case.name for case in METADATA}) == len(METADATA)
    assert len(AWKWARD) + len(METADATA) >= 250
