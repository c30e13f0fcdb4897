"""``beholder generate``: files, metadata, sheets, JSON lines, bad calls, interruption."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny_generator
from beholder.tasks.unclip_backend import UnclipDrawer
from beholder.weights.native_generator import save_image_generator
from command import beholder


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators") / "tiny"
    save_image_generator(tiny_generator.build(), folder)
    return folder


def test_a_picture_is_written_with_what_it_takes_to_draw_it_again(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    run = beholder("generate", "a cat", "--model", model, "--seed", "5", "--steps", "3", "--out", out, "--json")
    assert run.returncode == 0, run.stderr
    (row,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert (row["text"], row["path"], row["seed"]) == ("a cat", str(out), 5)
    assert -1 <= row["cosine"] <= 1 and 0 <= row["match"] <= 1
    with Image.open(out) as picture:
        assert picture.size == (16, 16)
        assert (picture.info["prompt"], picture.info["seed"], picture.info["model"]) == ("a cat", "5", "tiny")
        assert len(picture.info["fingerprint"]) == 64
        pixels = np.asarray(picture).copy()
    run = beholder("generate", "a cat", "-m", model, "--seed", "5", "--steps", "3", "-o", out, "--no-metadata")
    assert run.returncode == 0 and f"{out}: seed 5" in run.stdout
    with Image.open(out) as picture:
        assert picture.info == {} and np.array_equal(np.asarray(picture), pixels)


def test_every_text_gets_pictures_of_its_own_in_a_folder(model: Path, tmp_path: Path) -> None:
    call = ["generate", "a cat!", "../dog", "--model", model, "--count", "2", "--seed", "1", "--steps", "1"]
    run = beholder(*call, "--out", tmp_path / "new", "--json")
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "a-cat-1.png",
        "a-cat-2.png",
        "dog-1.png",
        "dog-2.png",
    ]
    assert [json.loads(line)["text"] for line in run.stdout.splitlines()] == ["a cat!", "a cat!", "../dog", "../dog"]


def test_a_grid_is_one_sheet_of_all(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.webp"
    run = beholder("generate", "a cat", "-m", model, "--grid", "5", "--seed", "1", "--steps", "1", "-o", out, "--json")
    assert [json.loads(line)["seed"] for line in run.stdout.splitlines()] == [1, 2, 3, 4, 5], run.stderr
    with Image.open(out) as sheet:
        assert sheet.size == (48, 32)


def test_a_variation_needs_no_text(model: Path, tmp_path: Path, photographs: list[Path]) -> None:
    run = beholder(
        *["generate", "--like", photographs[0], "--minus", "a cat", "-m", model, "--seed", "2", "--steps", "1"],
        *["--out", tmp_path, "--json"],
    )
    assert run.returncode == 0, run.stderr
    row = json.loads(run.stdout)
    assert row["text"] is None and row["match"] is None and Path(row["path"]).name == "variation-2.png"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ([], "nothing to draw"),
        ([""], "TEXT must be a sentence"),
        (["a", "b", "--out", "one.png"], "is one file, and 2 are to be written"),
        (["a", "--out", "one.gif"], "must end in .png or .jpg"),
        (["a", "--grid", "4", "--count", "2"], "--grid and --count both"),
        (["a", "--size", "big"], "must be WIDTHxHEIGHT"),
        (["a", "--size", "64x64"], "draws 16x16 only"),
        (["a", "--steps", "0"], "steps 0 must be"),
        (["--like", "nowhere.jpg"], "--like nowhere.jpg"),
        (["a", "--ip-adapter", "a.safetensors"], "are for pipelines of diffusers"),
        (["a", "--reranker", "no-such-model"], "no-such-model: no such folder"),
    ],
)
def test_a_bad_call_exits_with_2_and_writes_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = beholder("generate", *call, "--model", model)
    assert run.returncode == 2 and message in run.stderr and "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_a_model_mini_draws(tmp_path: Path) -> None:
    run = beholder("generate", "a red heart", "--seed", "1", "--out", tmp_path / "heart.png", "--json")
    assert run.returncode == 0, run.stderr
    row = json.loads(run.stdout)
    assert row["match"] > 0.5
    with Image.open(tmp_path / "heart.png") as picture:
        assert picture.size == (64, 64) and picture.info["model"] == "mini"


@pytest.mark.parametrize("grid", [False, True])
def test_an_interruption_keeps_what_is_done(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: bool
) -> None:
    draw = UnclipDrawer.draw

    def interrupted(self: UnclipDrawer, seed: int, on_step: object = None) -> Image.Image:
        if seed == 3:
            raise KeyboardInterrupt
        return draw(self, seed)

    monkeypatch.setattr(UnclipDrawer, "draw", interrupted)
    how_many = "--grid" if grid else "--count"
    run = beholder("generate", "a cat", "-m", model, how_many, "9", "--seed", "1", "--steps", "1", "-o", tmp_path)
    assert run.returncode == 130
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == (["a-cat-1.png"] if grid else ["a-cat-1.png", "a-cat-2.png"])
    with Image.open(tmp_path / "a-cat-1.png") as picture:
        assert picture.size == ((32, 16) if grid else (16, 16))


def test_train_generator_checks_and_trains(tmp_path: Path) -> None:
    import tiny_pairs

    tiny_pairs.paint(tmp_path, 8)
    (tmp_path / "config.json").write_text(json.dumps(tiny_generator.settings(tmp_path, steps=2)))
    run = beholder("train", "generator", tmp_path / "config.json", "--check", "--json")
    assert run.returncode == 0 and json.loads(run.stdout)["pictures"] == 8, run.stderr
    run = beholder("train", "generator", tmp_path / "config.json", "--out", tmp_path / "out", "--device", "cpu")
    assert run.returncode == 0 and "ImageGenerator.from_pretrained opens it" in run.stdout, run.stderr
    run = beholder("generate", "a wall", "-m", tmp_path / "out" / "model", "--steps", "1", "-o", tmp_path / "a.png")
    assert run.returncode == 0 and (tmp_path / "a.png").is_file(), run.stderr
