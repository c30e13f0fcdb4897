"""Pictures as patches, as many as fit into a fixed number: the aspect ratio is kept, and nothing is cropped.

Source: the NaFlex variant of SigLIP 2 (arXiv:2502.14786, section 2.4.2), after NaViT (arXiv:2307.06304).
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from beholder.pictures.transform import Interpolation, check_choice, check_positive, normalize, three_numbers

MARKS = 2  # values after those of a patch: 1 for a patch and 0 for padding; 1 for the first patch of a row
LARGEST_SCALE = 100.0  # by which a picture is enlarged
SCALE_STEP = 1e-5  # to which the scale is found


@dataclass(frozen=True)
class NaFlexPreprocessing:
    """The preprocessing of a network that takes patches of variable resolution.

    Args:
        patch_size: Side of a patch in pixels.
        max_num_patches: Number of patches that every picture is padded to.
        interpolation: Name of a Pillow resampling filter (antialiased).
        mean: Per channel, for values in 0..1, as in `beholder.pictures.transform.Preprocessing`.
        std: Per channel, for values in 0..1.
    """

    patch_size: int = 16
    max_num_patches: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Validate the values and convert lists, as loaded from JSON, to tuples."""
        for setting in ("patch_size", "max_num_patches"):
            check_positive(setting, getattr(self, setting))
        check_choice("interpolation", self.interpolation, Interpolation)
        for setting in ("mean", "std"):
            object.__setattr__(self, setting, three_numbers(setting, getattr(self, setting)))

    @property
    def shorter_side(self) -> int:
        """The maximum length of the shorter side after resizing: that of a square picture."""
        return self.patch_size * math.isqrt(self.max_num_patches)

    def patch_grid(self, width: int, height: int) -> tuple[int, int]:
        """Return (h, w), rows and columns of the patches of a picture of this size.

        The picture is scaled as far up as the number of patches allows, then stretched to whole patches.
        """
        fitting, too_large = SCALE_STEP / 10, LARGEST_SCALE
        while too_large - fitting >= SCALE_STEP:
            scale = (fitting + too_large) / 2
            rows, columns = self._grid_at(scale, width, height)
            if rows * columns <= self.max_num_patches:
                fitting = scale
            else:
                too_large = scale
        return self._grid_at(fitting, width, height)

    def _grid_at(self, scale: float, width: int, height: int) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / self.patch_size)) for side in (height, width))
        return rows, columns


def to_patches(picture: Image.Image, preprocessing: NaFlexPreprocessing) -> np.ndarray:
    """Cut a picture into normalized patches.

    Matches transformers' ``Siglip2ImageProcessorPil``.

    Args:
        picture: An image of mode RGB, as returned by ``read_picture``.
        preprocessing: The preprocessing of the network.

    Returns:
        float32 array (N, 3 P² + 2), as `mark_patches` returns it.
    """
    size = preprocessing.patch_size
    rows, columns = preprocessing.patch_grid(*picture.size)
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    resized = np.asarray(picture.resize((columns * size, rows * size), resampling))
    pixels = normalize(resized, preprocessing.mean, preprocessing.std)  # (3, h P, w P)
    patches = pixels.reshape(3, rows, size, columns, size).transpose(1, 3, 2, 4, 0)  # (h, w, P, P, 3)
    return mark_patches(patches.reshape(rows * columns, -1), columns, preprocessing.max_num_patches)


def mark_patches(patches: np.ndarray, columns: int, max_num_patches: int) -> np.ndarray:
    """Pad the patches of a picture and mark where they lie, so that one array holds all that a network needs.

    The marks are 0 and 1, which every floating-point type represents exactly.

    Args:
        patches: (h · w, 3 P²), row by row.
        columns: w.
        max_num_patches: N.

    Returns:
        float32 array (N, 3 P² + 2): the patches, each followed by 1 and by whether it is the first of its row; then
        padding, all zeros.
    """
    count, values = patches.shape
    marked = np.zeros((max_num_patches, values + MARKS), np.float32)
    marked[:count, :values] = patches
    marked[:count, values] = 1
    marked[:count:columns, values + 1] = 1
    return marked


def spatial_shapes(marked: np.ndarray) -> np.ndarray:
    """Return rows and columns of marked patches: (B, N, 3 P² + 2) → int64 (B, 2)."""
    counts, rows = marked[..., -2].sum(-1), marked[..., -1].sum(-1)
    return np.stack([rows, counts / rows], axis=-1).astype(np.int64)
