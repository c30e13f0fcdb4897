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


def test_the_none_option_has_its_probability_by_bayes_theorem() -> None:
    [chosen] = choose_label(np.log([[1.0, 3.0]]), ["a", "b"], match=np.array([[0.5, 0.8]]))
    # odds 1 and 4; 1/3 · 1 against 2/3 · (1 + 4) / 2 = 5/3
    assert chosen == [("b", pytest.approx(5 / 8)), ("a", pytest.approx(5 / 24)), (NONE, pytest.approx(1 / 6))]


def test_of_many_labels_one_has_to_match_better() -> None:
    shares = []
    for unrelated in (1, 100):
        logits, match = np.zeros((1, 1 + unrelated)), np.full((1, 1 + unrelated), 0.01)
        logits[0, 0], match[0, 0] = 9.0, 0.95
        shares.append(dict(choose_label(logits, [str(number) for number in range(1 + unrelated)], match)[0])[NONE])
    assert shares[0] < 0.1 and shares[1] > 0.7
    certain = choose_label(np.zeros((1, 1)), ["a"], match=np.ones((1, 1), np.float32))
    assert certain[0][0] == ("a", pytest.approx(1.0))


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
