"""A RAW file and the JPEG of the same shot are one picture of an album."""

from pathlib import Path

import pytest
from PIL import Image
from small_album import draw, tiny_encoder
from test_raw import dng

from beholder.album.album import Album
from beholder.tasks.dual_encoder import DualEncoder

pytest.importorskip("rawpy", reason='needs the extra "raw"')
pytestmark = pytest.mark.filterwarnings("ignore::beholder.pictures.raw.RawDevelopedWarning")
SIDECAR = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
)


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos" / "IMG_1.JPG", 1)
    (tmp_path / "photos" / "img_1.dng").write_bytes(dng())
    (tmp_path / "photos" / "IMG_2.DNG").write_bytes(dng(6))
    return tmp_path / "photos"


def names(album: Album) -> list[str]:
    return [Path(picture.path).name for picture in album.pictures()]


def test_the_jpeg_is_shown_and_the_raw_belongs_to_it(tmp_path: Path, photos: Path, encoder: DualEncoder) -> None:
    (photos / "img_1.dng.xmp").write_text(SIDECAR)
    with Album.open(tmp_path / "album") as album:
        summary = album.index(photos, model=encoder)
        assert names(album) == ["IMG_1.JPG", "IMG_2.DNG"] and summary.raw_companions == 1
        shown = next(iter(album.pictures("name:jpg")))
        assert album.raw_files(shown.content) == [str(photos / "img_1.dng")]
        assert shown.rating == 4, "the sidecar of the RAW file belongs to the pair"
        again = album.index(photos, model=encoder)
        assert (again.added, again.removed, again.unchanged) == (0, 0, 2)


def taken_at(time: str) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"2024:05:01 {time}"
    return exif


@pytest.mark.parametrize(("time", "is_pair"), [("10:00:00", True), ("10:00:01", True), ("11:00:00", False)])
def test_a_raw_file_of_another_time_is_a_picture_of_its_own(
    time: str, is_pair: bool, tmp_path: Path, encoder: DualEncoder
) -> None:
    draw(tmp_path / "photos" / "a.jpg", 1, exif=taken_at(time))
    (tmp_path / "photos" / "a.dng").write_bytes(dng(taken="2024:05:01 10:00:00"))
    with Album.open(tmp_path / "album") as album:
        for _ in range(2):
            album.index(tmp_path / "photos", model=encoder)
            assert names(album) == (["a.jpg"] if is_pair else ["a.dng", "a.jpg"])


def test_what_a_person_wrote_passes_between_the_two(tmp_path: Path, photos: Path, encoder: DualEncoder) -> None:
    jpeg, away = photos / "IMG_1.JPG", tmp_path / "away.jpg"
    jpeg.rename(away)
    with Album.open(tmp_path / "album") as album:
        album.index(photos, model=encoder)
        album.describe(photos / "img_1.dng", caption="Mine", tags=["heirloom"])
        away.rename(jpeg)
        album.index(photos, model=encoder)
        assert names(album) == ["IMG_1.JPG", "IMG_2.DNG"]
        assert next(iter(album.pictures("name:jpg"))).caption == "Mine"
        album.describe(jpeg, caption="Newer", tags=["heirloom"])
        jpeg.rename(away)
        album.index(photos, model=encoder)
        raw = next(iter(album.pictures("name:img_1")))
        assert (Path(raw.path).name, raw.caption, raw.tags) == ("img_1.dng", "Newer", ("heirloom",))
