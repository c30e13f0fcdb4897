import numpy as np
import pytest

from beholder.errors import InvalidSetting
from beholder.evaluation.retrieval import recall, recall_metric, retrieval_ranks


def literal_recall(images: np.ndarray, texts: np.ndarray, owner: np.ndarray, k: int) -> tuple[float, float]:
    """Compute recall literally: sort by score with ties before the correct item, and check the first k."""
    hits = 0
    for text, own in zip(texts, owner, strict=True):
        order = sorted(range(len(images)), key=lambda row: (-float(images[row] @ text), row == own))
        hits += int(own) in order[:k]
    found = 0
    for row, image in enumerate(images):
        order = sorted(range(len(texts)), key=lambda other: (-float(image @ texts[other]), owner[other] == row))
        found += any(owner[other] == row for other in order[:k])
    return hits / len(texts), found / len(images)


@pytest.mark.parametrize("seed", range(5))
def test_recall_equals_a_literal_implementation(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(-2, 3, (12, 3)).astype(np.float64)  # integers, so that many scores tie
    owner = np.concatenate([np.arange(12), random.integers(0, 12, 20)])
    texts = random.integers(-2, 3, (32, 3)).astype(np.float64)
    found = recall(images, texts, owner, ks=(1, 3, 10))
    assert list(found) == [f"{way}@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 3, 10)]
    for k in (1, 3, 10):
        expected = literal_recall(images, texts, owner, k)
        assert (found[f"text_to_image@{k}"], found[f"image_to_text@{k}"]) == pytest.approx(expected)


def test_perfect_embeddings_have_a_recall_of_one_and_shifted_ones_of_zero() -> None:
    same = np.eye(4)
    assert set(recall(same, same, np.arange(4), ks=(1,)).values()) == {1.0}
    assert set(recall(same, np.roll(same, 1, axis=0), np.arange(4), ks=(1,)).values()) == {0.0}


def test_identical_embeddings_have_a_recall_at_1_of_zero() -> None:
    same = np.ones((4, 2))
    found = recall(same, same, np.arange(4), ks=(1, 3, 4))
    assert list(found.values()) == [0, 0, 1, 0, 0, 1]


def test_image_to_text_recall_uses_the_best_of_a_pictures_captions() -> None:
    images = np.eye(2)
    texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.9]])  # the second caption of picture 0 fits picture 1
    found = recall(images, texts, np.array([0, 0, 1]), ks=(1, 2))
    assert found == {
        "text_to_image@1": pytest.approx(2 / 3),
        "text_to_image@2": 1.0,
        "image_to_text@1": 0.5,
        "image_to_text@2": 1.0,
    }


def test_the_ranks_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    images, texts = generator.normal(size=(40, 8)), generator.normal(size=(90, 8))
    owner = np.r_[np.arange(40), generator.integers(0, 40, 50)]
    whole = retrieval_ranks(images, texts, owner)
    monkeypatch.setattr("beholder.evaluation.retrieval.MAX_SCORES", 100)
    for part, expected in zip(retrieval_ranks(images, texts, owner), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("owner", [[0, 0, 2], [0, 1], [0, 1, 3]])
def test_a_picture_without_a_caption_is_refused(owner: list[int]) -> None:
    with pytest.raises(InvalidSetting, match="each text needs an image"):
        recall(np.eye(3), np.eye(3), np.array(owner))


def test_a_resample_of_pictures_includes_their_captions() -> None:
    measure = recall_metric(np.array([0, 0, 3, 9]), np.array([0, 2]), np.array([0, 0, 0, 1]), ks=(1,))
    measured = measure(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(measured["text_to_image@1"], [2 / 4, 2 / 3, 0])
    np.testing.assert_allclose(measured["image_to_text@1"], [1 / 2, 1, 0])
