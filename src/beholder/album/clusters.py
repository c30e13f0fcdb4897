"""Clusters of pictures, each with a name.

Shapes: n pictures, E dimensions, C clusters, L candidate names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beholder.album.picture import Picture
from beholder.album.search import STOP_WORDS
from beholder.errors import InvalidSetting, MissingExtra
from beholder.text.templates import fill_templates

NOISE = -1  # label of pictures that belong to no cluster
EVERYDAY = Path(__file__).parent / "everyday_words.txt"
SAMPLE = 10_000  # pictures that are clustered; all others are assigned to the cluster of their nearest neighbor


@dataclass(frozen=True)
class Cluster:
    """A cluster of rows, the most typical first.

    Attributes:
        number: 0 for the largest; `NOISE`, which comes last, for rows that belong to none.
        name: unique, or "in no group".
        keywords: the given keywords that distinguish this cluster most, in descending order.
        rows: of the embeddings.
    """

    number: int
    name: str
    keywords: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class PictureCluster:
    """A cluster of an album's pictures, the most typical first; otherwise as `Cluster`."""

    number: int
    name: str
    keywords: tuple[str, ...]
    pictures: tuple[Picture, ...]


def find_clusters(
    vectors: np.ndarray,
    captions: Sequence[str | None],
    embed: Callable[[list[str]], np.ndarray],
    clusters: int | None,
    keywords: Sequence[str] = (),
    seed: int = 0,
) -> list[Cluster]:
    """Cluster embeddings and name the clusters by keywords; without any, by captions or a list of everyday words.

    Args:
        vectors: embeddings (n, E), unit length.
        captions: n of them.
        embed: texts to embeddings (L, E).
        clusters: number of clusters; None lets HDBSCAN determine it.
        keywords: candidate names.
        seed: random seed.

    Raises:
        InvalidSetting: there are fewer pictures than clusters.
        MissingExtra: scikit-learn is not installed.
    """
    return name_clusters(cluster(vectors, clusters, seed), vectors, captions, embed, keywords)


def name_clusters(
    found: np.ndarray,
    vectors: np.ndarray,
    captions: Sequence[str | None],
    embed: Callable[[list[str]], np.ndarray],
    keywords: Sequence[str] = (),
) -> list[Cluster]:
    """Name clusters given by their labels (n,); otherwise as `find_clusters`."""
    owned: dict[int, list[str]] = {}
    if keywords:
        words = embed(fill_templates(["a photo of a {}"], keywords))
        named = names_by_words(vectors, found, keywords, words)
        owned = keywords_by_cluster(vectors, found, keywords, words)
    elif any(captions):
        named = names_by_captions(captions, found)
    else:
        everyday = everyday_words()
        named = names_by_words(vectors, found, everyday, embed(fill_templates(["a photo of {}"], everyday)))
    made = []
    for number in sorted(set(found.tolist()), key=lambda number: (number == NOISE, number)):
        rows = np.flatnonzero(found == number)
        typical = rows[np.argsort(-(vectors[rows] @ vectors[rows].mean(axis=0)), kind="stable")]
        name = named.get(number, "in no group")
        made.append(Cluster(number, name, tuple(owned.get(number, ())), tuple(typical.tolist())))
    return made


