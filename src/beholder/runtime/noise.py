"""The normal random numbers of `torch.randn` on the CPU, up to rounding and without torch: a seed means the same noise.

PyTorch draws single precision numbers in groups of 16 by the Box-Muller transform, from the Mersenne Twister
(`normal_fill` in ATen/native/cpu/DistributionTemplates.h), and fewer than 16 one by one in double precision
(`normal_distribution` in ATen/core/DistributionsHelper.h).
"""

import numpy as np

GROUP = 16
FLOAT_BITS, DOUBLE_BITS = 24, 53  # of a mantissa


class TorchGenerator:
    """Draws what `torch.randn` draws with a ``torch.Generator`` of the same seed.

    Args:
        seed: of which, as in torch, the lower 32 bits count.
    """

    def __init__(self, seed: int):
        self.twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def randn(self, *shape: int) -> np.ndarray:
        """Return standard normal numbers, float32.

        After an odd number below 16, torch keeps one back for its next call; here it is lost.
        """
        count = int(np.prod(shape))
        if count < GROUP:
            return self._few(count).astype(np.float32).reshape(shape)
        uniform = self._uniform(count)
        whole = count // GROUP * GROUP
        drawn = _box_muller(uniform[:whole])
        if whole < count:  # the last 16 are drawn once more
            drawn = np.concatenate([drawn, np.empty(count - whole, np.float32)])
            drawn[-GROUP:] = _box_muller(self._uniform(GROUP))
        return drawn.reshape(shape)

    def _integers(self, count: int) -> np.ndarray:
        return self.twister.randint(0, 2**32, count, np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        mantissas = self._integers(count) & np.uint32(2**FLOAT_BITS - 1)
        return mantissas.astype(np.float32) * np.float32(2.0**-FLOAT_BITS)

    def _few(self, count: int) -> np.ndarray:
        pairs = (count + 1) // 2
        words = self._integers(4 * pairs).astype(np.uint64).reshape(-1, 2)
        mantissas = (words[:, 0] << np.uint64(32) | words[:, 1]) & np.uint64(2**DOUBLE_BITS - 1)
        angles, radii = (mantissas * 2.0**-DOUBLE_BITS).reshape(pairs, 2).T
        radii, angles = np.sqrt(-2 * np.log1p(-radii)), 2 * np.pi * angles
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1).reshape(-1)[:count]


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Uniform numbers (16 · n,) in [0, 1) → normal ones, each group from its two halves."""
    halves = uniform.reshape(-1, 2, GROUP // 2)
    radii = np.sqrt(-2 * np.log(1 - halves[:, 0]))
    angles = np.float32(2 * np.pi) * halves[:, 1]
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1).reshape(-1)
