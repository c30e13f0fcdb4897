import numpy as np
import pytest

from beholder.errors import InvalidSetting
from beholder.tasks.classify import NONE, choose_label, label_prompts, rank_labels


def test_single_label_probabilities_are_a_softmax_in_descending_order() -> None:
    [chosen] = choose_label(np.log([[1.0, 3.0, 4.0]]), ["a", "b", "c"])
    assert [label for label, _ in chosen] == ["c", "b", "a"]
    assert [share for _, share in chosen] == pytest.approx([0.5, 0.375, 0.125])


def test_large_logits_do_not_overflow() -> None:
    [chosen] = choose_label(np.array([[1e4, 1e4 - 1, -1e4]], np.float32), ["a", "b", "c"])
    assert [share for _, share in chosen] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0])


def test_the_none_option_has_the_probability_that_the_best_label_does_not_match() -> None:
    [chosen] = choose_label(np.log([[1.0, 3.0]]), ["a", "b"], match=np.array([[0.1, 0.4]]))
    assert chosen == [(NONE, pytest.approx(0.6)), ("b", pytest.approx(0.3)), ("a", pytest.approx(0.1))]


def test_multi_label_probabilities_are_independent() -> None:
    assert rank_labels(np.array([[0.2, 0.9], [0.8, 0.1]]), ["a", "b"]) == [
        [("b", 0.9), ("a", 0.2)],
        [("a", 0.8), ("b", 0.1)],
    ]


def test_tied_labels_stay_in_the_given_order() -> None:
    assert [label for label, _ in choose_label(np.zeros((1, 4)), ["d", "b", "a", "c"])[0]] == ["d", "b", "a", "c"]


def test_the_prompts_are_grouped_by_label() -> None:
    assert label_prompts(["cat", "dog"], ["a {}", "two {}"]) == ["a cat", "two cat", "a dog", "two dog"]


@pytest.mark.parametrize("labels", [[], (), "cat"])
def test_labels_must_be_a_list_that_is_not_empty(labels: object) -> None:
    with pytest.raises(InvalidSetting, match="label"):
        label_prompts(labels, ["a {}"])  # type: ignore[arg-type]
