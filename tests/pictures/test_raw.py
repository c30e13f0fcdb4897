"""RAW files: a DNG encoded here byte by byte, with and without a preview, upright in every orientation."""

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.errors import PictureRefused
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.raw import RawDevelopedWarning
from beholder.pictures.read import read_picture
from beholder.pictures.walk import PassedOverWarning, walk

pytest.importorskip("rawpy", reason='needs the extra "raw"')
pytestmark = pytest.mark.filterwarnings("ignore::beholder.pictures.raw.RawDevelopedWarning")
WIDTH, HEIGHT = 64, 48
PATH = Path("/nowhere/a.dng")


def directory(entries: dict[int, tuple[int, list[int] | bytes]], start: int, following: bytes = b"") -> bytes:
    """Encode a TIFF IFD at ``start``, then its long values, then ``following``, whose offset replaces None."""
    table, values = struct.pack("<H", len(entries)), b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, (kind, value) in sorted(entries.items()):
        packed = (
            value
            if isinstance(value, bytes)
            else struct.pack({3: f"<{len(value)}H", 4: f"<{len(value)}I"}[kind], *value)
        )
        count = len(packed) // {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}[kind]
        table += struct.pack("<HHI", tag, kind, count)
        table += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", after + len(values))
        values += packed + b"\0" * (len(packed) % 2) if len(packed) > 4 else b""
    return table + struct.pack("<I", 0) + values + following


def dng(orientation: int = 1, preview: tuple[int, int] | None = None, taken: str | None = None) -> bytes:
    """Encode a DNG with a mosaic whose stored top left quarter is bright, and optionally a blue preview or a date."""
    samples = np.full((HEIGHT, WIDTH), 6000, "<u2")
    samples[: HEIGHT // 2, : WIDTH // 2] = 40_000
    one = struct.pack("<ii", 10_000, 10_000)
    zero = struct.pack("<ii", 0, 10_000)
    camera = {
        271: (2, b"Test\0"),
        272: (2, b"Camera\0"),
        274: (3, [orientation]),
        50706: (1, bytes([1, 4, 0, 0])),
        50708: (2, b"Test Camera\0"),
        50721: (10, (one + zero * 3) * 2 + one),
        50728: (5, one * 3),
        50778: (3, [21]),
    }
    mosaic = {
        254: (4, [0]),
        256: (4, [WIDTH]),
        257: (4, [HEIGHT]),
        258: (3, [16]),
        259: (3, [1]),
        262: (3, [32803]),
        277: (3, [1]),
        278: (4, [HEIGHT]),
        279: (4, [samples.nbytes]),
        33421: (3, [2, 2]),
        33422: (1, bytes([0, 1, 1, 2])),
        50714: (4, [0]),
        50717: (4, [65535]),
    }
    head = b"II*\0" + struct.pack("<I", 8)
    if preview is None:
        entries = camera | mosaic | {273: (4, [0])} | ({34665: (4, [0])} if taken else {})
        start = 8 + len(directory(entries, 8))
        entries[273], exif = (4, [start]), b""
        if taken:
            entries[34665] = (4, [start + samples.nbytes])
            exif = directory({36867: (2, taken.encode() + b"\0")}, start + samples.nbytes)
        return head + directory(entries, 8, samples.tobytes() + exif)
    file = BytesIO()
    Image.new("RGB", preview, "blue").save(file, "JPEG")
    jpeg = file.getvalue()
    small = {
        254: (4, [1]), 256: (4, [preview[0]]), 257: (4, [preview[1]]), 258: (3, [8, 8, 8]), 259: (3, [7]),
        262: (3, [6]),
        277: (3, [3]), 278: (4, [preview[1]]), 279: (4, [len(jpeg)]), 273: (4, [0]), 330: (4, [0]),
    }  # fmt: skip
    first = 8 + len(directory(camera | small, 8))
    second = first + len(jpeg) + len(jpeg) % 2
    entries = camera | small | {273: (4, [first]), 330: (4, [second])}
    raw = mosaic | {273: (4, [0])}
    raw[273] = (4, [second + len(directory(raw, second))])
    return head + directory(entries, 8, jpeg + b"\0" * (len(jpeg) % 2)) + directory(raw, second, samples.tobytes())


def bright_corner(picture: Image.Image) -> tuple[bool, bool]:
    """Return whether the bright quarter is on the right, and whether it is at the bottom."""
    gray = np.asarray(picture.convert("L")).astype(float)
    rows, columns = gray.shape
    quarters = gray.reshape(2, rows // 2, 2, columns // 2).mean(axis=(1, 3))
    bottom, right = np.unravel_index(quarters.argmax(), (2, 2))
    return bool(right), bool(bottom)


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [(1, (32, 24), (0, 0)), (3, (32, 24), (1, 1)), (6, (24, 32), (1, 0)), (8, (24, 32), (0, 1))],
)
def test_a_raw_file_without_a_preview_is_developed_at_half_size_and_upright(
    orientation: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    with pytest.warns(RawDevelopedWarning, match="picture 1: RAW without a large preview"):
        picture = read_picture(dng(orientation))
    assert (picture.mode, picture.size) == ("RGB", size)
    assert bright_corner(picture) == corner
    found = photo_metadata(dng(orientation), PATH)
    assert (found.width, found.height, found.format, found.camera) == (*size, "RAW", "Test Camera")


@pytest.mark.parametrize(("orientation", "size"), [(1, (1200, 900)), (6, (900, 1200)), (3, (1200, 900))])
def test_a_large_preview_is_shown_upright(orientation: int, size: tuple[int, int]) -> None:
    picture = read_picture(dng(orientation, (1200, 900)))
    assert picture.size == size and picture.getpixel((5, 5))[2] > 200
    found = photo_metadata(dng(orientation, (1200, 900)), PATH)
    assert (found.width, found.height) == size


def test_a_small_thumbnail_is_not_used_as_the_picture() -> None:
    picture = read_picture(dng(1, (16, 12)))
    assert picture.size == (32, 24) and bright_corner(picture) == (0, 0)


def test_without_the_raw_extra_a_raw_file_is_refused_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.DNG").write_bytes(dng())
    assert list(walk(tmp_path)) == [tmp_path / "a.DNG"]
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(PictureRefused, match=r'pip install "beholder\[raw\]"'):
        read_picture(dng())
    with pytest.warns(PassedOverWarning, match=r'1 RAW \(dng\) .*pip install "beholder\[raw\]"'):
        assert list(walk(tmp_path)) == []


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_truncated_raw_file_is_read_or_raises_a_picture_error(share: float) -> None:
    from beholder.errors import PictureError

    data = dng()
    try:
        read_picture(data[: int(len(data) * share)])
    except PictureError as error:
        assert "picture 1" in str(error)
