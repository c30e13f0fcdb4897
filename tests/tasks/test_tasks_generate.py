"""ImageGenerator: seeds, batches, candidates, sums of embeddings, and what it refuses."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny_generator
from beholder import DualEncoder, ImageGenerator
from beholder.errors import InvalidSetting, ModelError, ModelNotFound, NotAPicture, NotFinite
from beholder.tasks.embedding_arithmetic import combine
from beholder.tasks.unclip_backend import UnclipBackend
from beholder.text.tokenizer import TruncationWarning
from beholder.weights.native_generator import save_image_generator


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators") / "tiny"
    save_image_generator(tiny_generator.build(), folder)
    return folder


@pytest.fixture(scope="module", name="generator")
def _generator(folder: Path) -> ImageGenerator:
    return ImageGenerator.from_pretrained(folder, device="cpu")


def same(left: Image.Image, right: Image.Image) -> bool:
    return np.array_equal(np.asarray(left), np.asarray(right))


def test_a_seed_draws_the_same_picture_alone_and_among_others(generator: ImageGenerator) -> None:
    many = generator.generate("a red heart", count=4, seed=7, steps=4)
    assert [picture.info["seed"] for picture in many] == [7, 8, 9, 10]
    assert all(picture.size == (16, 16) for picture in many)
    (alone,) = generator.generate("a red heart", seed=9, steps=4)
    assert same(alone, many[2])
    assert not same(many[0], many[1])


def test_without_a_seed_every_call_draws_others(generator: ImageGenerator) -> None:
    seeds = {generator.generate("a cat", steps=1)[0].info["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_the_best_candidate_is_kept_and_its_seed_draws_it_again(generator: ImageGenerator) -> None:
    every = list(generator.stream("a cat", count=6, seed=20, steps=3))
    best = list(generator.stream("a cat", count=2, candidates=3, seed=20, steps=3))
    for kept, group in zip(best, (every[:3], every[3:]), strict=True):
        winner = max(group, key=lambda each: each.cosine or 0)
        assert kept.seed == winner.seed and same(kept.picture, winner.picture)
        assert kept.cosine == pytest.approx(winner.cosine, abs=1e-6) and 0 <= (kept.match or 0) <= 1


def test_the_score_is_the_cosine_of_drawing_and_text(generator: ImageGenerator, folder: Path) -> None:
    (drawn,) = generator.stream("a cat", seed=1, steps=2)
    encoder = DualEncoder.from_pretrained(folder / "encoder", device="cpu")
    assert drawn.cosine == pytest.approx(float(encoder.similarity([drawn.picture], ["a cat"])[0, 0]), abs=1e-5)


def test_a_picture_its_embedding_and_a_sum_of_both_drive_the_generator(
    generator: ImageGenerator, photographs: list[Path], folder: Path
) -> None:
    variation = generator.generate(like=photographs[0], seed=3, steps=3)[0]
    assert same(generator.generate(like=[str(photographs[0])], seed=3, steps=3)[0], variation)
    embedding = DualEncoder.from_pretrained(folder / "encoder", device="cpu").embed_images(photographs[0])[0]
    assert same(generator.generate(embedding=2 * embedding, seed=3, steps=3)[0], variation)
    assert not same(generator.generate("a cat", like=photographs[0], seed=3, steps=3)[0], variation)
    assert variation.info["match"] is None and -1 <= variation.info["cosine"] <= 1


def test_taking_away_what_is_added_leaves_the_picture(generator: ImageGenerator, photographs: list[Path]) -> None:
    variation = np.asarray(generator.generate(like=photographs[0], seed=3, steps=3)[0]).astype(int)
    back = generator.generate("a cat", like=photographs[0], minus="a cat", seed=3, steps=3)[0]
    other = generator.generate("a cat", like=photographs[0], minus="a dog", seed=3, steps=3)[0]
    distances = [np.abs(np.asarray(each).astype(int) - variation).mean() for each in (back, other)]
    assert distances[0] < distances[1]


def test_guidance_and_steps_change_the_picture(generator: ImageGenerator) -> None:
    usual = generator.generate("a cat", seed=1)[0]
    assert not same(generator.generate("a cat", seed=1, guidance=8.0)[0], usual)
    assert not same(generator.generate("a cat", seed=1, steps=3)[0], usual)


def test_each_step_shows_the_drawing_as_it_grows(generator: ImageGenerator) -> None:
    seen: list[tuple[int, int]] = []
    last: list[Image.Image] = []

    def on_step(step: int, steps: int, picture: Any) -> None:
        seen.append((step, steps))
        last.append(picture())

    (drawn,) = generator.stream("a cat", seed=1, steps=5, on_step=on_step)
    assert seen == [(step, 5) for step in range(1, 6)]
    assert not same(last[0], last[4])
    assert np.abs(np.asarray(last[4]).astype(int) - np.asarray(drawn.picture)).mean() < 40


def test_pictures_come_one_by_one(generator: ImageGenerator) -> None:
    steps: list[int] = []
    stream = generator.stream("a cat", count=3, seed=1, steps=2, on_step=lambda step, *_: steps.append(step))
    next(stream)
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to draw"),
        ({"text": "  "}, "it is empty"),
        ({"text": 3}, "text must be a str"),
        ({"text": "a", "minus": [""]}, "minus must be a sentence"),
        ({"text": "a", "count": 0}, "count 0 must be an integer between 1 and 1000"),
        ({"text": "a", "candidates": 1.5}, "candidates 1.5 must be"),
        ({"text": "a", "steps": 0}, "steps 0 must be"),
        ({"text": "a", "guidance": float("nan")}, "guidance nan must be"),
        ({"text": "a", "seed": -1}, "seed -1 must be"),
        ({"text": "a", "size": 3}, "size 3 must be"),
        ({"text": "a", "size": 512}, "size 512x512: tiny draws 16x16 only"),
        ({"embedding": np.zeros(8)}, "not all zero"),
        ({"embedding": np.ones(9)}, "an array of 8 finite numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused(generator: ImageGenerator, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        generator.generate(**arguments)


def test_a_file_that_is_no_picture_is_named(generator: ImageGenerator, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(NotAPicture, match=r"text\.jpg"):
        generator.generate(like=tmp_path / "text.jpg")


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(generator: ImageGenerator) -> None:
    with pytest.warns(TruncationWarning):
        generator.generate("cat " * 40, steps=1, seed=1)


def test_a_generator_is_saved_loaded_and_pickled_bit_for_bit(generator: ImageGenerator) -> None:
    again = pickle.loads(pickle.dumps(generator))
    assert same(again.generate("a cat", seed=1, steps=2)[0], generator.generate("a cat", seed=1, steps=2)[0])
    assert again.fingerprint == generator.fingerprint and len(generator.fingerprint) == 64


def test_other_weights_have_another_fingerprint(generator: ImageGenerator) -> None:
    loaded = tiny_generator.build()
    loaded.network.decoder.positions.data[0, 0] += 1
    assert UnclipBackend(loaded, "cpu").fingerprint != generator.fingerprint


def test_damaged_weights_are_reported() -> None:
    loaded = tiny_generator.build()
    loaded.network.decoder.positions.data[0, 0] = float("nan")
    with pytest.raises(NotFinite, match="weights may be damaged"):
        ImageGenerator(UnclipBackend(loaded, "cpu")).generate("a cat", steps=1)


def test_models_that_are_not_there_are_refused_with_what_to_do(tmp_path: Path, tiny_model: Path, folder: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        ImageGenerator.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is of format 'beholder dual encoder'"):
        ImageGenerator.from_pretrained(tiny_model)
    half = tmp_path / "half"
    half.mkdir()
    for name in ("beholder.json", "model.safetensors"):
        (half / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ModelError, match="only half of it is here"):
        ImageGenerator.from_pretrained(half)
    (half / "beholder.json").write_text((folder / "beholder.json").read_text().replace('"encoder"', '"else/where"', 2))
    with pytest.raises(ModelError):
        ImageGenerator.from_pretrained(half)


def test_analogies_are_sums_of_differences_to_the_center() -> None:
    center = np.array([10.0, 0.0, 0.0])
    east, north = center + np.array([0.0, 2, 0]), center + np.array([0.0, 0, 2])
    expected = np.array([10, 2**0.5, 2**0.5])
    assert np.allclose(combine([east, north], [], center), expected / np.linalg.norm(expected), atol=1e-6)
    assert np.allclose(combine([east, north], [east], center), north / np.linalg.norm(north), atol=1e-6)
    assert np.allclose(combine([east], [east], center), [1, 0, 0], atol=1e-6)
