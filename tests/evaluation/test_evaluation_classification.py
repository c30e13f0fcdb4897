import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from beholder.evaluation.classification import accuracy_metric, confusion_counts, label_ranks


def some(pictures: int, labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, labels - 1, pictures)  # the last label has no picture
    scores = generator.normal(size=(pictures, labels))
    scores[np.arange(pictures), truth] += 1
    return scores, truth


@pytest.mark.parametrize(("pictures", "labels"), [(200, 12), (31, 6), (40, 3)])
def test_the_metrics_equal_those_of_scikit_learn(pictures: int, labels: int) -> None:
    scores, truth = some(pictures, labels, seed=pictures)
    measured = accuracy_metric(scores, truth)(np.ones((1, pictures)))
    expected = {
        "top1": accuracy_score(truth, scores.argmax(1)),
        "mean_per_class": balanced_accuracy_score(truth, scores.argmax(1)),
    }
    if labels > 5:
        expected["top5"] = top_k_accuracy_score(truth, scores, k=5, labels=range(labels))
    assert {name: float(value[0]) for name, value in measured.items()} == pytest.approx(expected, abs=1e-6)


def test_a_resample_scores_like_repeated_pictures() -> None:
    scores, truth = some(60, 7, seed=2)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=3)
    measured = accuracy_metric(scores, truth)(counts.astype(float))
    for number, count in enumerate(counts):
        rows = np.repeat(np.arange(60), count)
        assert measured["top1"][number] == pytest.approx(accuracy_score(truth[rows], scores[rows].argmax(1)))
        balanced = balanced_accuracy_score(truth[rows], scores[rows].argmax(1))
        assert measured["mean_per_class"][number] == pytest.approx(balanced)


def test_the_confusion_matrix_equals_that_of_scikit_learn() -> None:
    scores, truth = some(100, 5, seed=3)
    names = ["a", "b", "c", "d", "e"]
    found = confusion_counts(scores.argmax(1), truth, names)
    matrix = confusion_matrix(truth, scores.argmax(1), labels=range(5))
    assert [[found.get(row, {}).get(column, 0) for column in names] for row in names] == matrix.tolist()
    assert "e" not in found
    assert all(list(row.values()) == sorted(row.values(), reverse=True) for row in found.values())


def test_a_tie_counts_as_an_error() -> None:
    assert label_ranks(np.array([[1.0, 1.0, 0.0], [1.0, 0.5, 0.5]]), np.array([0, 0])).tolist() == [1, 0]
