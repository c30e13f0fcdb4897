import json
from pathlib import Path
from typing import Any

import pytest

from beholder.errors import InvalidSetting
from beholder.evaluation.data import (
    CaptionExample,
    LabeledExample,
    VQAExample,
    read_caption_examples,
    read_labeled_examples,
    read_vqa_examples,
)


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "data.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return file


def test_all_three_kinds_of_json_lines_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, {"image": "a/b.jpg", "captions": ["一只狗", "a dog"], "source": "x"}, "", "  ")
    assert read_caption_examples(file) == [CaptionExample(tmp_path / "a/b.jpg", ("一只狗", "a dog"))]
    rows = [{"image": "b.jpg", "question": "how many?", "answer": "2"}]
    rows.append({"image": "b.jpg", "question": "what?", "answers": ["a", "b"]})
    assert read_vqa_examples(write(tmp_path, *rows)) == [
        VQAExample(tmp_path / "b.jpg", "how many?", ("2",)),
        VQAExample(tmp_path / "b.jpg", "what?", ("a", "b")),
    ]
    file = write(tmp_path, {"image": "b.jpg", "label": "dog"}, {"image": "c.jpg", "label": "cat"})
    assert read_labeled_examples(file) == [
        LabeledExample(tmp_path / "b.jpg", "dog"),
        LabeledExample(tmp_path / "c.jpg", "cat"),
    ]


def test_a_class_folder_is_read(tmp_path: Path) -> None:
    for name in ("dog/2.jpg", "dog/1.png", "cat/deeper/3.jpg", "dog/notes.txt", ".hidden/4.jpg", "5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [
        (example.image.relative_to(tmp_path).as_posix(), example.label) for example in read_labeled_examples(tmp_path)
    ]
    assert found == [("cat/deeper/3.jpg", "cat"), ("dog/1.png", "dog"), ("dog/2.jpg", "dog")]


@pytest.mark.parametrize(
    "row",
    ["{", "[]", {"image": "a.jpg"}, {"captions": ["a"]}, {"image": 3, "captions": ["a"]}]
    + [{"image": "a.jpg", "captions": wrong} for wrong in ("a dog", [], [3], [""], None)],
)
def test_an_invalid_line_is_reported_by_its_number(tmp_path: Path, row: Any) -> None:
    file = write(tmp_path, {"image": "a.jpg", "captions": ["a"]}, row)
    with pytest.raises(InvalidSetting, match="line 2: not a JSON object with image and captions"):
        read_caption_examples(file)


@pytest.mark.parametrize("row", [{"image": "a", "question": "b"}, {"image": "a", "question": 1, "answer": "c"}])
def test_a_question_without_an_answer_is_refused(tmp_path: Path, row: Any) -> None:
    with pytest.raises(InvalidSetting, match="line 1: not a JSON object with image, question and answer"):
        read_vqa_examples(write(tmp_path, row))


def test_missing_data_is_reported_with_the_expected_format(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"missing\.jsonl: cannot be read .*JSON lines with image"):
        read_caption_examples(tmp_path / "missing.jsonl")
    with pytest.raises(InvalidSetting, match="is empty"):
        read_caption_examples(write(tmp_path, ""))
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSetting, match="not UTF-8"):
        read_vqa_examples(tmp_path / "data.jsonl")
    with pytest.raises(InvalidSetting, match="holds 1 classes"):
        read_labeled_examples(write(tmp_path, {"image": "b.jpg", "label": "dog"}))
    with pytest.raises(InvalidSetting, match="a folder of pictures for each class"):
        read_labeled_examples(tmp_path)
