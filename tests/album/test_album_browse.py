"""Listing an album, and writing its captions to the picture files."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image
from small_album import draw, tiny_encoder

from beholder import Album, DualEncoder
from beholder.errors import AlbumBusy, InvalidSetting, PictureNotFound, PictureUnreadable
from beholder.pictures.caption_metadata import read_caption


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


def taken_with(time: str, camera: str) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0132], exif[0x010F] = time, camera
    return exif


@pytest.fixture
def album(tmp_path: Path, encoder: DualEncoder) -> Album:
    photos = tmp_path / "photos"
    draw(photos / "a.jpg", 1, exif=taken_with("2023:02:01 10:00:00", "Canon"))
    draw(photos / "b.jpg", 2, exif=taken_with("2024:02:01 10:00:00", "Nikon"))
    draw(photos / "c.png", 3)
    draw(photos / "d.jpg", 4, exif=taken_with("2022:02:01 10:00:00", "Canon"))
    album = Album.open(tmp_path / "album")
    album.index(photos, model=encoder)
    return album


def names(album: Album, contents: list[int]) -> str:
    known = album.get_pictures(contents)
    return "".join(Path(known[content].path).stem for content in contents)


def test_pictures_are_sorted_in_the_requested_order(album: Album) -> None:
    assert names(album, album.contents()) == "abcd"
    assert names(album, album.contents(order="newest")) == "badc"
    assert names(album, album.contents(order="oldest")) == "dabc"
    assert names(album, album.contents("camera:canon", "newest")) == "ad"
    with pytest.raises(InvalidSetting, match="choose one of path, newest, oldest"):
        album.contents(order="name; DROP TABLE picture")


def test_facets_list_the_values_to_filter_by(album: Album) -> None:
    album.describe(
        album.get_pictures(album.contents())[album.contents()[0]], caption="a boat", tags=["sea", "sea", "boat"]
    )
    facets = album.facets()
    assert (facets.pictures, facets.captions) == (4, 1)
    assert facets.years == (("2024", 1), ("2023", 1), ("2022", 1))
    assert facets.cameras == (("Canon", 2), ("Nikon", 1))
    assert facets.tags == (("boat", 1), ("sea", 1))
    assert facets.formats == (("jpeg", 3), ("png", 1))


def test_a_user_caption_takes_precedence_over_the_caption_in_the_file(album: Album) -> None:
    content = album.contents()[0]
    picture = album.get_pictures([content])[content]
    album.describe(picture, caption="from the file", source="file")
    album.describe(picture, caption="by hand")
    assert album.get_pictures([content])[content].caption == "by hand"
    album.describe(picture, caption=None)
    assert album.get_pictures([content])[content].caption == "from the file"


@pytest.mark.parametrize("name", ["a.jpg", "c.png"])
def test_a_caption_written_to_the_file_keeps_the_picture_indexed(album: Album, encoder: DualEncoder, name: str) -> None:
    content = next(content for content in album.contents() if Path(album.copies(content)[0]).name == name)
    picture = album.get_pictures([content])[content]
    album.describe(picture, tags=["kept"])
    pixels = Image.open(picture.path).tobytes()
    assert album.write_caption_to_files(content, "A <b>red</b> boat") == [Path(picture.path)]
    assert read_caption(Path(picture.path)) == "A <b>red</b> boat"
    assert Image.open(picture.path).tobytes() == pixels
    again = album.get_pictures([content])[content]
    assert again.caption == "A <b>red</b> boat" and again.tags == ("kept",)
    summary = album.index(Path(picture.path).parent, model=encoder)
    assert (summary.unchanged, summary.changed, summary.added) == (4, 0, 0)
    assert album.search("red boat", where='caption:"red</b> boat"')[0].picture.content == content


def test_a_caption_is_written_to_every_copy(album: Album, encoder: DualEncoder, tmp_path: Path) -> None:
    copy = tmp_path / "photos" / "z.jpg"
    copy.write_bytes((tmp_path / "photos" / "a.jpg").read_bytes())
    album.index(tmp_path / "photos", model=encoder)
    content = album.contents()[0]
    assert [Path(path).name for path in album.copies(content)] == ["a.jpg", "z.jpg"]
    assert len(album.write_caption_to_files(content, "twice")) == 2
    assert read_caption(copy) == "twice" and len(album) == 4
    assert album.index(tmp_path / "photos", model=encoder).unchanged == 5


def test_a_sidecar_holds_the_caption_if_the_format_cannot(album: Album, encoder: DualEncoder, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "e.webp", 5)
    album.index(tmp_path / "photos", model=encoder)
    content = album.contents("format:webp")[0]
    before = hashlib.sha256((tmp_path / "photos" / "e.webp").read_bytes()).digest()
    assert album.write_caption_to_files(content, "beside") == [tmp_path / "photos" / "e.webp.xmp"]
    assert hashlib.sha256((tmp_path / "photos" / "e.webp").read_bytes()).digest() == before
    assert album.get_pictures([content])[content].caption == "beside"
    assert album.index(tmp_path / "photos", model=encoder).unchanged == 5


def test_a_file_that_changed_since_indexing_is_not_written(album: Album, tmp_path: Path) -> None:
    first, second, third = album.contents()[:3]
    a, b, c = (tmp_path / "photos" / name for name in ("a.jpg", "b.jpg", "c.png"))
    draw(a, 9)
    changed = a.read_bytes()
    with pytest.raises(PictureUnreadable, match="has changed since it was indexed"):
        album.write_caption_to_files(first, "no")
    assert a.read_bytes() == changed
    elsewhere = tmp_path / "elsewhere.jpg"
    b.rename(elsewhere)
    b.symlink_to(elsewhere)
    with pytest.raises(PictureUnreadable, match="is a link"):
        album.write_caption_to_files(second, "no")
    assert b.is_symlink() and read_caption(elsewhere) is None
    c.unlink()
    with pytest.raises(PictureNotFound):
        album.write_caption_to_files(third, "no")
    with pytest.raises(PictureNotFound, match="not in the album"):
        album.write_caption_to_files(999, "no")


def test_no_caption_is_written_while_another_process_indexes(album: Album) -> None:
    with album._writer_lock(), pytest.raises(AlbumBusy):
        album.write_caption_to_files(album.contents()[0], "no")
