import csv
import json
from pathlib import Path

import pytest

from beholder.errors import InvalidSetting, WriteFailed
from beholder.tasks.result_file import CaptionFile


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_existing_rows_are_read_and_new_ones_are_appended(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions{suffix}"
    first = CaptionFile(path)
    first.append({"image": "a, b.jpg", "caption": 'A "dog",\nrunning'})
    first.close()
    second = CaptionFile(path)
    assert second.done == {"a, b.jpg"}
    second.append({"image": "ç.jpg", "caption": "猫", "score": 0.5, "weak": False})
    second.close()
    text = path.read_text("utf-8")
    rows = (
        list(csv.DictReader(text.splitlines(True))) if suffix == ".csv" else [json.loads(x) for x in text.splitlines()]
    )
    assert [row["image"] for row in rows] == ["a, b.jpg", "ç.jpg"]
    assert [row["caption"] for row in rows] == ['A "dog",\nrunning', "猫"]


def test_a_truncated_line_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "a.jpg", "caption": "one"}\n{"image": "b.jp')
    file = CaptionFile(path)
    assert file.done == {"a.jpg"}
    file.append({"image": "b.jpg", "caption": "two"})
    file.close()
    assert [json.loads(line)["image"] for line in path.read_text().splitlines()] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("name", ["captions.txt", "captions"])
def test_a_file_of_another_type_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"jsonl or a \.csv"):
        CaptionFile(tmp_path / name)


@pytest.mark.parametrize("content", [b'{"name": 1}\n', b"[1]\n", b"not json\n", b"\xff\xfe\n"])
def test_a_file_with_other_content_is_refused_and_not_changed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match="does not hold captions"):
        CaptionFile(path)
    assert path.read_bytes() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported_with_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    file = CaptionFile(path)
    file.append({"image": "a.jpg", "caption": "one"})
    whole = file.file
    file.file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    with pytest.raises(WriteFailed, match="No space left on device; the 1 captions written before are there"):
        file.append({"image": "b.jpg", "caption": "two"})
    whole.close()
    assert CaptionFile(path).done == {"a.jpg"}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".jsonl", '{"image": "a.jpg", "caption": "one"}\n{"image": "b.jpg", "caption": "by hand"}'),
        (".csv", "image,caption,score,weak\na.jpg,one,,\nb.jpg,by hand,,"),
        (".csv", "image;caption;score;weak\r\na.jpg;one;;\r\nb.jpg;by hand;;"),
        (".csv", "image,caption,score,weak\na.jpg,one,,\nb.jpg,by hand"),
        (".csv", "caption\timage\none\ta.jpg\nby hand\tb.jpg"),
        (".csv", '\ufeffimage,caption\r\na.jpg,one\r\n"b.jpg","by hand"'),
    ],
)
def test_a_last_row_without_a_newline_is_read_and_the_existing_content_is_preserved(
    suffix: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / f"captions{suffix}"
    path.write_bytes(text.encode())
    file = CaptionFile(path)
    assert file.captions == {"a.jpg": "one", "b.jpg": "by hand"}
    assert path.read_bytes() == text.encode(), "opening changes nothing"
    file.append({"image": "c, d.jpg", "caption": 'the "third"'})
    file.close()
    assert path.read_bytes().startswith(text.encode())
    assert CaptionFile(path).captions == {"a.jpg": "one", "b.jpg": "by hand", "c, d.jpg": 'the "third"'}


@pytest.mark.parametrize(
    "tail", ['b.jpg,"two\nli', "b", 'b.jpg,"two ""quo', "b.jpg,\udcff".encode(errors="surrogateescape")]
)
def test_a_truncated_csv_row_is_dropped_and_earlier_quoted_newlines_are_kept(tail: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    whole = b'image,caption,score,weak\na.jpg,"one\nline, and ""another""",,\n'
    path.write_bytes(whole + (tail if isinstance(tail, bytes) else tail.encode()))
    file = CaptionFile(path)
    assert file.captions == {"a.jpg": 'one\nline, and "another"'}
    file.append({"image": "b.jpg", "caption": "two"})
    file.close()
    assert path.read_bytes() == whole + b"b.jpg,two,,\n"


def test_unicode_line_separators_do_not_end_a_json_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    file = CaptionFile(path)
    file.append({"image": "a.jpg", "caption": "one\u2028two\x85three"})
    file.close()
    assert CaptionFile(path).captions == {"a.jpg": "one\u2028two\x85three"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_name_that_is_not_unicode_is_recognized_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions{suffix}"
    file = CaptionFile(path)
    file.append({"image": "\udcff.jpg", "caption": "one"})
    file.close()
    assert CaptionFile(path).done == {"\udcff.jpg"}


def test_a_csv_file_in_another_encoding_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    content = "image,caption\na.jpg,Zürich\n".encode("cp1252")
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match="UTF-8"):
        CaptionFile(path)
    assert path.read_bytes() == content
