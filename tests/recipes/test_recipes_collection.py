"""What the recipes of mini's dual encoder compute once and share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beholder.text.script import is_non_latin
from calibrate import NEGATIVES, Pairs
from collection import Collection, SentenceVectors, chinese_names
from dataset import class_names
from locked_image_tuning import LabelSet, LockedImageConfig, LockedImageData, train_heads


def test_every_class_of_imagenet_has_a_chinese_name() -> None:
    names = chinese_names()
    assert set(class_names()) <= set(names)
    assert all(is_non_latin(chinese) for chinese in names.values())


def test_sentence_vectors_are_kept_with_their_sentences(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float16).reshape(3, 4)
    SentenceVectors(["a dog", "一只狗", "“quoted”"], rows).save(tmp_path / "work" / "vectors.npz")
    kept = SentenceVectors.load(tmp_path / "work" / "vectors.npz")
    assert kept.sentences == ["a dog", "一只狗", "“quoted”"]
    assert kept[["“quoted”", "a dog"]].tolist() == rows[[2, 0]].tolist()
    assert SentenceVectors.load(tmp_path / "missing.npz").sentences == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A collection of 300 captioned photographs of one source and 20 labeled ones of another."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(320):
        image = f"{number:03}.png"
        Image.fromarray(random.integers(0, 256, (9, 10, 3), dtype=np.uint8)).save(tmp_path / image)
        if number < 300:
            captions = {"captions": [f"caption {number}", f"other {number}"], "captions_zh": [f"图 {number}"]}
            rows.append({"image": image, "source": "flickr8k", **captions})
    labels = [{"image": f"{n:03}.png", "source": "clothes", "label": "hat"} for n in range(300, 320)]
    for name, lines in (("captions", rows), ("labels", labels)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return tmp_path


def test_the_sentences_of_held_out_photographs_come_before_those_of_training(folder: Path) -> None:
    collection = Collection(folder, folder / "work")
    assert collection.label_sets == {"clothes": ["hat"]}
    english, multilingual = collection.english_sentences(), collection.multilingual_sentences()
    assert len(set(english)) == len(english) and len(set(multilingual)) == len(multilingual)
    assert {f"caption {n}" for n in range(300)} | {"a photo of a hat", "hat"} <= set(english)
    held_out = {photograph.path.stem for part in ("test", "calibration") for photograph in collection.parts[part]}
    first = [sentence for sentence in multilingual if sentence.startswith("图 ")][: len(held_out) - 6]
    assert {sentence.removeprefix("图 ").zfill(3) for sentence in first} <= held_out


def test_matching_pairs_are_all_drawn_and_others_at_most_as_many_as_asked() -> None:
    fits = np.eye(200, dtype=bool)
    drawn = Pairs(torch.zeros(200, 2), torch.zeros(200, 2), fits).drawn(np.random.default_rng(0))
    assert drawn[fits].all() and drawn.sum() == 200 + NEGATIVES
    known = fits | np.eye(200, k=1, dtype=bool)
    drawn = Pairs(torch.zeros(200, 2), torch.zeros(200, 2), fits, known).drawn(np.random.default_rng(0))
    assert (drawn == known).all()


def test_labels_are_learned_that_no_caption_mentions() -> None:
    torch.manual_seed(0)
    classes = torch.arange(60) % 3
    centers, names = 4 * torch.eye(3, 8), torch.randn(3, 1, 6)
    labeled = LabelSet((centers[classes] + torch.rand(60, 8))[:, None], classes, names)
    data = LockedImageData(
        torch.rand(40, 1, 8), torch.randn(40, 1, 6), torch.randn(5, 1, 6), torch.randn(5, 8), torch.zeros(5), (labeled,)
    )
    settings = LockedImageConfig(
        part=4,
        hidden=8,
        steps=150,
        batch=16,
        learning_rate=1e-2,
        label_weight=3.0,
        caption_weight=0.1,
        trained_share=1.0,
    )
    heads = train_heads(data, settings)
    with torch.no_grad():
        chosen = (heads.image(labeled.images[:, 0]) @ heads.text(names[:, 0]).T).argmax(dim=-1)
    assert (chosen == classes).float().mean() > 0.9
