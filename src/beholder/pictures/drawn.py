"""Pictures that a network drew: from its pixels, on a sheet, and in files. Shapes: B batch, S side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from beholder.files import atomic_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def to_pictures(pixels: "np.typing.ArrayLike") -> list[Image.Image]:
    """Convert pixels (B, 3, S, S) between -1 and 1, an array or a tensor on the CPU, to pictures."""
    values = np.asarray(pixels, np.float32).transpose(0, 2, 3, 1)
    return [Image.fromarray(each) for each in np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)]


def contact_sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Put pictures of one size on a sheet, row by row; by default as near to a square as their number allows."""
    width, height = pictures[0].size
    columns = math.ceil(len(pictures) ** 0.5) if columns is None else columns
    sheet = Image.new(
        "RGB", (min(columns, len(pictures)) * width, math.ceil(len(pictures) / columns) * height), "white"
    )
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def write_picture(path: Path, picture: Image.Image, metadata: Mapping[str, str]) -> None:
    """Write a picture atomically; its metadata become text chunks of a PNG, and are left out of other formats.

    Raises:
        OSError: it can't be written.
    """
    options: dict[str, object] = {}
    if path.suffix.lower() == ".png":
        chunks = PngInfo()
        for name, value in metadata.items():
            chunks.add_itxt(name, value)
        options["pnginfo"] = chunks
    with atomic_file(path) as scratch:
        picture.save(scratch, **options)  # type: ignore[arg-type]
