"""Keywords and places added to XMP, in pictures and sidecars."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_caption_metadata import OTHER_XMP, make

from beholder.pictures.caption_metadata import MetadataChanges, read_keywords, write_caption, write_metadata
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.xmp import XmpError, add_properties, parse_xmp

DOGS = MetadataChanges(
    "two dogs", ("dogs", "animals"), (("animals", "dogs"),), city="Köln", country="Germany & neighbors"
)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_what_is_written_can_be_read_back(suffix: str, tmp_path: Path) -> None:
    path = make(tmp_path, suffix)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    write_metadata(path, DOGS)
    found = photo_metadata(path.read_bytes(), path)
    assert (found.caption, found.city, found.country) == ("two dogs", "Köln", "Germany & neighbors")
    assert set(found.tags) == {"dogs", "animals", "animals/dogs"} == set(read_keywords(path))
    assert (np.asarray(Image.open(path).convert("RGB")) == pixels).all()
    before = path.read_bytes()
    write_metadata(path, MetadataChanges(keywords=("dogs",), city="Elsewhere"))
    assert path.read_bytes() == before, "nothing is replaced, and nothing written twice"


def test_existing_keywords_and_places_stay(tmp_path: Path) -> None:
    path = make(tmp_path, "jpg")
    write_caption(path, "mine")
    sidecar = tmp_path / "photo.jpg.xmp"
    sidecar.write_bytes(OTHER_XMP)
    write_metadata(path, MetadataChanges(None, ("dogs",), (("animals", "dogs"),), "Köln"))
    properties = parse_xmp(sidecar.read_bytes())
    assert properties["dc:subject"].texts == ["wedding", "dogs"]
    assert properties["lr:hierarchicalSubject"].texts == ["a|b", "animals|dogs"]
    assert properties["dc:description"].default == "an older one" and properties["xmp:Rating"].text == "4"


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
def test_exiftool_agrees(tmp_path: Path) -> None:
    path = make(tmp_path, "jpg")
    write_metadata(path, DOGS)
    output = subprocess.run(["exiftool", "-json", str(path)], capture_output=True, check=True, text=True).stdout
    found = json.loads(output)[0]
    assert found["Subject"] == ["dogs", "animals"] and found["HierarchicalSubject"] == "animals|dogs"
    assert (found["City"], found["Country"], found["Description"]) == ("Köln", DOGS.country, "two dogs")


@pytest.mark.parametrize(
    "subject", ['dc:subject="dogs"/>', "><dc:subject>dogs</dc:subject></rdf:Description>"], ids=["attribute", "plain"]
)
def test_a_keyword_in_the_wrong_form_is_left_alone(subject: str) -> None:
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" {subject}</rdf:RDF></x:xmpmeta>'
    )
    assert add_properties(packet.encode(), {}, {"dc:subject": ["dogs"]}) == packet.encode()
    with pytest.raises(XmpError):
        add_properties(packet.encode(), {}, {"dc:subject": ["cats"]})


@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4, unique=True))
def test_any_keywords_are_added_beside_those_that_there_are(words: list[str]) -> None:
    allowed = [word for word in words if all(letter.isprintable() for letter in word)]
    edited = add_properties(OTHER_XMP, {"photoshop:City": "A < B"}, {"dc:subject": allowed})
    after = parse_xmp(edited)
    assert after["dc:subject"].texts == list(dict.fromkeys(["wedding", *allowed]))
    assert after.pop("photoshop:City").text == "A < B"
    before = parse_xmp(OTHER_XMP)
    assert {**before, "dc:subject": None} == {**after, "dc:subject": None}
