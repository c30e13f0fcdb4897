"""A two-dimensional layout of embeddings, in which similar pictures are close to each other.

Sources: van der Maaten and Hinton, *Visualizing Data using t-SNE* (the layout); de Silva and Tenenbaum, *Sparse
multidimensional scaling using landmark points* (a sample is laid out, all others are interpolated).
Shapes: n pictures, E dimensions, m pictures that have coordinates.
"""

import numpy as np

from beholder.errors import MissingExtra

LANDMARKS = 2500  # pictures that t-SNE lays out, in about ten seconds
NUM_NEIGHBORS = 5  # between which a picture is interpolated
PCA_COMPONENTS = 50  # dimensions of the input of t-SNE
MIN_PICTURES = 4  # that t-SNE can lay out


def compute_layout(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return coordinates (n, 2) float32 within ±1 on both axes.

    Args:
        vectors: (n, E), unit length.
        seed: random seed.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    random = np.random.default_rng(seed)
    some = np.sort(random.choice(len(vectors), min(len(vectors), LANDMARKS), replace=False))
    places = np.zeros((len(vectors), 2), np.float32)
    places[some] = _tsne(vectors[some], seed)
    others = np.setdiff1d(np.arange(len(vectors)), some)
    places[others] = interpolate_layout(vectors[others], vectors[some], places[some], seed)
    return places


def interpolate_layout(vectors: np.ndarray, known: np.ndarray, places: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return coordinates (n, 2) for vectors (n, E), interpolated from vectors (m, E) with coordinates (m, 2)."""
    import faiss

    if not len(vectors) or not len(known):
        return np.zeros((len(vectors), 2), np.float32)
    cosines, rows = faiss.knn(vectors, known, min(NUM_NEIGHBORS, len(known)), metric=faiss.METRIC_INNER_PRODUCT)
    weights = np.exp((cosines - cosines[:, :1]) * 20)
    weights /= weights.sum(axis=1, keepdims=True)
    # The nearest neighbor decides the region: the mean of distant points would be near none of them.
    near = np.linalg.norm(places[rows] - places[rows[:, :1]], axis=2) < 0.15
    weights = weights * near / (weights * near).sum(axis=1, keepdims=True)
    jitter = np.random.default_rng(seed).normal(scale=0.004, size=(len(vectors), 2))
    return np.clip((weights[:, :, None] * places[rows]).sum(axis=1) + jitter, -1, 1).astype(np.float32)


def _tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra("a map", "cluster") from error
    if len(vectors) < MIN_PICTURES:
        angles = 2 * np.pi * np.arange(len(vectors)) / max(len(vectors), 1)
        return 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # the steps are short: on busy cores, synchronizing threads would take far longer
        reduced = PCA(min(PCA_COMPONENTS, *vectors.shape), random_state=seed).fit_transform(vectors)
        places = TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(reduced)
    center = (places.max(axis=0) + places.min(axis=0)) / 2
    return ((places - center) / max(float(np.abs(places - center).max()), 1e-6)).astype(np.float32)
