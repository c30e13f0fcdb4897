"""Short training runs: what is learned, what stays frozen, and that resuming does not change the result."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_model
import tiny_pairs
from beholder import DualEncoder
from beholder.errors import InvalidSetting, ModelError, NotFinite, WriteFailed
from beholder.training.checkpoints import checkpoints, write_checkpoint
from beholder.training.losses import LOSSES
from beholder.training.train_clip import train_clip
from beholder.weights.native import load_dual_encoder

MODEL = "model/model.safetensors"


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def learned(out: Path) -> bytes:
    return (out / MODEL).read_bytes()


@pytest.mark.slow
def test_training_reduces_the_loss_and_the_result_loads_as_a_dual_encoder(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.config(
        tmp_path, train={"steps": 80, "evaluate_every": 20}, data={"evaluate": "pairs.jsonl"}, model={"name": "mine"}
    )
    logged: list[dict[str, Any]] = []
    folder = train_clip(config, tmp_path / "out", logged.append)
    losses = [row["loss"] for row in logged if "loss" in row]
    assert len(losses) == 80 and losses[-1] < 0.6 * losses[0]
    assert logged == rows(tmp_path / "out")
    figures = [row["text_to_image@5"] for row in logged if "text_to_image@5" in row]
    assert len(figures) == 4 and figures[-1] > 0.5
    encoder = DualEncoder.from_pretrained(folder)
    assert encoder.loaded.name == "mine"
    red = encoder.classify(tmp_path / "pictures" / "0.png", ["red", "blue", "green"], "a {} wall")
    assert red[0][0] == "red"
    assert (tmp_path / "out" / "best" / "beholder.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"augment": {"smallest_crop": 0.5, "flip": 0.5, "color_jitter": 0.3}, "train": {"ema_decay": 0.8, "chunk": 3}},
        {"train": {"loss": "sigmoid", "precision": "bfloat16", "recompute": True}},
    ],
    ids=["contrastive", "sigmoid"],
)
def test_a_run_resumed_within_an_epoch_matches_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pairs.paint(tmp_path, 21, broken=(4, 9))
    config = tiny_pairs.config(tmp_path, **options)
    train_clip(config, tmp_path / "whole")

    class Crash(Exception):
        pass

    def crash(row: dict[str, Any]) -> None:
        if row["step"] == 8:
            raise Crash

    with pytest.raises(Crash):
        train_clip(config, tmp_path / "half", crash)
    assert [path.name for path in checkpoints(tmp_path / "half" / "checkpoints")] == ["step-00000005.pt"]
    train_clip(config, tmp_path / "half")
    assert learned(tmp_path / "half") == learned(tmp_path / "whole")
    timeless = [
        [{name: row[name] for name in ("step", "loss", "rate", "gradient", "scale")} for row in rows(tmp_path / out)]
        for out in ("half", "whole")
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 12


def test_broken_pictures_are_counted_and_reported_by_name(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, broken=(4, 9))
    train_clip(tiny_pairs.config(tmp_path), tmp_path / "out")
    named = [json.loads(line) for line in (tmp_path / "out" / "broken.jsonl").read_text().splitlines()]
    assert sorted(each["name"] for each in named) == ["pictures/4.png", "pictures/9.png"]
    assert all("not a picture" in each["reason"] for each in named)
    assert rows(tmp_path / "out")[-1]["broken"] == 2


def test_training_without_usable_pictures_is_an_error(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 8, broken=tuple(range(8)))
    with pytest.raises(InvalidSetting, match=r"none of the 8 pictures of a batch can be used; broken\.jsonl"):
        train_clip(tiny_pairs.config(tmp_path), tmp_path / "out")


def pretrained(tmp_path: Path) -> dict[str, torch.Tensor]:
    DualEncoder(tiny_model.build()).save_pretrained(tmp_path / "begin")
    return load_file(tmp_path / "begin" / "model.safetensors")


def changed(tmp_path: Path, **options: Any) -> set[str]:
    before = pretrained(tmp_path)
    options = {"model": {"from_pretrained": "begin", "network": None, "vocabulary": 8192}, **options}
    train_clip(tiny_pairs.config(tmp_path, **options), tmp_path / "out")
    after = load_file(tmp_path / "out" / MODEL)
    assert set(after) == set(before)
    return {name for name in after if not torch.equal(after[name], before[name])}


def test_with_frozen_towers_only_the_heads_change(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    moved = changed(tmp_path, freeze={"image": "all", "text": "all"})
    assert moved == {"image_head.linear.weight", "text_head.linear.weight", "logit_scale"}


def test_the_first_layers_of_a_tower_can_be_frozen(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    moved = changed(tmp_path, freeze={"image": 1, "text": "all"})
    assert "image.final_norm.weight" in moved and "image_head.linear.weight" in moved
    assert not {name for name in moved if name.startswith(("text.", "image.blocks", "image.patches", "image.pos"))}


def test_lora_adapters_are_merged_into_their_weights(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    moved = changed(tmp_path, lora={"rank": 2, "text": False}, train={"ema_decay": 0.5})
    assert "image.blocks.0.attention.qkv.weight" in moved and "image_head.linear.weight" in moved
    assert "text.blocks.0.attention.qkv.weight" in moved, "a tower without additions is trained as it is"
    assert not {"image.blocks.0.norm_mlp.weight", "image.patches.weight"} & moved
    before = load_file(tmp_path / "begin" / "model.safetensors")["image.blocks.0.mlp.up.weight"]
    after = load_file(tmp_path / "out" / MODEL)["image.blocks.0.mlp.up.weight"]
    assert torch.linalg.matrix_rank(after.double() - before.double(), rtol=1e-4) <= 2


def test_too_many_frozen_layers_are_refused(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    with pytest.raises(InvalidSetting, match=r"freeze\.image: 5 layers of a tower that has 1"):
        changed(tmp_path, freeze={"image": 5})


@pytest.mark.slow
def test_a_class_folder_is_evaluated_by_accuracy(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    for number in range(24):
        colour = tmp_path / "classes" / list(tiny_pairs.COLOURS)[number % 6]
        colour.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / f"{number}.png").rename(colour / f"{number}.png")
    data = {"train": "classes", "evaluate": "classes", "templates": ["a {} wall", "{}"]}
    train_clip(tiny_pairs.config(tmp_path, data=data, train={"steps": 60}), tmp_path / "out")
    assert rows(tmp_path / "out")[-1]["accuracy"] > 0.8


@pytest.mark.slow
def test_shards_are_trained_on_and_resumed(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 15)
    for shard in range(3):
        files: dict[str, bytes] = {}
        for number in range(5 * shard, 5 * shard + 5):
            files[f"{number}.png"] = (tmp_path / "pictures" / f"{number}.png").read_bytes()
            files[f"{number}.txt"] = b"a wall"
        tiny_pairs.write_shard(tmp_path / f"s-{shard}.tar", files)
    config = tiny_pairs.config(tmp_path, data={"train": "s-{0..2}.tar", "shuffle": 4}, train={"batch": 4})
    train_clip(config, tmp_path / "whole")

    def crash(row: dict[str, Any]) -> None:
        if row["step"] == 7:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train_clip(config, tmp_path / "half", crash)
    train_clip(config, tmp_path / "half")
    assert learned(tmp_path / "half") == learned(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.config(tmp_path)
    train_clip(config, tmp_path / "out")
    before, logged = learned(tmp_path / "out"), list[dict[str, Any]]()
    train_clip(config, tmp_path / "out", logged.append)
    assert logged == [] and learned(tmp_path / "out") == before


def test_a_folder_with_another_training_run_is_left_alone(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    train_clip(tiny_pairs.config(tmp_path), tmp_path / "out")
    before = learned(tmp_path / "out")
    with pytest.raises(InvalidSetting, match=r"another train\.learning_rate; name another folder"):
        train_clip(tiny_pairs.config(tmp_path, train={"learning_rate": 0.1}), tmp_path / "out")
    tiny_pairs.paint(tmp_path, 25)
    with pytest.raises(InvalidSetting, match="another number of pictures"):
        train_clip(tiny_pairs.config(tmp_path), tmp_path / "out")
    assert learned(tmp_path / "out") == before


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    train_clip(tiny_pairs.config(tmp_path, train={"save_every": 2, "keep": 3}), tmp_path / "out")
    names = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-00000008.pt", "step-00000010.pt", "step-00000012.pt"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.config(tmp_path)
    real, calls = torch.save, []

    def full(state: object, file: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteFailed, match="earlier ones stay"):
        train_clip(config, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000005.pt"]
    train_clip(config, tmp_path / "out")
    train_clip(config, tmp_path / "whole")
    assert learned(tmp_path / "out") == learned(tmp_path / "whole")


def test_a_nan_loss_aborts_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pairs.paint(tmp_path)
    nan = replace(LOSSES["contrastive"], compute=lambda image, *_: image.sum() * float("nan"))
    monkeypatch.setitem(LOSSES, "contrastive", nan)
    with pytest.raises(NotFinite, match="step 1: the loss is nan"):
        train_clip(tiny_pairs.config(tmp_path), tmp_path / "out")


@pytest.mark.slow
def test_the_logit_scale_stays_below_its_maximum(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.config(
        tmp_path, train={"learning_rate": 1.0, "max_logit_scale": 15.0, "steps": 30, "warmup": 0}
    )
    train_clip(config, tmp_path / "out")
    scales = [row["scale"] for row in rows(tmp_path / "out")]
    assert max(scales) <= 15.001 and all(scale >= 0.999 for scale in scales)


def start(config: Path, out: Path) -> subprocess.Popen[str]:
    order = [sys.executable, "-m", "beholder", "train", "clip", str(config), "--out", str(out), "--json"]
    return subprocess.Popen([*order, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_saves_a_checkpoint_and_the_same_command_resumes(tmp_path: Path, number: signal.Signals) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.write_config(tmp_path, train={"steps": 200, "save_every": 1000})
    run = start(config, tmp_path / "out")
    assert run.stdout is not None and json.loads(run.stdout.readline())["step"] == 1
    run.send_signal(number)
    _, stderr = run.communicate(timeout=600)
    assert run.returncode == 128 + number and "stopped after step" in stderr and "Traceback" not in stderr
    (saved,) = checkpoints(tmp_path / "out" / "checkpoints")
    again = start(config, tmp_path / "out")
    out, stderr = again.communicate(timeout=600)
    assert again.returncode == 0, stderr
    first = json.loads(out.splitlines()[0])["step"]
    assert first == int(saved.stem.removeprefix("step-")) + 1
    assert load_dual_encoder(tmp_path / "out" / "model")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    """The run takes several seconds; each kill comes at a random moment between its start and its end."""
    tiny_pairs.paint(tmp_path, broken=(3,))
    config = tiny_pairs.write_config(
        tmp_path, train={"steps": 600, "save_every": 3, "ema_decay": 0.9}, augment={"smallest_crop": 0.5}
    )
    whole = start(config, tmp_path / "whole")
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    generator, killed = random.Random(0), 0
    for _ in range(30):
        run = start(config, tmp_path / "out")
        assert run.stdout is not None
        run.stdout.readline()  # it has started, resumed or finished
        time.sleep(generator.uniform(0, 0.35))
        run.kill()
        killed += run.wait(timeout=600) == -signal.SIGKILL
        run.communicate()
        if killed == 10 or (tmp_path / "out" / MODEL).exists():
            break
    assert killed == 10
    last = start(config, tmp_path / "out")
    _, stderr = last.communicate(timeout=600)
    assert last.returncode == 0, stderr
    assert learned(tmp_path / "out") == learned(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "out")] == list(range(1, 601))


def test_tensorboard_receives_the_values_of_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_pairs.paint(tmp_path)
    train_clip(tiny_pairs.config(tmp_path), tmp_path / "out", tensorboard=True)
    board = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    events = [(event.step, pytest.approx(event.value, rel=1e-5)) for event in board.Scalars("loss")]
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "out")] == events


@pytest.mark.slow
def test_compiled_training_gives_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pairs.paint(tmp_path)
    layers = {**tiny_pairs.BLOCKS, "layers": 1}
    network = {name: {**tiny_pairs.NETWORK[name], **layers} for name in ("image", "text")}
    model = {"network": {**network, "embedding": 8}}
    options = {"model": model, "train": {"steps": 4, "ema_decay": 0.9}}
    calls = []

    def traced(embed: Any, real: Any = torch.compile) -> Any:
        calls.append(embed)
        return real(embed, backend="aot_eager")  # everything but C++ compilation, which takes half a minute

    monkeypatch.setattr(torch, "compile", traced)
    for name, compiled in (("plain", False), ("compiled", True)):
        options["train"]["compile"] = compiled  # type: ignore[index]
        train_clip(tiny_pairs.config(tmp_path, **options), tmp_path / name)
    assert len(calls) == 3  # a trial compilation, and both towers
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    weights = [load_file(tmp_path / name / MODEL) for name in ("plain", "compiled")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_a_missing_compiler_is_reported_before_training_starts(tmp_path: Path, check: tuple[str, ...]) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.config(tmp_path, train={"compile": True})
    command = [sys.executable, "-m", "beholder", "train", "clip", str(tmp_path / "config.json")]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--device", "cpu", *check],
        env={**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2 and "train.compile: torch can't compile for cpu here" in run.stderr
    assert config.train.compile and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_damaged_latest_checkpoint_falls_back_to_the_previous_one(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    config = tiny_pairs.config(tmp_path)
    train_clip(config, tmp_path / "out")
    expected = learned(tmp_path / "out")
    before, newest = checkpoints(tmp_path / "out" / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-300])
    with pytest.raises(ModelError, match=rf"{newest.name}: this checkpoint is damaged .*{before.name}, the one before"):
        train_clip(config, tmp_path / "out")
    newest.unlink()
    train_clip(config, tmp_path / "out")
    assert learned(tmp_path / "out") == expected
    for path in checkpoints(tmp_path / "out" / "checkpoints")[1:]:
        path.unlink()
    before.write_bytes(b"")
    with pytest.raises(ModelError, match="remove it to start over"):
        train_clip(config, tmp_path / "out")


@pytest.mark.slow
def test_a_finished_run_can_be_extended_but_not_shortened(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    train_clip(tiny_pairs.config(tmp_path), tmp_path / "out")
    before = learned(tmp_path / "out")
    train_clip(tiny_pairs.config(tmp_path, train={"steps": 15}), tmp_path / "out")
    assert [row["step"] for row in rows(tmp_path / "out")] == list(range(1, 16))
    assert learned(tmp_path / "out") != before
    with pytest.raises(InvalidSetting, match=r"another train\.steps"):
        train_clip(tiny_pairs.config(tmp_path, train={"steps": 14}), tmp_path / "out")
    with pytest.raises(InvalidSetting, match=r"another train\.learning_rate"):
        train_clip(tiny_pairs.config(tmp_path, train={"steps": 18, "learning_rate": 0.1}), tmp_path / "out")


def test_an_unfinished_run_keeps_its_number_of_steps(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)

    def crash(row: dict[str, Any]) -> None:
        if row["step"] == 8:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train_clip(tiny_pairs.config(tmp_path), tmp_path / "out", crash)
    with pytest.raises(InvalidSetting, match=r"another train\.steps"):
        train_clip(tiny_pairs.config(tmp_path, train={"steps": 15}), tmp_path / "out")


INTERRUPTED = """
import os, signal, sys
import torch

save, calls = torch.save, []

def slow(state, file):
    calls.append(1)
    if len(calls) == 2:
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))
    save(state, file)

torch.save = slow
from beholder.cli.main import run
sys.argv = ["beholder", "train", "clip", "config.json", "--out", "out", "--device", "cpu"]
run()
"""


@pytest.mark.slow
def test_a_second_ctrl_c_during_a_checkpoint_exits_at_once_and_leaves_the_previous_one(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path)
    tiny_pairs.write_config(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 130, run.stderr
    assert "Traceback" not in run.stderr and "can't be written" not in run.stderr
    folder = tmp_path / "out" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000005.pt"]
    assert torch.load(folder / "step-00000005.pt", weights_only=True)["step"] == 5


def test_a_ctrl_c_that_torch_reports_as_its_own_error_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "checkpoints" / "step-00000001.pt", {})
    assert list((tmp_path / "checkpoints").iterdir()) == []
