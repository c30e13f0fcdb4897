import warnings
from pathlib import Path

import pytest

from beholder.errors import InvalidSetting
from beholder.text.labels import LabelsWarning, read_labels


def written(folder: Path, content: bytes) -> Path:
    file = folder / "labels.txt"
    file.write_bytes(content)
    return file


def test_labels_are_read_in_order_without_blank_lines_and_comments(tmp_path: Path) -> None:
    file = written(tmp_path, "\ufeff# animals\r\ndog\r\n\r\n  golden retriever \n猫\nC# code\n".encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_labels(file) == ["dog", "golden retriever", "猫", "C# code"]


def test_a_repeated_label_is_dropped_and_reported_with_its_lines(tmp_path: Path) -> None:
    file = written(tmp_path, b"dog\ncat\n dog\nDog\n")
    with pytest.warns(LabelsWarning, match=r"dog \(line 3, first in line 1\)"):
        assert read_labels(file) == ["dog", "cat", "Dog"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "has no label"), (b"# only\n\n", "has no label"), ("dog\n".encode("utf-16"), "not UTF-8")],
)
def test_a_file_without_usable_labels_is_reported_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"labels\.txt: .*{reason}"):
        read_labels(written(tmp_path, content))


def test_a_missing_file_and_a_folder_are_reported_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InvalidSetting, match=str(path)):
            read_labels(path)
