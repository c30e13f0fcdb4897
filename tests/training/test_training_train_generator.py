"""Training an image generator: it learns, resumes bit for bit, and refuses what can't be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_generator
import tiny_pairs
from beholder import DualEncoder
from beholder.errors import InvalidSetting
from beholder.training.generator_config import read_generator_config
from beholder.training.generator_data import fit_square
from beholder.training.interruption import Interrupted
from beholder.training.train_generator import summarize, train_generator
from beholder.weights.native_generator import load_image_generator


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_writes_a_model_that_loads_and_lowers_all_losses(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 12, broken=(3,))
    config = tiny_generator.config(tmp_path, steps=280, map_steps=200, batch=12)
    model = train_generator(config, tmp_path / "out", device="cpu")
    log = rows(tmp_path / "out")
    for part in ("map", "decoder", "prior"):
        losses = [row[part] for row in log if part in row]
        assert len(losses) == {"map": 200, "decoder": 80, "prior": 280}[part]
        # The error counts for up to 400 times near the data, so means would depend on the times that were drawn.
        assert np.median(losses[-25:]) < 0.7 * np.median(losses[:10])
    assert log[-1]["broken"] == 1
    (skipped,) = (tmp_path / "out" / "broken.jsonl").read_text().splitlines()
    assert "3.png" in json.loads(skipped)["name"]
    loaded = load_image_generator(model)
    assert loaded.network.settings.decoder.image_size == 16 and loaded.name == "walls"
    assert abs(float(loaded.network.images.scale) - 1) > 0.1, "the statistics of the embeddings are not saved"


def test_a_resumed_run_matches_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 12)
    config = tiny_generator.config(tmp_path, map_steps=2)
    train_generator(config, tmp_path / "whole", device="cpu")

    class Crash(Exception):
        pass

    def crash(row: dict[str, Any]) -> None:
        if row.get("step") == 6:
            raise Crash

    with pytest.raises(Crash):
        train_generator(config, tmp_path / "half", crash, device="cpu")
    train_generator(config, tmp_path / "half", device="cpu")
    whole, half = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("whole", "half"))
    assert whole.keys() == half.keys() and all(whole[name].equal(half[name]) for name in whole)
    timeless = [[(row["step"], row["loss"], row["prior"]) for row in rows(tmp_path / out)] for out in ("half", "whole")]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 9


def test_embeddings_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pairs.paint(tmp_path, 12)
    train_generator(tiny_generator.config(tmp_path, steps=1), tmp_path / "out", device="cpu")

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(DualEncoder, "embed_images", fail)
    monkeypatch.setattr(DualEncoder, "embed_texts", fail)
    train_generator(tiny_generator.config(tmp_path, steps=2), tmp_path / "out", device="cpu")
    assert rows(tmp_path / "out")[-1]["step"] == 2


def test_a_signal_saves_a_checkpoint(tmp_path: Path) -> None:
    import os
    import signal

    tiny_pairs.paint(tmp_path, 12)

    def interrupt(row: dict[str, Any]) -> None:
        if row.get("step") == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3 of 9"):
        train_generator(tiny_generator.config(tmp_path), tmp_path / "out", interrupt, device="cpu")
    assert [file.name for file in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000003.pt"]


def test_the_captions_to_evaluate_on_are_drawn_and_the_best_model_is_kept(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 12)
    settings = tiny_generator.settings(tmp_path, steps=4, evaluate_every=2, evaluate_on=3)
    settings["data"]["evaluate"] = str(tmp_path / "pairs.jsonl")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    train_generator(read_generator_config(tmp_path / "config.json"), tmp_path / "out", device="cpu")
    assert [row["step"] for row in rows(tmp_path / "out") if "image_to_text@1" in row] == [2, 4]
    with Image.open(tmp_path / "out" / "drawn" / "step-00000004.png") as sheet:
        assert sheet.size == (48, 16)
    assert load_image_generator(tmp_path / "out" / "best")


def test_another_config_does_not_resume_and_more_steps_do(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 12)
    train_generator(tiny_generator.config(tmp_path, steps=2), tmp_path / "out", device="cpu")
    with pytest.raises(InvalidSetting, match=r"another train\.batch"):
        train_generator(tiny_generator.config(tmp_path, steps=2, batch=5), tmp_path / "out", device="cpu")
    train_generator(tiny_generator.config(tmp_path, steps=3), tmp_path / "out", device="cpu")
    assert rows(tmp_path / "out")[-1]["step"] == 3


@pytest.mark.slow
def test_compiled_training_gives_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pairs.paint(tmp_path, 12)
    calls = []

    def traced(call: Any, *arguments: Any, real: Any = torch.compile, **options: Any) -> Any:
        calls.append(call)
        return real(call, backend="aot_eager")  # everything but C++ compilation, which takes half a minute

    monkeypatch.setattr(torch, "compile", traced)
    for compiled in (False, True):
        config = tiny_generator.config(tmp_path, steps=4, compile=compiled)
        train_generator(config, tmp_path / str(compiled), device="cpu")
    assert len(calls) == 2  # a trial compilation, and the decoder
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("False", "True")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("False", "True")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("train", {"steps": 0}, "steps 0 must be at least 1"),
        ("train", {"condition_dropout": 1.5}, "condition_dropout 1.5 must be a share"),
        ("train", {"step": 3}, "no such setting; do you mean steps"),
        ("model", {"decoder": {"patch_size": 5}}, "can't be cut into patches of 5"),
        ("model", {"decoder": {"embedding": 3}}, "follows from the encoder"),
        ("model", {"prior": {"depth": 3}}, r"model\.prior\.depth: there is no such setting"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, part: str, values: dict[str, Any], message: str) -> None:
    settings = tiny_generator.settings(tmp_path)
    settings[part] |= values
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidSetting, match=message):
        read_generator_config(tmp_path / "config.json")


def test_the_summary_says_what_would_be_trained(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 12)
    summary = summarize(tiny_generator.config(tmp_path))
    assert (summary["pictures"], summary["steps"], summary["embedding"]) == (12, 9, 8)
    assert summary["decoder"] > summary["prior"] > 0


def test_a_picture_is_fitted_into_a_square_on_white() -> None:
    square = np.asarray(fit_square(Image.new("RGB", (40, 20), "red"), 10))
    assert (square[:2] == 255).all() and (square[8:] == 255).all()
    assert (square[3:7] == (255, 0, 0)).all()


def test_the_recipe_is_valid() -> None:
    config = read_generator_config(Path(__file__).parents[2] / "recipes" / "emoji_generator" / "emoji.json")
    assert config.train.steps > 1000 and config.model.encoder.endswith("encoder")
