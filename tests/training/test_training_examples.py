import csv
import json
from pathlib import Path

import pytest

import tiny_pairs
from beholder.errors import InvalidSetting
from beholder.training.examples import Columns, read_examples, text_key


def read(path: Path, columns: Columns = Columns(), templates: tuple[str, ...] = ("a photo of a {}", "the {}")):  # noqa: B008
    return read_examples(path, columns, templates)


def test_json_lines_hold_captions_or_one_caption(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"image": "x.jpg", "captions": ["one", "two"]}\n\n{"image": "sub/y.jpg", "caption": "three", "label": "3"}\n'
    )
    first, second = read(file)
    assert (first.label, second.label) == ("", "3")
    assert (first.name, first.picture, first.texts) == ("x.jpg", tmp_path / "x.jpg", ("one", "two"))
    assert (second.picture, second.texts) == (tmp_path / "sub" / "y.jpg", ("three",))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_has_a_header_whose_names_can_be_told(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        rows = csv.writer(out, delimiter="," if suffix == ".csv" else "\t")
        rows.writerows([["title", "filepath"], ['a "cat", sleeping', "x.jpg"], ["a dog", "x.jpg"]])
    found = read(file, Columns("filepath", "title"))
    assert [each.texts for each in found] == [('a "cat", sleeping',), ("a dog",)]
    with pytest.raises(InvalidSetting, match=r"no column caption and no column image.*title, filepath"):
        read(file)


def test_a_folder_of_classes_speaks_through_templates(tmp_path: Path) -> None:
    for name in ("polar_bear", "cat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    found = read(tmp_path)
    assert [(each.label, each.texts) for each in found] == [
        ("cat", ("a photo of a cat", "the cat")),
        ("polar bear", ("a photo of a polar bear", "the polar bear")),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no pictures"),
        ('{"image": "x.jpg"}', "line 1"),
        ('{"image": "x.jpg", "captions": ["a"]}\nnonsense', "line 2"),
        ('{"image": "x.jpg", "captions": []}', "line 1"),
        ('{"image": "x.jpg", "captions": [3]}', "line 1"),
        ('{"image": "x.jpg", "captions": ["a"], "label": 3}', "line 1"),
        ('["x.jpg", "a cat"]', "line 1"),
    ],
)
def test_lines_that_can_not_be_used_are_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidSetting, match=said):
        read(file)


def test_nothing_there_one_class_and_unknown_files_are_refused(tmp_path: Path) -> None:
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


def test_texts_that_say_the_same_have_the_same_key() -> None:
    assert text_key("A  Cat ") == text_key("a cat") != text_key("a dog")
    assert text_key("a photo of a cat", "cat") == text_key("the cat", "cat") != text_key("a photo of a cat")


def test_the_pictures_of_the_tests_are_such_lines(tmp_path: Path) -> None:
    assert len(read(tiny_pairs.paint(tmp_path, 5))) == 5
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])["captions"]
