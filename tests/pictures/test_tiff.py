"""TIFF files of every bit depth, sample format, layout and color space, encoded here byte by byte."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from beholder.errors import PictureBroken, PictureRefused
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.read import read_picture

WIDTH, HEIGHT = 24, 16
COLORS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
COLORS[..., 0], COLORS[..., 1], COLORS[..., 2] = np.arange(WIDTH) * 11, np.arange(HEIGHT)[:, None] * 17, 120
COLORS[0, 0], COLORS[-1, -1] = 0, 255
GRAY = np.asarray(Image.fromarray(COLORS).convert("L"))[..., None]
INK = np.asarray(Image.fromarray(COLORS).convert("CMYK"))
OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
HALF = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
DEPTHS = {"u1": 1, "u2": 257, "u4": 16_843_009, "i2": 128, "f2": 1 / 255, "f4": 1 / 255, "f8": 1 / 255}
FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(
    samples: np.ndarray,
    depth: str = "u1",
    *,
    photometric: int,
    planar: bool = False,
    order: str = "<",
    deflate: bool = False,
    predictor: int = 1,
    extra: int | None = None,
    rows_per_strip: int = 7,
    orientation: int = 1,
    bits: int | None = None,
    raw: bytes | None = None,
    compression: int = 1,
) -> bytes:
    """Encode 8-bit samples (H, W, S), scaled to ``depth``, as a TIFF in strips."""
    count = samples.shape[2]
    values = (samples.astype(np.float64) * DEPTHS[depth]).astype(order + depth)
    planes = np.moveaxis(values, 2, 0)[..., None] if planar else values[None]
    strips = []
    for plane in planes:
        for first in range(0, HEIGHT, rows_per_strip):
            part = plane[first : first + rows_per_strip]
            if predictor == 2:
                part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1])).astype(part.dtype)
            strips.append(zlib.compress(part.tobytes()) if deflate else part.tobytes())
    if raw is not None:
        strips, rows_per_strip = [raw], HEIGHT
    sample_bits = bits or int(depth[1]) * 8
    entries = {
        256: [WIDTH], 257: [HEIGHT], 258: [sample_bits] * count, 259: [8 if deflate else compression],
        262: [photometric],
        274: [orientation], 277: [count], 278: [rows_per_strip], 284: [2 if planar else 1], 317: [predictor],
        339: [FORMATS[depth[0]]] * count, 279: [len(strip) for strip in strips], 273: [0] * len(strips),
    }  # fmt: skip
    if extra is not None:
        entries[338] = [extra]
    after = 8 + 2 + 12 * len(entries) + 4
    sizes = sum(4 * len(value) for value in entries.values() if len(value) > 1)
    place = after + sizes
    for number, strip in enumerate(strips):
        entries[273][number] = place
        place += len(strip)
    directory, arrays = struct.pack(order + "H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(value)}I", *value)
        directory += struct.pack(order + "HHI", tag, 4, len(value))
        directory += packed if len(value) == 1 else struct.pack(order + "I", after + len(arrays))
        arrays += packed if len(value) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + directory + struct.pack(order + "I", 0) + arrays + b"".join(strips)


def check(data: bytes, expected: np.ndarray) -> None:
    picture = np.asarray(read_picture(data)).astype(int)
    expected = np.broadcast_to(expected, (*expected.shape[:2], 3))
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).max() <= 2


KINDS = {
    "gray": (GRAY, GRAY, 1, None),
    "inverted": (255 - GRAY, GRAY, 0, None),
    "gray with alpha": (np.concatenate([GRAY, HALF], 2), (GRAY.astype(int) + 255) // 2, 1, 2),
    "RGB": (COLORS, COLORS, 2, None),
    "RGB with alpha": (np.concatenate([COLORS, HALF], 2), (COLORS.astype(int) + 255) // 2, 2, 2),
    "RGB with associated alpha": (np.concatenate([COLORS // 2, HALF], 2), COLORS // 2 + 127, 2, 1),
    "CMYK": (INK, COLORS, 5, None),
    "CMYK with alpha": (np.concatenate([INK, OPAQUE], 2), COLORS, 5, 2),
}


@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planar"])
@pytest.mark.parametrize("packed", ["uncompressed", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_tiff_variant_decodes_to_the_same_picture(
    kind: str, depth: str, order: str, packed: str, planar: bool
) -> None:
    samples, expected, photometric, extra = KINDS[kind]
    if depth == "u1" and kind == "RGB with associated alpha":
        pytest.skip("left to Pillow, which divides by alpha and rounds")
    data = tiff(
        samples, depth, photometric=photometric, planar=planar, order=order, deflate=packed == "deflate", extra=extra
    )
    check(data, expected)


def test_the_predictor_is_undone() -> None:
    check(tiff(COLORS, "u2", photometric=2, planar=True, deflate=True, predictor=2), COLORS)
    check(tiff(COLORS, "u4", photometric=2, deflate=True, predictor=2), COLORS)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind", ["gray", "inverted", "RGB"])
def test_bit_depths_that_are_not_whole_bytes_are_decoded(kind: str, bits: int) -> None:
    samples, expected, photometric, _ = KINDS[kind]
    deep = np.rint(samples.astype(float) * (2**bits - 1) / 255).astype(np.uint32).reshape(HEIGHT, -1)
    unpacked = ((deep[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).reshape(HEIGHT, -1)
    check(tiff(samples, photometric=photometric, bits=bits, raw=np.packbits(unpacked, axis=1).tobytes()), expected)


def test_twelve_bits_in_sixteen_and_negative_samples_are_decoded() -> None:
    twelve = (GRAY.astype("<u2") * 16).tobytes()
    check(tiff(GRAY, "u2", photometric=1, raw=twelve), GRAY)
    below_zero = (GRAY.astype("<i2") * 200 - 25_500).tobytes()
    check(tiff(GRAY, "i2", photometric=1, raw=below_zero), GRAY)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_high_bit_depth_picture_is_upright_in_pixels_and_metadata(orientation: int, tmp_path) -> None:
    turned = {1: COLORS, 3: COLORS[::-1, ::-1], 6: np.rot90(COLORS, 1), 8: np.rot90(COLORS, -1)}[orientation]
    upright = turned if orientation in (6, 8) else COLORS
    samples = COLORS if orientation in (6, 8) else turned
    expected = np.rot90(COLORS, {6: -1, 8: 1}[orientation]) if orientation in (6, 8) else upright
    data = tiff(samples, "f4", photometric=2, orientation=orientation)
    check(data, expected)
    found = photo_metadata(data, tmp_path / "a.tif")
    assert (found.width, found.height) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": COLORS, "depth": "f4", "photometric": 2, "compression": 5}, "32-bit floating-point RGB, LZW"),
        ({"samples": COLORS, "depth": "u4", "photometric": 2, "compression": 7}, "32-bit RGB, JPEG"),
        ({"samples": COLORS, "depth": "f4", "photometric": 8}, "floating-point Lab"),
        (
            {"samples": KINDS["CMYK with alpha"][0], "depth": "u2", "photometric": 5, "compression": 5},
            "16-bit CMYK with alpha, LZW",
        ),
    ],
)
def test_an_error_names_the_unsupported_tiff_feature(options: dict, says: str) -> None:
    with pytest.raises(PictureRefused, match=says):
        read_picture(tiff(**options))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_samples_are_broken(value: float) -> None:
    samples = COLORS.astype("<f4")
    samples[3, 3, 1] = value
    with pytest.raises(PictureBroken):
        read_picture(tiff(COLORS, "f4", photometric=2, raw=samples.tobytes()))


def test_a_strip_that_is_too_short_is_broken() -> None:
    with pytest.raises(PictureBroken):
        read_picture(tiff(COLORS, "f4", photometric=2)[:-200])


def test_a_tiff_written_by_pillow_is_read() -> None:
    file = BytesIO()
    Image.fromarray(COLORS).save(file, "TIFF", compression="tiff_lzw")
    check(file.getvalue(), COLORS)
