"""Reading the metadata of a photograph, and ignoring damaged metadata."""

from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beholder.errors import PictureError
from beholder.pictures.photo_metadata import photo_metadata

NOWHERE = Path("/nowhere/x.jpg")


def jpeg(exif: Image.Exif | None = None, xmp: bytes = b"", size: tuple[int, int] = (40, 20)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, "green").save(file, "JPEG", exif=exif or Image.Exif(), xmp=xmp)
    return file.getvalue()


def test_size_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    metadata = photo_metadata(jpeg(exif), NOWHERE)
    assert (metadata.width, metadata.height, metadata.format) == (20, 40, "JPEG")


def test_a_repeated_maker_is_deduplicated_and_missing_fields_are_empty() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "NIKON", "NIKON D3\x00"
    assert photo_metadata(jpeg(exif), NOWHERE).camera == "NIKON D3"
    plain = photo_metadata(jpeg(), NOWHERE)
    assert (plain.camera, plain.taken, plain.latitude, plain.caption, plain.tags) == (None, None, None, None, ())


@pytest.mark.parametrize("time", ["0000:00:00 00:00:00", "2024:13:01 00:00:00", "soon", "", "2024:02:30 00:00:00"])
def test_an_invalid_time_is_ignored(time: str) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9003: time}
    exif[0x0132] = "2020:01:02 03:04:05"
    assert photo_metadata(jpeg(exif), NOWHERE).taken == "2020-01-02T03:04:05"


@pytest.mark.parametrize("place", [(91.0, 0.0, 0.0), (1.0, 2.0), "north", (float("inf"), 0.0, 0.0)])
def test_an_invalid_location_is_ignored(place: object) -> None:
    from beholder.pictures.photo_metadata import _degrees

    assert _degrees(place, "N", "S", 90) is None


def test_sidecar_keywords_precede_embedded_ones(tmp_path: Path) -> None:
    def packet(*words: str) -> bytes:
        items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
        return (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>'
            f"{items}</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
        ).encode()

    path = tmp_path / "x.jpg"
    data = jpeg(xmp=packet("beach", "beach", "sea"))
    assert photo_metadata(data, path).tags == ("beach", "sea")
    (tmp_path / "x.jpg.xmp").write_bytes(packet("harbour"))
    assert photo_metadata(data, path).tags == ("harbour",)
    (tmp_path / "x.jpg.xmp").write_bytes(b"<broken")
    assert photo_metadata(data, path).tags == ("beach", "sea")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 600), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_ignored_or_raises_a_picture_error(place: int, noise: bytes) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x8769], exif[0x8825] = "Canon", {0x9003: "2024:01:01 00:00:00"}, {1: "N", 2: (1.0, 2.0, 3.0)}
    data = bytearray(jpeg(exif, b"<x/>"))
    data[place % len(data) : place % len(data) + len(noise)] = noise
    try:
        photo_metadata(bytes(data), NOWHERE)
    except PictureError:
        return
