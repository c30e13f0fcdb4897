"""Examples with labels are evaluated by accuracy, those with captions by recall."""

from pathlib import Path

import pytest
import torch

import tiny_model
import tiny_pairs
from beholder.errors import InvalidSetting
from beholder.training.examples import Columns, Example, read_examples
from beholder.training.validation import evaluate_model

CPU = torch.device("cpu")


def examples(folder: Path, labeled: set[int], count: int = 6) -> list[Example]:
    found = read_examples(tiny_pairs.paint(folder, count), Columns(), ("{}",))
    return [
        Example(each.name, each.picture, each.texts, f"class {row % 2}" if row in labeled else "")
        for row, each in enumerate(found)
    ]


@pytest.mark.parametrize("labeled", [set(), {0, 1}, {3, 4, 5}, set(range(6))], ids=["none", "first", "last", "all"])
def test_labeled_examples_are_evaluated_by_accuracy_and_the_others_by_recall(tmp_path: Path, labeled: set[int]) -> None:
    found = examples(tmp_path, labeled)
    loaded = tiny_model.build()
    metrics, score = evaluate_model(loaded, found, ("a {}",), CPU)
    assert ("accuracy" in metrics) == bool(labeled)
    assert ("text_to_image@1" in metrics) == (len(labeled) < len(found))
    expected = 0.0
    for kind in (True, False):
        part = [each for each in found if bool(each.label) == kind]
        if part:
            expected += evaluate_model(loaded, part, ("a {}",), CPU)[1] * len(part) / len(found)
    assert score == pytest.approx(expected)


def test_evaluation_without_readable_pictures_is_an_error(tmp_path: Path) -> None:
    found = [Example("none.jpg", tmp_path / "none.jpg", ("a",))]
    with pytest.raises(InvalidSetting, match="none of its pictures can be read"):
        evaluate_model(tiny_model.build(), found, ("{}",), CPU)
