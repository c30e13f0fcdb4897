import json
import os
from pathlib import Path
from typing import Any

import pytest

from beholder.errors import InvalidSetting
from beholder.text.json_lines import json_line, read_json_lines


def images(file: Path) -> list[str]:
    return list(read_json_lines(file, lambda row: str(row["image"]), "image"))


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_lines_are_read_with_any_line_ending_and_a_byte_order_mark(tmp_path: Path, start: bytes, end: bytes) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(start + end.join([b'{"image": "a"}', b"  ", '{"image": "猫"}'.encode()]))
    assert images(file) == ["a", "猫"]


def test_a_unicode_line_separator_in_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"image": "a\u2028b\x85c"}\n', "utf-8")
    assert images(file) == ["a\u2028b\x85c"]


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"3", b'"image"', b'{"picture": "a"}', b"\xff", b"[" * 100_000, b"\xef\xbb\xbf{}"]
)
def test_an_invalid_line_is_reported_by_number(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(b'{"image": "a"}\n\n' + line)
    with pytest.raises(InvalidSetting, match=r"data\.jsonl, line 3: not .* with image"):
        images(file)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_lines_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(InvalidSetting, match="is empty; it should hold JSON lines with image"):
        images(file)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        images(tmp_path / "missing.jsonl")
    with pytest.raises(InvalidSetting, match="cannot be read"):
        images(tmp_path)


@pytest.mark.parametrize("name", ["latin-\udcfc.jpg", "猫\u2028.jpg", 'a"b\\c\n.jpg'])
def test_a_written_line_is_utf_8_and_restores_the_name(tmp_path: Path, name: str) -> None:
    row: dict[str, Any] = {"image": name}
    line = json_line(row)
    assert "\n" not in line and ("猫" in line) == ("猫" in name)
    (tmp_path / "data.jsonl").write_bytes(line.encode("utf-8", "strict"))
    assert images(tmp_path / "data.jsonl") == [name]
    assert os.fsencode(json.loads(line)["image"]) == os.fsencode(name)
