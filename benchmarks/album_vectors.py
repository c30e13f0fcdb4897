"""Synthetic vectors that are distributed like an album's: hierarchically clustered, with a decaying spectrum.

Measurements on noise say little: noise has no neighbors, and pictures do. The parameters follow `mini`'s vectors of
photographs and captions: photographs have an intrinsic dimension of about 16 (TwoNN), their spectrum decays like
`SPECTRUM`, and the nearest of a few hundred others has a cosine of about 0.6.
"""

import numpy as np

SPECTRUM = (0.6, 60.0)  # variance of the i-th principal direction: i ** -0.6, with exponential decay over 60
THEME, SCENE, PICTURE, SENTENCE = 0.55, 0.6, 0.58, 0.9  # spread of each level within its parent
PICTURES_A_SCENE, SCENES_A_THEME = 40, 60
GAP = 0.3  # length of the offset between sentences and pictures


class AlbumVectors:
    """Samples vectors (n, E); the same seed gives the same themes and scenes.

    Args:
        count: number of pictures.
        dimensions: E.
        seed: random seed.
    """

    def __init__(self, count: int, dimensions: int, seed: int = 0):
        self.random = np.random.default_rng(seed)
        order = np.arange(1, dimensions + 1, dtype=np.float32)
        variance = order ** -SPECTRUM[0] * np.exp(-order / SPECTRUM[1])
        self.scale = np.sqrt(variance / variance.sum()).astype(np.float32)
        # An inverted file partitions space by distance alone, so no random rotation is needed.
        scenes = max(count // PICTURES_A_SCENE, 1)
        themes = max(scenes // SCENES_A_THEME, 1)
        self.scenes = THEME * self._drawn(themes)[self._often(themes, scenes)] + SCENE * self._drawn(scenes)
        gap = self._drawn(1)[0]
        self.gap = GAP * gap / np.linalg.norm(gap)

    def pictures(self, count: int) -> np.ndarray:
        """Sample (count, E) float16 at unit length; some scenes have thousands of pictures, most a few."""
        made = np.empty((count, len(self.scale)), np.float16)
        for start in range(0, count, 50_000):
            some = self.scenes[self._often(len(self.scenes), min(50_000, count - start))]
            made[start : start + len(some)] = self._unit(some + PICTURE * self._drawn(len(some)))
        return made

    def sentences(self, count: int) -> np.ndarray:
        """Sample (count, E) float32 at unit length: about scenes, with a modality gap to the pictures."""
        some = self.scenes[self.random.integers(0, len(self.scenes), count)]
        return self._unit(some + SENTENCE * self._drawn(count) + self.gap)

    def _drawn(self, count: int) -> np.ndarray:
        return self.random.standard_normal((count, len(self.scale)), dtype=np.float32) * self.scale

    def _often(self, kinds: int, count: int) -> np.ndarray:
        """Sample the class of each item from a Zipf distribution."""
        share = 1 / np.arange(10, kinds + 10) ** 0.7
        return np.searchsorted(np.cumsum(share / share.sum()), self.random.random(count)).clip(max=kinds - 1)

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
