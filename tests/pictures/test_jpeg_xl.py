"""JPEG XL through pillow-jxl-plugin."""

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.errors import PictureBroken, PictureRefused, PictureTooLarge
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.read import Limits, read_picture
from beholder.pictures.walk import PassedOverWarning, walk

pillow_jxl = pytest.importorskip("pillow_jxl", reason='needs the extra "jxl"')


def encoded(size: tuple[int, int], **options: object) -> bytes:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = (255, 0, 0)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JXL", lossless=True, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(64, 48), (49, 31), (256, 256), (640, 360), (8, 2000), (513, 300)])
def test_size_and_pixels_are_read(size: tuple[int, int]) -> None:
    data = encoded(size)
    metadata = photo_metadata(data, Path("/nowhere/a.jxl"))
    assert (metadata.width, metadata.height, metadata.format) == (*size, "JPEG XL")
    image = read_picture(data, limits=Limits(aspect_ratio=1000))
    assert image.size == size and image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((size[0] - 1, size[1] - 1)) == (0, 0, 0)


def test_exif_is_read() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0132] = "Canon", "2024:05:31 14:03:00"
    metadata = photo_metadata(encoded((64, 48), exif=exif.tobytes()), Path("/nowhere/a.jxl"))
    assert (metadata.camera, metadata.taken) == ("Canon", "2024-05-31T14:03:00")


def test_size_is_limited_before_anything_is_decoded() -> None:
    # not small; height 1 + 30 bits; ratio 1:1
    bits = 0 | 3 << 1 | (2**20 - 1) << 3 | 1 << 33
    with pytest.raises(PictureTooLarge, match="1048576 x 1048576"):
        read_picture(b"\xff\x0a" + bits.to_bytes(8, "little"))


@pytest.mark.parametrize("cut", [2, 10, 20, -10])
def test_damage_is_reported(cut: int) -> None:
    with pytest.raises((PictureBroken, PictureTooLarge)):
        read_picture(encoded((64, 48))[:cut])
    box = struct.pack(">I4s", 12, b"JXL ") + b"\r\n\x87\n"
    with pytest.raises(PictureBroken):
        read_picture(box)


def test_without_the_plugin_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jxl").write_bytes(encoded((64, 48)))
    assert list(walk(tmp_path)) == [tmp_path / "a.jxl"]
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(PictureRefused, match=r"beholder\[jxl\]"):
        read_picture(tmp_path / "a.jxl")
    with pytest.warns(PassedOverWarning, match=r"1 JPEG XL \(jxl\).*beholder\[jxl\]"):
        assert list(walk(tmp_path)) == []
