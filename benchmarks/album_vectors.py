"""Vectors as an album holds them, drawn: in groups of groups, and with most of their spread along few directions.

What is measured on noise says little: noise has no neighbours, and pictures do. The numbers follow `mini`'s vectors of
photographs and captions: photographs have an intrinsic dimension of about 16 (TwoNN), their variance falls off as
`SPECTRUM` says, and the nearest of some hundreds of others has a cosine of about 0.6.
"""

import numpy as np

SPECTRUM = (0.6, 60.0)  # variance of the i-th direction: i ** -0.6, falling off by e every 60
THEME, SCENE, PICTURE, SENTENCE = 0.55, 0.6, 0.58, 0.9  # how far each varies within what is above it
PICTURES_A_SCENE, SCENES_A_THEME = 40, 60
GAP = 0.3  # length of what sets all sentences apart from all pictures


class AlbumVectors:
    """Draws vectors (n, E) of one world: the same seed gives the same themes and scenes.

    Args:
        count: pictures there will be.
        dimensions: E.
        seed: of everything.
    """

    def __init__(self, count: int, dimensions: int, seed: int = 0):
        self.random = np.random.default_rng(seed)
        order = np.arange(1, dimensions + 1, dtype=np.float32)
        variance = order ** -SPECTRUM[0] * np.exp(-order / SPECTRUM[1])
        self.scale = np.sqrt(variance / variance.sum()).astype(np.float32)
        # An inverted file splits space by distance alone, so the axes need not be turned at random.
        scenes = max(count // PICTURES_A_SCENE, 1)
        themes = max(scenes // SCENES_A_THEME, 1)
        self.scenes = THEME * self._drawn(themes)[self._often(themes, scenes)] + SCENE * self._drawn(scenes)
        gap = self._drawn(1)[0]
        self.gap = GAP * gap / np.linalg.norm(gap)

    def pictures(self, count: int) -> np.ndarray:
        """(count, E) float16, unit length; some scenes have thousands of pictures, most a few."""
        made = np.empty((count, len(self.scale)), np.float16)
        for start in range(0, count, 50_000):
            some = self.scenes[self._often(len(self.scenes), min(50_000, count - start))]
            made[start : start + len(some)] = self._unit(some + PICTURE * self._drawn(len(some)))
        return made

    def sentences(self, count: int) -> np.ndarray:
        """(count, E) float32, unit length: about scenes, and apart from the pictures."""
        some = self.scenes[self.random.integers(0, len(self.scenes), count)]
        return self._unit(some + SENTENCE * self._drawn(count) + self.gap)

    def _drawn(self, count: int) -> np.ndarray:
        return self.random.standard_normal((count, len(self.scale)), dtype=np.float32) * self.scale

    def _often(self, kinds: int, count: int) -> np.ndarray:
        """Which of some kinds each of so many is of: the first are far more frequent than the last (Zipf)."""
        share = 1 / np.arange(10, kinds + 10) ** 0.7
        return np.searchsorted(np.cumsum(share / share.sum()), self.random.random(count)).clip(max=kinds - 1)

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
