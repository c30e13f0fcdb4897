"""Pictures that a network drew: pixels, sheets and files."""

from pathlib import Path

import numpy as np
from PIL import Image

from beholder.pictures.drawn import contact_sheet, to_pictures, write_picture


def test_pixels_from_minus_one_to_one_become_all_levels() -> None:
    pixels = np.zeros((1, 3, 1, 4), np.float32)
    pixels[0, 0, 0] = [-1, 0, 1, 3]
    (picture,) = to_pictures(pixels)
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 128, 255, 255]


def test_a_sheet_is_filled_row_by_row() -> None:
    colors = ["red", "lime", "blue", "black", "yellow"]
    sheet = contact_sheet([Image.new("RGB", (2, 3), color) for color in colors])
    assert sheet.size == (6, 6)
    assert sheet.getpixel((2, 0)) == (0, 255, 0) and sheet.getpixel((0, 3)) == (0, 0, 0)
    assert sheet.getpixel((5, 5)) == (255, 255, 255)
    assert contact_sheet([Image.new("RGB", (2, 3))], 10).size == (2, 3)


def test_metadata_in_any_language_survives_in_a_png_and_is_left_out_of_a_jpeg(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "teal")
    for name in ("a.png", "a.jpg"):
        write_picture(tmp_path / name, picture, {"prompt": "笑う猫 — ☂"})
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.info["prompt"] == "笑う猫 — ☂"
    assert "猫".encode() not in (tmp_path / "a.jpg").read_bytes()
