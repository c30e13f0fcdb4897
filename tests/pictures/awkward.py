"""Malformed and unusual pictures, each with the expected outcome.

``AWKWARD`` is a table of cases. Each creates one source in a separate folder, as a path or a URL that a command
line could name. The default limits apply.
"""

import os
import socket
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beholder.errors import (
    NotAPicture,
    PictureBroken,
    PictureError,
    PictureNotFound,
    PictureRefused,
    PictureTooLarge,
    PictureUnreadable,
)

WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 180, 60), (40, 60, 200), (230, 220, 40)
QUADRANTS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right

Color = tuple[int, int, int]
Check = Callable[[Image.Image], None]


@dataclass(frozen=True)
class Awkward:
    name: str
    make: Callable[[Path], str | Path]
    error: type[PictureError] | None = None
    check: Check | None = None
    says: str = ""  # part of the error's message


def quadrants() -> Image.Image:
    """Draw four colors, so that a rotation, a reflection or a swapped channel is visible."""
    return Image.fromarray(_fill(QUADRANTS))


def _fill(values: Sequence[Any], kind: Any = np.uint8) -> np.ndarray:
    top_left, top_right, bottom_left, bottom_right = np.array(values, kind)
    array = np.empty((HEIGHT, WIDTH, *np.shape(top_left)), kind)
    array[: HEIGHT // 2, : WIDTH // 2] = top_left
    array[: HEIGHT // 2, WIDTH // 2 :] = top_right
    array[HEIGHT // 2 :, : WIDTH // 2] = bottom_left
    array[HEIGHT // 2 :, WIDTH // 2 :] = bottom_right
    return array


def shows(colors: Sequence[Color] = QUADRANTS, within: int = 0) -> Check:
    """Return a check of size, mode and the color in the middle of each quadrant."""

    def check(image: Image.Image) -> None:
        assert image.mode == "RGB"
        assert image.size == (WIDTH, HEIGHT)
        places = [(x, y) for y in (HEIGHT // 4, 3 * HEIGHT // 4) for x in (WIDTH // 4, 3 * WIDTH // 4)]
        for place, expected in zip(places, colors, strict=True):
            found = image.getpixel(place)
            assert np.abs(np.subtract(found, expected)).max() <= within, f"{place}: {found}, not {expected}"

    return check


def is_uniform(size: tuple[int, int], color: Color, within: int = 0) -> Check:
    def check(image: Image.Image) -> None:
        assert (image.mode, image.size) == ("RGB", size)
        assert np.abs(np.asarray(image).astype(int) - color).max() <= within

    return check


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "HEIF":
        from pillow_heif import encode

        file = BytesIO()
        encode(image.mode, image.size, image.tobytes(), file, **options)
        return file.getvalue()
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned_with_note(kind: str, orientation: int, **options: Any) -> bytes:
    """Encode the quadrants with rotated pixels and the EXIF orientation that undoes the rotation."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = quadrants() if undo is None else quadrants().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif.tobytes(), **options)


def png(width: int, height: int, depth: int, color_type: int, rows: np.ndarray | None, *, chunks: bytes = b"") -> bytes:
    """Encode a PNG that Pillow can't write: 16-bit samples, or a header without the pixel data it announces."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = b"" if rows is None else b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + chunks
        + png_chunk(b"IDAT", zlib.compress(data))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def color_profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """Encode a color profile of version 2.1 (ICC.1:1998-09): header, tag table, tags."""
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    white = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x02100000, b"scnr", space, connection)
    header += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def swapped_profile() -> bytes:
    """A profile of sRGB primaries with red and green exchanged: the file's red is green."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    curve = _gamma(2.2)
    return color_profile(
        b"RGB ",
        {
            b"wtpt": _xyz(0.9642, 1.0, 0.8249),
            b"rXYZ": _xyz(*green),
            b"gXYZ": _xyz(*red),
            b"bXYZ": _xyz(*blue),
            b"rTRC": curve,
            b"gTRC": curve,
            b"bTRC": curve,
        },
    )


def linear_gray_profile() -> bytes:
    return color_profile(b"GRAY", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"kTRC": _gamma(1.0)})


def black_only_profile() -> bytes:
    """A CMYK profile that ignores cyan, magenta and yellow: lightness is 100 minus black."""
    header = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    straight = bytes(range(256))
    corners = bytes(value for corner in range(16) for value in (0 if corner % 2 else 255, 128, 128))
    table = header + straight * 4 + corners + straight * 3
    return color_profile(b"CMYK", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"A2B0": table}, connection=b"Lab ")


def _file(name: str, data: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data())
        return path

    return make


def good(name: str, data: Callable[[], bytes], check: Check) -> Awkward:
    return Awkward(name, _file(name, data), check=check)


def bad(name: str, data: Callable[[], bytes], error: type[PictureError], says: str = "") -> Awkward:
    return Awkward(name, _file(name, data), error=error, says=says)


def _frames(kind: str, **options: Any) -> bytes:
    second = Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 255))
    return encoded(quadrants(), kind, save_all=True, append_images=[second], duration=100, **options)


def _with_alpha() -> Image.Image:
    """Opaque red, half green, transparent blue, opaque yellow."""
    array = np.dstack([_fill(QUADRANTS), _fill((255, 128, 0, 255))])
    return Image.fromarray(array)


HALF_GREEN = (142, 217, 157)  # 128/255 of green over white
OVER_WHITE = (RED, HALF_GREEN, (255, 255, 255), YELLOW)
GRAYS = ((0,) * 3, (85,) * 3, (170,) * 3, (255,) * 3)


def _palette_with_alpha() -> bytes:
    image = Image.fromarray(_fill((0, 1, 2, 3)), "P")
    image.putpalette([value for color in QUADRANTS for value in color])
    return encoded(image, "PNG", transparency=bytes([255, 128, 0, 255]))


def _gif_with_transparency() -> bytes:
    image = Image.fromarray(_fill((0, 1, 2, 3)), "P")
    image.putpalette([value for color in QUADRANTS for value in color])
    return encoded(image, "GIF", transparency=2)


def _cmyk() -> Image.Image:
    return Image.fromarray(_fill(((0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255))), "CMYK")


INKS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0))


def _lab() -> Image.Image:
    values = ((0, 0, 0), (128, 0, 0), (255, 0, 0), (128, 80, 67))
    return Image.frombytes("LAB", (WIDTH, HEIGHT), _fill(values).tobytes())


LAB_COLORS = ((0, 0, 0), (119, 119, 119), (255, 255, 255), (240, 0, 6))


def _deep(values: Sequence[float], kind: Any) -> bytes:
    return encoded(Image.fromarray(_fill(values, kind)), "TIFF")


def _deep_png() -> bytes:
    colors = [[value * 257 for value in color] for color in QUADRANTS]
    return png(WIDTH, HEIGHT, 16, 2, _fill(colors, ">u2"))


def _cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


def _detailed() -> Image.Image:
    """Noise, whose file is long enough to be truncated in the middle of the pixel data."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))


def _nikon() -> bytes:
    """A thumbnail whose IFD points to the RAW samples, as in Nikon's NEF."""
    return encoded(quadrants(), "TIFF", tiffinfo={254: 1, 271: "NIKON CORPORATION", 330: 8})


def _wrong_checksum() -> bytes:
    data = bytearray(encoded(_detailed(), "PNG"))
    data[data.index(b"IDAT") + 2000] ^= 0xFF
    return bytes(data)


def _bmp_bomb() -> bytes:
    data = bytearray(encoded(quadrants(), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


def _gif_bomb() -> bytes:
    data = bytearray(encoded(quadrants(), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def _jpeg_bomb() -> bytes:
    data = bytearray(encoded(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def _webp_bomb() -> bytes:
    """The extended header announces 16384 x 16384 pixels (WebP container specification, "VP8X")."""
    flags_and_size = struct.pack("<I", 0) + (16_383).to_bytes(3, "little") * 2
    picture = encoded(quadrants(), "WEBP", lossless=True)[12:]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + flags_and_size + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff_bomb() -> bytes:
    data = encoded(Image.new("L", (5, 3)), "TIFF")
    entry = struct.pack("<HHI", 256, 4, 1)  # ImageWidth, a LONG
    start = data.index(entry) if entry in data else data.index(struct.pack("<HHI", 256, 3, 1))
    wide = struct.pack("<HHII", 256, 4, 1, 4_000_000_000)
    return data[:start] + wide + data[start + 12 :]


def _damaged_exif() -> bytes:
    return encoded(quadrants(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\0\0")


def _oversized_file(folder: Path) -> Path:
    path = folder / "oversized.jpg"
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(600_000_000)  # sparse: takes no space
    return path


def _folder(folder: Path) -> Path:
    path = folder / "folder.jpg"
    path.mkdir()
    return path


def _below_a_file(folder: Path) -> Path:
    (folder / "file.jpg").write_bytes(b"no folder")
    return folder / "file.jpg" / "picture.jpg"


def _link_to_itself(folder: Path) -> Path:
    path = folder / "link.jpg"
    path.symlink_to(path)
    return path


def _broken_link(folder: Path) -> Path:
    path = folder / "dangling.jpg"
    path.symlink_to(folder / "gone.jpg")
    return path


def _good_link(folder: Path) -> Path:
    (folder / "target").write_bytes(encoded(quadrants(), "PNG"))
    path = folder / "link to good.png"
    path.symlink_to(folder / "target")
    return path


def _pipe(folder: Path) -> Path:
    path = folder / "pipe.jpg"
    os.mkfifo(path)
    return path


def _socket(folder: Path) -> Path:
    path = folder / "socket.jpg"
    here = Path.cwd()
    os.chdir(folder)  # a socket path is limited to about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)
    return path


def _strange_name(folder: Path) -> bytes | Path:
    path = folder / "zwei\nZeilen \x1b[31m und 雪 \udcff.png"
    path.write_bytes(b"")
    return path


def _all_orientations() -> list[Awkward]:
    kinds = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
        "AVIF": {"quality": 95},
        "HEIF": {"quality": 95},
    }
    return [
        good(
            f"orientation {orientation}.{kind.lower()}",
            lambda kind=kind, orientation=orientation, options=options: turned_with_note(kind, orientation, **options),
            shows(within=0 if kind in ("PNG", "WEBP", "TIFF") else 6),
        )
        for kind, options in kinds.items()
        for orientation in range(1, 9)
    ]


AWKWARD: list[Awkward] = [
    # JPEG
    good("plain.jpg", lambda: encoded(quadrants(), "JPEG", quality=95), shows(within=6)),
    good("progressive.jpg", lambda: encoded(quadrants(), "JPEG", quality=95, progressive=True), shows(within=6)),
    good("gray.jpg", lambda: encoded(Image.fromarray(_fill((0, 85, 170, 255))), "JPEG"), shows(GRAYS, within=3)),
    good("cmyk.jpg", lambda: encoded(_cmyk(), "JPEG", quality=98), shows(INKS, within=12)),
    good(
        "cmyk with profile.jpg",
        lambda: encoded(_cmyk(), "JPEG", quality=98, icc_profile=black_only_profile()),
        shows(((255,) * 3, (255,) * 3, (255,) * 3, (0,) * 3), within=8),
    ),
    good(
        "multi-picture.jpg",
        lambda: encoded(quadrants(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=95),
        shows(within=6),
    ),
    good("damaged exif.jpg", _damaged_exif, shows(within=6)),
    good(
        "swapped profile.png",
        lambda: encoded(quadrants(), "PNG", icc_profile=swapped_profile()),
        shows(((30, 200, 30), (180, 30, 60), (60, 40, 200), (220, 230, 40)), within=12),
    ),
    bad("truncated.jpg", lambda: _cut(encoded(_detailed(), "JPEG")), PictureBroken, "truncated"),
    bad("truncated header.jpg", lambda: encoded(quadrants(), "JPEG")[:100], PictureBroken),
    bad("signature only.jpg", lambda: b"\xff\xd8\xff\xe0", PictureBroken),
    bad("bomb.jpg", _jpeg_bomb, PictureTooLarge, "65000 x 65000"),
    # PNG
    good("plain.png", lambda: encoded(quadrants(), "PNG"), shows()),
    good("png.jpg", lambda: encoded(quadrants(), "PNG"), shows()),
    good("without suffix", lambda: encoded(quadrants(), "PNG"), shows()),
    good("alpha.png", lambda: encoded(_with_alpha(), "PNG"), shows(OVER_WHITE, within=1)),
    good("palette.png", lambda: encoded(quadrants().quantize(4), "PNG"), shows()),
    good("palette with alpha.png", _palette_with_alpha, shows(OVER_WHITE, within=1)),
    good(
        "transparent color key.png",
        lambda: encoded(quadrants(), "PNG", transparency=BLUE),
        shows((RED, GREEN, (255, 255, 255), YELLOW)),
    ),
    good(
        "gray with alpha.png",
        lambda: encoded(Image.fromarray(np.dstack([_fill((0, 85, 170, 255)), _fill((255, 255, 0, 255))]), "LA"), "PNG"),
        shows((GRAYS[0], GRAYS[1], (255, 255, 255), GRAYS[3])),
    ),
    good(
        "black and white.png",
        lambda: encoded(Image.fromarray(_fill((0, 255, 255, 0))).convert("1"), "PNG"),
        shows((GRAYS[0], GRAYS[3], GRAYS[3], GRAYS[0])),
    ),
    good(
        "16-bit gray.png",
        lambda: encoded(Image.fromarray(_fill((0, 21845, 43690, 65535), np.uint16)), "PNG"),
        shows(GRAYS),
    ),
    good("16-bit color.png", _deep_png, shows()),
    good(
        "linear gray.png",
        lambda: encoded(Image.fromarray(_fill((0, 55, 127, 255))), "PNG", icc_profile=linear_gray_profile()),
        shows((GRAYS[0], (128,) * 3, (187,) * 3, GRAYS[3]), within=3),
    ),
    good(
        "gray with an RGB profile.png",
        lambda: encoded(Image.fromarray(_fill((0, 85, 170, 255))), "PNG", icc_profile=swapped_profile()),
        shows(GRAYS, within=3),
    ),
    good("animated.png", lambda: _frames("PNG"), shows()),
    good("one pixel.png", lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG"), is_uniform((1, 1), RED)),
    good("thin.png", lambda: encoded(Image.new("RGB", (150, 1), RED), "PNG"), is_uniform((150, 1), RED)),
    bad(
        "extreme aspect ratio.png",
        lambda: encoded(Image.new("RGB", (3000, 1), RED), "PNG"),
        PictureTooLarge,
        "200 times",
    ),
    bad("bomb.png", lambda: png(50_000, 50_000, 8, 2, None), PictureTooLarge, "50000 x 50000"),
    bad("just over the limit.png", lambda: png(10_001, 10_000, 8, 0, None), PictureTooLarge, "100 million"),
    bad("no pixels.png", lambda: png(0, 0, 8, 2, None), PictureBroken),
    bad("missing pixels.png", lambda: png(500, 500, 8, 2, None), PictureBroken),
    bad("truncated.png", lambda: _cut(encoded(_detailed(), "PNG")), PictureBroken, "truncated"),
    bad("wrong checksum.png", _wrong_checksum, PictureBroken),
    # GIF
    good("plain.gif", lambda: encoded(quadrants(), "GIF"), shows()),
    good("transparent.gif", _gif_with_transparency, shows((RED, GREEN, (255, 255, 255), YELLOW))),
    good("animated.gif", lambda: _frames("GIF"), shows()),
    bad("truncated.gif", lambda: _cut(encoded(_detailed().quantize(64), "GIF")), PictureBroken),
    bad("bomb.gif", _gif_bomb, PictureTooLarge, "65535 x 65535"),
    # BMP
    good("plain.bmp", lambda: encoded(quadrants(), "BMP"), shows()),
    good("palette.bmp", lambda: encoded(quadrants().quantize(4), "BMP"), shows()),
    bad("truncated.bmp", lambda: _cut(encoded(quadrants(), "BMP")), PictureBroken),
    bad("bomb.bmp", _bmp_bomb, PictureTooLarge, "60000 x 60000"),
    # TIFF
    good("plain.tif", lambda: encoded(quadrants(), "TIFF"), shows()),
    good("lzw.tif", lambda: encoded(quadrants(), "TIFF", compression="tiff_lzw"), shows()),
    good("jpeg inside.tif", lambda: encoded(quadrants(), "TIFF", compression="jpeg", quality=95), shows(within=12)),
    good("cmyk.tif", lambda: encoded(_cmyk(), "TIFF"), shows(INKS)),
    good("lab.tif", lambda: encoded(_lab(), "TIFF"), shows(LAB_COLORS, within=6)),
    good("alpha.tif", lambda: encoded(_with_alpha(), "TIFF"), shows(OVER_WHITE, within=1)),
    good("two pages.tif", lambda: _frames("TIFF"), shows()),
    good("16 bits.tif", lambda: _deep((0, 21845, 43690, 65535), np.uint16), shows(GRAYS)),
    good("16 bits, big-endian.tif", lambda: _deep((0, 21845, 43690, 65535), ">u2"), shows(GRAYS)),
    good("32 bits.tif", lambda: _deep((0, 85, 170, 255), np.int32), shows(GRAYS)),
    good(
        "32 bits, wide range.tif", lambda: _deep((-3_000_000, -1_000_000, 1_000_000, 3_000_000), np.int32), shows(GRAYS)
    ),
    good("floats to 1.tif", lambda: _deep((0, 1 / 3, 2 / 3, 1), np.float32), shows(GRAYS)),
    good("floats to 65535.tif", lambda: _deep((0, 21845, 43690, 65535), np.float32), shows(GRAYS)),
    bad("nan.tif", lambda: _deep((0, np.nan, 0.5, 1), np.float32), PictureBroken, "finite"),
    bad("truncated.tif", lambda: _cut(encoded(_detailed(), "TIFF", compression="tiff_lzw"), 0.3), PictureBroken),
    bad("bomb.tif", _tiff_bomb, PictureTooLarge, "4000000000 x 3"),
    # WebP
    good("plain.webp", lambda: encoded(quadrants(), "WEBP", quality=95), shows(within=8)),
    good("alpha.webp", lambda: encoded(_with_alpha(), "WEBP", lossless=True), shows(OVER_WHITE, within=1)),
    good("animated.webp", lambda: _frames("WEBP", lossless=True), shows()),
    bad("truncated.webp", lambda: _cut(encoded(_detailed(), "WEBP")), PictureBroken),
    bad("bomb.webp", _webp_bomb, PictureTooLarge),
    # AVIF and HEIC
    good("plain.avif", lambda: encoded(quadrants(), "AVIF", quality=95), shows(within=6)),
    good("alpha.avif", lambda: encoded(_with_alpha(), "AVIF", quality=100), shows(OVER_WHITE, within=6)),
    good("animated.avif", lambda: _frames("AVIF", quality=95), shows(within=6)),
    bad("truncated.avif", lambda: _cut(encoded(_detailed(), "AVIF")), PictureBroken),
    good("plain.heic", lambda: encoded(quadrants(), "HEIF", quality=95), shows(within=6)),
    good("alpha.heic", lambda: encoded(_with_alpha(), "HEIF", quality=100), shows(OVER_WHITE, within=6)),
    bad("truncated.heic", lambda: _cut(encoded(_detailed(), "HEIF")), PictureBroken),
    # Not pictures, or unsupported formats
    bad("text.jpg", lambda: b"This is a letter, not a picture.\n" * 20, NotAPicture, "JPEG, PNG"),
    bad("text starting with BM.txt", lambda: b"BMP files are large, and this is a text.\n" * 20, NotAPicture),
    bad("html.png", lambda: b"<!DOCTYPE html><html><body>404</body></html>", NotAPicture),
    bad("empty.jpg", lambda: b"", NotAPicture, "empty"),
    bad("one byte.jpg", lambda: b"\xff", NotAPicture),
    bad("video.heic", lambda: b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(200), NotAPicture),
    bad("no brand.avif", lambda: b"\0\0\0\x10ftyp", NotAPicture),
    bad(
        "drawing.svg",
        lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        PictureRefused,
        "SVG",
    ),
    bad("pdf.jpg", lambda: b"%PDF-1.7\n" + bytes(50), PictureRefused, "PDF"),
    bad("postscript.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", PictureRefused, "EPS"),
    bad("icon.ico", lambda: encoded(quadrants(), "ICO"), PictureRefused, "icon"),
    good("plain.jp2", lambda: encoded(quadrants(), "JPEG2000"), shows(within=2)),
    bad("truncated.jp2", lambda: _cut(encoded(_detailed(), "JPEG2000")), PictureBroken),
    bad("plain.jxl", lambda: b"\xff\x0a" + bytes(64), PictureBroken),
    bad("raw.cr3", lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", PictureBroken),
    bad("raw.raf", lambda: b"FUJIFILMCCD-RAW " + bytes(64), PictureBroken),
    bad("raw.nef", _nikon, PictureBroken),
    # Not files
    Awkward("folder", _folder, PictureUnreadable, says="folder"),
    Awkward("missing file", lambda folder: folder / "missing.jpg", PictureNotFound, says="no such file"),
    Awkward("below a file", _below_a_file, PictureNotFound),
    Awkward("name too long", lambda folder: folder / ("x" * 300 + ".jpg"), PictureUnreadable),
    Awkward("link to itself", _link_to_itself, PictureUnreadable, says="can't be opened"),
    Awkward("broken link", _broken_link, PictureNotFound),
    Awkward("good link", _good_link, check=shows()),
    Awkward("named pipe", _pipe, PictureUnreadable, says="pipe"),
    Awkward("socket", _socket, PictureUnreadable),
    Awkward("device", lambda folder: Path("/dev/zero"), PictureUnreadable, says="device"),
    Awkward("oversized file", _oversized_file, PictureTooLarge, says="512 MB"),
    Awkward("strange name", _strange_name, NotAPicture, says="empty"),
    Awkward("address", lambda folder: "https://example.org/picture.jpg", PictureRefused, says="allow_urls"),
    Awkward("other scheme", lambda folder: "file:///etc/hostname", PictureRefused, says="allow_urls"),
    *_all_orientations(),
]
