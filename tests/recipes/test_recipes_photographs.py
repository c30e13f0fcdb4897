"""Reading and splitting the photographs that mini is trained on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from beholder.errors import InvalidSetting
from photographs import (
    CALIBRATION,
    TEST,
    Photograph,
    near_duplicates,
    perceptual_hash,
    perceptual_hashes,
    read_collection,
    read_photographs,
    split_by_source,
)

FOLDER = Path(os.environ.get("BEHOLDER_PHOTOGRAPHS", "photographs"))


def scene(seed: int) -> Image.Image:
    """Return a picture of large soft shapes, similar to a photograph."""
    grid = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    return Image.fromarray(grid).resize((240, 200), Image.Resampling.BICUBIC)


def write(file: Path, *rows: dict) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def test_captions_labels_and_questions_of_a_folder_are_read(tmp_path: Path) -> None:
    both = {"image": "a.jpg", "captions": ["A dog.", "A brown dog."], "source": "flickr8k", "captions_zh": ["一只狗。"]}
    write(tmp_path / "captions.jsonl", both, {"image": "b.jpg", "captions": ["A room."], "source": "web"})
    write(tmp_path / "labels.jsonl", {"image": "c.jpg", "label": "Hat", "source": "clothes"})
    questions = [{"image": "d.jpg", "question": f"what {n}?", "answer": "lamp", "source": "daquar"} for n in range(2)]
    write(tmp_path / "questions.jsonl", *questions)
    first, second, third, fourth = read_collection(tmp_path)
    assert first == Photograph(tmp_path / "a.jpg", ("A dog.", "A brown dog."), "flickr8k", ("一只狗。",))
    assert (second.source, second.chinese) == ("web", ())
    assert (third.label, third.captions) == ("Hat", ())
    assert fourth.questions == (("what 0?", "lamp"), ("what 1?", "lamp"))
    assert read_photographs(tmp_path / "captions.jsonl") == [first, second]


@pytest.mark.parametrize("line", ["[]", "{", '{"image": "a.jpg"}', '{"image": "a.jpg", "captions": "A dog."}'])
def test_an_invalid_line_is_reported_by_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "captions": []}\n' + line + "\n")
    with pytest.raises(InvalidSetting, match="line 2"):
        read_collection(tmp_path)


def test_a_perceptual_hash_is_robust_to_size_and_exposure_and_distinguishes_scenes(tmp_path: Path) -> None:
    picture = scene(0)
    smaller = ImageOps.autocontrast(picture.resize((97, 111))).crop((1, 1, 96, 110))
    others = np.array([perceptual_hash(scene(seed)) for seed in range(1, 40)])
    own = np.array([perceptual_hash(picture)])
    assert near_duplicates(own, np.array([perceptual_hash(smaller)])).all()
    assert not near_duplicates(own, others).any()
    for name, each in (("a.png", picture), ("b.png", smaller)):
        each.save(tmp_path / name)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    hashes = perceptual_hashes(paths, tmp_path / "hashes.json")
    assert hashes[paths[0]] == perceptual_hash(picture)
    paths[0].unlink()
    assert perceptual_hashes(paths, tmp_path / "hashes.json") == hashes, "they are computed once"


def test_the_split_covers_each_source_and_excludes_near_duplicates_of_the_test_set() -> None:
    random = np.random.default_rng(0)
    photographs = [
        *(Photograph(Path(f"{source}-{n}.jpg"), ("A dog.",), source) for source in TEST for n in range(600)),
        *(Photograph(Path(f"hat-{n}.jpg"), (), "clothes", label="hat") for n in range(50)),
    ]
    hashes = {one.path: random.integers(0, 2**64, dtype=np.uint64) for one in photographs}
    parts = split_by_source(photographs, hashes)
    counts = {
        part: {source: sum(one.source == source for one in found) for source in {*TEST, "clothes"}}
        for part, found in parts.items()
    }
    assert counts["test"] == {**TEST, "clothes": 10}
    assert counts["calibration"] == {**dict.fromkeys(TEST, 0), **CALIBRATION, "clothes": 5}
    assert sum(map(len, parts.values())) == len(photographs)

    sibling, elsewhere = parts["training"][:2]
    hashes[sibling.path] = hashes[parts["test"][0].path] ^ np.uint64(0b111)
    again = split_by_source(photographs, hashes, [hashes[elsewhere.path]])
    assert again["test"] == parts["test"]
    assert set(parts["training"]) - set(again["training"]) == {sibling, elsewhere}
    fewer = split_by_source(photographs[1:], hashes)
    assert set(again["test"]) - set(fewer["test"]) <= {photographs[0]}, "removing a photograph does not move the others"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="BEHOLDER_PHOTOGRAPHS names no folder with the photographs")
def test_the_real_photographs_can_be_read() -> None:
    found = read_collection(FOLDER)
    assert len(found) > 18_000
    assert all(one.captions or one.label or one.questions for one in found)