def cluster(vectors: np.ndarray, clusters: int | None, seed: int = 0) -> np.ndarray:
    """Return the label (n,) of each picture's cluster, 0 for the largest, `NOISE` for none.

    Args:
        vectors: embeddings (n, E), unit length.
        clusters: number of clusters for k-means; None lets HDBSCAN determine it.
        seed: random seed of k-means.

    Raises:
        InvalidSetting: there are fewer pictures than clusters.
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import HDBSCAN, KMeans
    except ImportError as error:
        raise MissingExtra("clustering", "cluster") from error
    if len(vectors) > SAMPLE and (clusters is None or clusters <= SAMPLE):
        return _cluster_by_sample(vectors, clusters, seed)
    if clusters is not None and not 1 <= clusters <= len(vectors):
        raise InvalidSetting(f"{clusters} clusters of {len(vectors)} pictures: choose 1 to {len(vectors)}")
    if clusters is None:
        if len(vectors) < 5:
            return np.zeros(len(vectors), np.int64)
        least = max(3, len(vectors) // 100)
        found = HDBSCAN(min_cluster_size=least, min_samples=2, copy=True).fit_predict(vectors)
    else:
        found = KMeans(clusters, n_init=4, random_state=seed).fit_predict(vectors)
    return _largest_first(found)


def _cluster_by_sample(vectors: np.ndarray, clusters: int | None, seed: int) -> np.ndarray:
    """Cluster a sample and give every vector the label of its nearest neighbor in the sample."""
    import faiss

    some = np.sort(np.random.default_rng(seed).choice(len(vectors), SAMPLE, replace=False))
    found = cluster(vectors[some], clusters, seed)
    nearest = faiss.knn(vectors, vectors[some], 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    return _largest_first(found[nearest])


def _largest_first(found: np.ndarray) -> np.ndarray:
    sizes = Counter(found[found != NOISE].tolist())
    order = {old: new for new, (old, _) in enumerate(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))}
    return np.array([order.get(int(old), NOISE) for old in found], np.int64)


def names_by_words(vectors: np.ndarray, found: np.ndarray, names: Sequence[str], words: np.ndarray) -> dict[int, str]:
    """Return for each cluster the name that distinguishes it most from other pictures; no name is used twice.

    Args:
        vectors: embeddings (n, E), unit length.
        found: labels (n,).
        names: L candidates.
        words: their embeddings (L, E).
    """
    labels, scores = _distinctiveness(vectors, found, words)
    chosen: dict[int, str] = {}
    taken: set[int] = set()
    for place in np.argsort(-scores, axis=None, kind="stable"):
        row, column = divmod(int(place), len(names))
        if labels[row] not in chosen and column not in taken:
            chosen[labels[row]] = names[column]
            taken.add(column)
    for label in labels:  # more clusters than names
        chosen.setdefault(label, f"group {label + 1}")
    return chosen


def keywords_by_cluster(
    vectors: np.ndarray, found: np.ndarray, names: Sequence[str], words: np.ndarray
) -> dict[int, list[str]]:
    """Return for each cluster the names that distinguish it more than any other cluster; as `names_by_words`."""
    labels, scores = _distinctiveness(vectors, found, words)
    owned: dict[int, list[tuple[float, str]]] = {}
    for column, row in enumerate(scores.argmax(axis=0) if labels else ()):
        owned.setdefault(labels[row], []).append((-float(scores[row, column]), names[column]))
    return {label: [name for _, name in sorted(pairs)] for label, pairs in owned.items()}


def _distinctiveness(vectors: np.ndarray, found: np.ndarray, words: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the labels, and by how many standard deviations each word distinguishes each cluster: (C, L)."""
    cosines = vectors @ words.T  # (n, L)
    spread = np.maximum(cosines.std(axis=0), 1e-6)
    labels = sorted(set(found.tolist()) - {NOISE})
    if len(labels) == 1:
        return labels, cosines[found == labels[0]].mean(axis=0, keepdims=True)
    rows = [(cosines[found == label].mean(axis=0) - cosines.mean(axis=0)) / spread for label in labels]
    return labels, np.stack(rows) if rows else np.zeros((0, len(words)))


def names_by_captions(captions: Sequence[str | None], found: np.ndarray) -> dict[int, str]:
    """Return for each cluster the two words of its captions with the highest tf-idf over clusters."""
    labels = sorted(set(found.tolist()) - {NOISE})
    within: dict[int, Counter[str]] = {label: Counter() for label in labels}
    for caption, label in zip(captions, found.tolist(), strict=True):
        if label != NOISE and caption:
            words = set(re.findall(r"\w+", caption.casefold())) - STOP_WORDS
            within[label].update(words)
    everywhere = Counter(word for counts in within.values() for word in counts)
    named = {}
    for label in labels:
        weight = {word: count * np.log(1 + len(labels) / everywhere[word]) for word, count in within[label].items()}
        best = sorted(weight, key=lambda word: (-weight[word], word))[:2]
        named[label] = " ".join(best) or f"group {label + 1}"
    return named


def everyday_words() -> list[str]:
    """Return the candidate names used when none are given."""
    return EVERYDAY.read_text("utf-8").split("\n")[:-1]
