import csv
import json
from pathlib import Path

import pytest

from beholder.errors import InvalidSetting, WriteFailed
from beholder.tasks.caption_file import CaptionFile


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_what_is_there_is_known_and_added_to(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions{suffix}"
    first = CaptionFile(path)
    first.add({"image": "a, b.jpg", "caption": 'A "dog",\nrunning'})
    first.close()
    second = CaptionFile(path)
    assert second.done == {"a, b.jpg"}
    second.add({"image": "ç.jpg", "caption": "猫", "score": 0.5, "weak": False})
    second.close()
    text = path.read_text("utf-8")
    rows = (
        list(csv.DictReader(text.splitlines(True))) if suffix == ".csv" else [json.loads(x) for x in text.splitlines()]
    )
    assert [row["image"] for row in rows] == ["a, b.jpg", "ç.jpg"]
    assert [row["caption"] for row in rows] == ['A "dog",\nrunning', "猫"]


def test_a_line_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "a.jpg", "caption": "one"}\n{"image": "b.jp')
    file = CaptionFile(path)
    assert file.done == {"a.jpg"}
    file.add({"image": "b.jpg", "caption": "two"})
    file.close()
    assert [json.loads(line)["image"] for line in path.read_text().splitlines()] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("name", ["captions.txt", "captions"])
def test_another_kind_of_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"jsonl or a \.csv"):
        CaptionFile(tmp_path / name)


@pytest.mark.parametrize("content", [b'{"name": 1}\n', b"[1]\n", b"not json\n", b"\xff\xfe\n"])
def test_a_file_with_something_else_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match="something else"):
        CaptionFile(path)
    assert path.read_bytes() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_says_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    file = CaptionFile(path)
    file.add({"image": "a.jpg", "caption": "one"})
    whole = file.file
    file.file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    with pytest.raises(WriteFailed, match="No space left on device; the 1 captions written before are there"):
        file.add({"image": "b.jpg", "caption": "two"})
    whole.close()
    assert CaptionFile(path).done == {"a.jpg"}
