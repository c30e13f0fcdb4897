"""The filter language: what it matches, what it rejects, and that no value can inject SQL."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_album import draw, tiny_encoder

from beholder.album.album import Album
from beholder.album.filters import FIELDS, parse
from beholder.errors import InvalidSetting


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """a: Canon, May 2024, Berlin, 40 x 32; b: Nikon, January 2023, 80 x 64; c: no metadata, in a subfolder."""
    home = tmp_path_factory.mktemp("album")
    for number, (name, camera, taken, size) in enumerate(
        [
            ("a.jpg", "Canon EOS R6", "2024:05:31 23:59:59", (40, 32)),
            ("b.jpg", "NIKON D3", "2023:01:01 00:00:00", (80, 64)),
        ]
    ):
        exif = Image.Exif()
        exif[0x0110] = camera
        exif[0x8769] = {0x9003: taken}
        if name == "a.jpg":
            exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)}
        draw(home / "p" / name, number, size, exif)
    draw(home / "p" / "10% off" / "c.png", 5)
    album = Album.open(home / "album")
    album.index(home / "p", model=tiny_encoder())
    album.describe(home / "p" / "a.jpg", caption="A Dog on the Straße", tags=["Best of", "dogs"])
    return album


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("", "abc"),
        ("date:2024", "a"),
        ("date>=2024-05", "a"),
        ("date>2024-05", ""),
        ("date<=2024-05-31", "ab"),
        ("date<2024-05-31", "b"),
        ("date=2023-01-01", "b"),
        ("date>2023-01-01", "a"),
        ("camera:canon", "a"),
        ("CAMERA:nikon or camera:canon", "ab"),
        ("not camera:canon", "bc"),
        ("-camera:canon -has:date", "c"),
        ("-(camera:canon or camera:nikon)", "c"),
        ("width>=80 and height<=64", "b"),
        ("pixels>0.002mp", "b"),
        ("pixels<2k", "ac"),
        ("size<1gb", "abc"),
        ("size>1mb", ""),
        ('tag:"best OF"', "a"),
        ("tag:best", ""),
        ("caption:STRASSE", "a"),
        ("caption:dog name:a.jpg", "a"),
        ("format:jpg", "ab"),
        ("format:png or width>70", "bc"),
        ("has:place", "a"),
        ("has:tag", "a"),
        ("near:52.52,13.405,5", "a"),
        ("near:48.1,11.6,100", ""),
        ('name:"10% off"', "c"),
        ("name:%", "c"),
        ("name:_", ""),
        ("camera:canon or camera:nikon width:80", "ab"),
    ],
)
def test_a_filter_returns_matching_pictures(album: Album, where: str, names: str) -> None:
    assert "".join(sorted(Path(one.path).stem for one in album.pictures(where))) == names


def test_a_folder_filter_does_not_match_a_folder_with_the_same_prefix(album: Album) -> None:
    root = album.folder.parent / "p"
    assert len(list(album.pictures(f'folder:"{root}"'))) == 3
    assert len(list(album.pictures(f'folder:"{root}/10% off"'))) == 1
    assert len(list(album.pictures(f'folder:"{root}/10"'))) == 0
    assert [Path(one.path).stem for one in album.pictures(f'folder:"{os.path.relpath(root)}/a.jpg"')] == ["a"]


@pytest.mark.parametrize(
    "where",
    [
        "dog", "colour:red", "date:yesterday", "date:2024-13", "date:2024-02-31", "width:wide", "width>=3parsecs",
        "camera>canon", "(camera:a", "camera:a)", "or", "camera:a or", "not",
        "near:1,2", "near:100,0,1", "near:n,0,1",
        'camera:"open', "camera:", "has:nothing", "(" * 100 + "width:1" + ")" * 100, "x" * 20_000,
    ],
)  # fmt: skip
def test_a_syntax_error_is_reported_with_its_position(where: str) -> None:
    with pytest.raises(InvalidSetting, match="filter"):
        parse(where)


@given(st.text(max_size=40), st.sampled_from(["name", "caption", "tag", "camera", "format"]))
def test_no_value_escapes_its_quotes(album: Album, text: str, field: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    condition = parse(f'{field}:"{quoted}"')
    assert condition.sql == parse(f"{field}:x").sql and len(condition.bound) == 1
    if "\x00" not in text and text.isprintable():
        list(album.pictures(f'{field}:"{quoted}"'))
    assert len(album) == 3


@given(st.text(alphabet=st.sampled_from("()-\"' ;:=<>%or not and datewidthcamera2024\\"), max_size=60))
def test_any_text_is_a_filter_or_raises_a_beholder_error(album: Album, text: str) -> None:
    try:
        list(album.pictures(text))
    except InvalidSetting:
        return


def test_every_field_is_documented() -> None:
    from beholder.album import filters

    assert all(field in (filters.__doc__ or "") for field in FIELDS)
