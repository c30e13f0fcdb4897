"""Full-text search in captions, keywords and file names of any script."""

import unicodedata
from pathlib import Path

import pytest
from old_album import write_old_album
from small_album import draw, tiny_encoder

from beholder.album.album import Album
from beholder.album.fulltext import fold, match_expression, to_tokens, words_of
from beholder.tasks.dual_encoder import DualEncoder

CAPTIONS = {
    "zh": ("公园里的小狗和孩子们", ["小狗", "孩子", "公园里的小狗", "园"]),
    "ja": ("黒い猫が庭にいる", ["猫", "黒い猫", "にいる"]),
    "ko": ("공원에서노는강아지", ["강아지", "공원"]),
    "th": ("แมวดำในสวน", ["แมว", "ดำ", "สวน"]),
    "en": ("Puppy and children in the park", ["puppy", "PARK children"]),
    "fr": ("Le café près de l'église", ["cafe", "Église", unicodedata.normalize("NFD", "près")]),
    "de": ("Straße im Regen", ["strasse", "STRASSE"]),
    "wide": ("ＴＯＫＹＯ ﬁsh", ["tokyo", "fish"]),
}
OTHERS = ["小猫", "犬", "고양이", "หมา", "kitten", "chien"]


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return tiny_encoder()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, encoder: DualEncoder) -> Album:
    home = tmp_path_factory.mktemp("scripts")
    for number, name in enumerate(CAPTIONS):
        draw(home / "p" / f"{name}.png", number)
    album = Album.open(home / "album")
    album.index(home / "p", model=encoder)
    for name, (caption, _) in CAPTIONS.items():
        album.describe(home / "p" / f"{name}.png", caption=caption, tags=[caption])
    return album


def named(album: Album, words: str) -> list[str]:
    return [Path(one.picture.path).stem for one in album.search(words, top=50) if one.named]


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_word_in_a_caption_is_found_in_any_script_and_normalization_form(album: Album, name: str) -> None:
    for word in CAPTIONS[name][1]:
        for form in ("NFC", "NFD"):
            assert named(album, unicodedata.normalize(form, word)) == [name], word


@pytest.mark.parametrize("word", OTHERS)
def test_a_word_absent_from_all_captions_is_not_found(album: Album, word: str) -> None:
    assert named(album, word) == []


@pytest.mark.parametrize("name", ["zh", "ja", "ko", "fr", "de", "wide"])
def test_filters_compare_normalized_text(album: Album, name: str) -> None:
    caption, _ = CAPTIONS[name]
    for form in ("NFD", "NFKD"):
        text = unicodedata.normalize(form, caption).upper()
        (picture,) = album.pictures(f'caption:"{text}" tag:"{text}"')
        assert Path(picture.path).stem == name


def test_a_decomposed_file_name_is_found(tmp_path: Path, encoder: DualEncoder) -> None:
    draw(tmp_path / "p" / (unicodedata.normalize("NFD", "Müllers Café") + ".png"), 1)
    with Album.open(tmp_path / "album") as album:
        album.index(tmp_path / "p", model=encoder)
        assert len(named(album, "müllers café")) == 1 and len(list(album.pictures("name:müller"))) == 1


@pytest.mark.parametrize(
    "text", ["", '"', '" OR "', "NEAR(a b)", "a*", "^a", "-", "和", "\u0e33", "\u0301", "a:b", "_"]
)
def test_no_text_causes_a_query_syntax_error(album: Album, text: str) -> None:
    expression = match_expression(words_of(text))
    if expression:
        assert isinstance(album.search(text or "x", top=3), list)
    assert fold(fold(text)) == fold(text) and to_tokens(to_tokens(text)).split() == to_tokens(text).split()


@pytest.mark.parametrize("version", [1, 2])
def test_a_migrated_album_finds_words_in_unspaced_text(version: int, tmp_path: Path, encoder: DualEncoder) -> None:
    paths = [draw(tmp_path / "p" / name, number) for number, name in enumerate(["a.png", "b.png"])]
    write_old_album(tmp_path / "album", version, encoder, paths, {"a.png": CAPTIONS["zh"][0]})
    with Album.open(tmp_path / "album", create_new=False) as album:
        (found,) = [one for one in album.search("小狗", model=encoder) if one.named]
        assert found.picture.path == str(paths[0]) and found.picture.caption == CAPTIONS["zh"][0]
        assert list(album.pictures("has:place")) == []  # 0°, 0° means no GPS fix
        assert album.index(tmp_path / "p", model=encoder).unchanged == 2
