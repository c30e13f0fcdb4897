import csv
import json
from pathlib import Path

import pytest

import tiny_pairs
from beholder.errors import InvalidSetting
from beholder.training.examples import Columns, ExamplesWarning, check_distinguishable, read_examples, text_key


def read(path: Path, columns: Columns = Columns(), templates: tuple[str, ...] = ("a photo of a {}", "the {}")):  # noqa: B008
    return read_examples(path, columns, templates)


def test_a_json_line_holds_a_list_of_captions_or_a_single_caption(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"image": "x.jpg", "captions": ["one", "two"]}\n\n{"image": "sub/y.jpg", "caption": "three", "label": "3"}\n'
    )
    first, second = read(file)
    assert (first.label, second.label) == ("", "3")
    assert (first.name, first.picture, first.texts) == ("x.jpg", tmp_path / "x.jpg", ("one", "two"))
    assert (second.picture, second.texts) == (tmp_path / "sub" / "y.jpg", ("three",))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_columns_of_a_table_are_configurable(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        rows = csv.writer(out, delimiter="," if suffix == ".csv" else "\t")
        rows.writerows([["title", "filepath"], ['a "cat", sleeping', "x.jpg"], ["a dog", "x.jpg"]])
    found = read(file, Columns("filepath", "title"))
    assert [each.texts for each in found] == [('a "cat", sleeping',), ("a dog",)]
    with pytest.raises(InvalidSetting, match=r"no column caption and no column image.*title, filepath"):
        read(file)


def test_a_class_folder_gets_its_captions_from_templates(tmp_path: Path) -> None:
    for name in ("polar_bear", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    found = read(tmp_path)
    assert [(each.label, each.texts) for each in found] == [
        ("cat", ("a photo of a cat", "the cat")),
        ("polar bear", ("a photo of a polar bear", "the polar bear")),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"image": "x.jpg"}', "line 1"),
        ('{"image": "x.jpg", "captions": ["a"]}\nnonsense', "line 2"),
        ('{"image": "x.jpg", "captions": []}', "line 1"),
        ('{"image": "x.jpg", "captions": [3]}', "line 1"),
        ('{"image": "x.jpg", "captions": ["a"], "label": 3}', "line 1"),
        ('["x.jpg", "a cat"]', "line 1"),
    ],
)
def test_an_unusable_line_is_reported_by_its_number(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidSetting, match=message):
        read(file)


def test_missing_data_a_single_class_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="no such file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(InvalidSetting, match="holds no pictures"):
        read(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    with pytest.raises(InvalidSetting, match=r"one class \(cat\)"):
        read(tmp_path)
    (tmp_path / "a.xml").touch()
    with pytest.raises(InvalidSetting, match="is none of"):
        read(tmp_path / "a.xml")


def test_equivalent_texts_have_the_same_key() -> None:
    assert text_key("A  Cat ") == text_key("a cat") != text_key("a dog")
    assert text_key("a photo of a cat", "cat") == text_key("the cat", "cat") != text_key("a photo of a cat")


def test_the_tiny_pairs_are_readable_as_json_lines(tmp_path: Path) -> None:
    assert len(read(tiny_pairs.paint(tmp_path, 5))) == 5
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])["captions"]


ROWS = [("x.jpg", "a cat, asleep"), ("y.jpg", 'two lines\nand "quotes"'), ("z.jpg", "ein Bär")]


@pytest.mark.parametrize(
    ("delimiter", "line_end", "encoding", "first"),
    [
        (",", "\r\n", "utf-8-sig", ""),
        (";", "\r\n", "utf-8-sig", ""),
        ("\t", "\n", "utf-8", ""),
        ("\t", "\r\n", "utf-16", ""),
        (";", "\r\n", "utf-8", "sep=;\r\n"),
        (",", "\r", "utf-8", ""),
    ],
    ids=["comma", "semicolons", "tabs", "UTF-16", "sep=", "old Mac"],
)
def test_a_table_written_by_a_spreadsheet_is_read(
    tmp_path: Path, delimiter: str, line_end: str, encoding: str, first: str
) -> None:
    file = tmp_path / "a.csv"
    with file.open("w", newline="", encoding=encoding) as out:
        out.write(first)
        csv.writer(out, delimiter=delimiter, lineterminator=line_end).writerows([("image", "caption"), *ROWS])
    assert [(each.name, each.texts[0]) for each in read(file)] == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_lines_may_start_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"image": "x.jpg", "caption": "ein Bär"}\r\n{"image": "y.jpg", "caption": "b"}\r\n', encoding)
    assert [each.texts for each in read(file)] == [("ein Bär",), ("b",)]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('"a.jpg","one\ntwo"\n"b.jpg","c","d"\n', 4),
        ("a.jpg,one\n\nb.jpg,two, three\n", 4),
        ('a.jpg,one\nb.jpg,"' + "x" * 200_000 + '"\n', 3),
        ("a.jpg,one\nb.jpg,\xff\n", 3),
    ],
    ids=["after a quoted newline", "after an empty line", "too long", "not UTF-8"],
)
def test_an_invalid_line_of_a_table_is_reported_by_its_number(tmp_path: Path, rows: str, line: int) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(("image,caption\n" + rows).encode("latin-1"))
    with pytest.raises(InvalidSetting, match=rf"a\.csv, line {line}: "):
        read(file)


def test_rows_without_a_picture_or_a_caption_are_skipped_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('image,caption\na.jpg,"one\n1"\nb.jpg,\n,three\nd.jpg,four\n')
    with pytest.warns(ExamplesWarning, match=r"line 4, 5$"):
        assert [each.name for each in read(file)] == ["a.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "{n}.jpg", "caption": "A  cat"}, r"same caption \(A  cat\)"),
        ({"image": "{n}.jpg", "caption": "cat {n}", "label": "cat"}, r"same label \(cat\)"),
        ({"image": "1.jpg", "caption": "cat {n}"}, "same picture"),
    ],
    ids=["caption", "label", "picture"],
)
def test_data_without_contrast_is_refused(tmp_path: Path, row: dict[str, str], message: str) -> None:
    file = tmp_path / "a.jsonl"

    def line(number: int, **changed: str) -> str:
        return json.dumps({name: text.replace("{n}", str(number)) for name, text in {**row, **changed}.items()}) + "\n"

    file.write_text("".join(line(number) for number in range(4)))
    with pytest.raises(InvalidSetting, match=rf"a\.jsonl: all lines have the {message}.*nothing is learned"):
        check_distinguishable(read(file), str(file))
    file.write_text(file.read_text() + line(4, image="other.jpg", caption="a dog", label="dog"))
    check_distinguishable(read(file), str(file))
