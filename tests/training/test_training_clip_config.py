"""An invalid config is refused with a message that names the setting, before anything expensive starts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_pairs
from beholder import DualEncoder
from beholder.errors import BeholderError, InvalidSetting
from beholder.training.clip_config import read_clip_config
from beholder.training.clip_data import read_data
from beholder.training.train_clip import train_clip

NETWORK = tiny_pairs.NETWORK
RECIPES = Path(__file__).parent.parent.parent / "recipes" / "clip"


def tower(which: str, **changed: Any) -> dict[str, Any]:
    return {"model": {"network": {**NETWORK, which: {**NETWORK[which], **changed}}}}  # type: ignore[dict-item]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown section": ({"trian": {}}, r"trian: there is no such setting; do you mean train\?"),
    "unknown setting": ({"train": {"learning_rat": 1}}, r"train\.learning_rat: .*do you mean learning_rate"),
    "unknown setting of a tower": (tower("image", widht=8), r"model\.network\.image\.widht: .*do you mean width"),
    "text where a number should be": ({"train": {"batch": "8"}}, r"train\.batch: .*valid integer.*\"8\""),
    "a fraction of a batch": ({"train": {"batch": 8.5}}, r"train\.batch"),
    "a number where a section should be": ({"data": 3}, r"data"),
    "a tower's size as text": (tower("text", width="16"), r"model\.network\.text\.width"),
    "neither steps nor epochs": ({"train": {"steps": None}}, r"train: needs either steps or epochs"),
    "both steps and epochs": ({"train": {"epochs": 2}}, r"train: needs either steps or epochs"),
    "no steps": ({"train": {"steps": 0}}, r"steps 0 must be more than 0"),
    "a batch of one": ({"train": {"batch": 1}}, r"batch 1: at least 2"),
    "a chunk larger than the batch": ({"train": {"chunk": 9}}, r"chunk 9"),
    "a negative rate": ({"train": {"learning_rate": -1.0}}, r"learning_rate"),
    "a share of two": ({"train": {"warmup": 2.0}}, r"warmup"),
    "an unknown loss": ({"train": {"loss": "hinge"}}, r"train\.loss: .*contrastive.*sigmoid"),
    "an unknown tower": (tower("image", kind="resnet"), r"resnet.*none of vit"),
    "heads that do not divide the width": (tower("image", heads=3), r"width of 16 cannot be split into 3 heads"),
    "a patch larger than the picture": (tower("image", patch_size=32), r"fewer than one patch"),
    "a layer of nothing": (tower("text", width=0), r"text\.width 0"),
    "minus one layer": (tower("image", layers=-1), r"image\.layers -1"),
    "another size of pictures": ({"model": {"preprocessing": {"height": 8, "width": 8}}}, r"8×8.*16×16"),
    "a network and a model": ({"model": {"from_pretrained": "mini"}}, r"either from_pretrained.*or network"),
    "neither network nor model": ({"model": {"network": None}}, r"either from_pretrained.*or network"),
    "a frozen new network": ({"freeze": {"image": "all"}}, r"need a pretrained model"),
    "an impossible crop": ({"augment": {"smallest_crop": 0}}, r"smallest_crop"),
    "a template without a place": ({"data": {"templates": ["photo"]}}, ""),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_config_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 12)
    changed, message = BAD[fault]
    if fault == "a template without a place":
        classes = tmp_path / "classes" / "cat"
        classes.mkdir(parents=True)
        (classes / "1.jpg").touch()
        changed, message = {"data": {"train": "classes", "templates": ["photo"]}}, "stands for the label"
    with pytest.raises(InvalidSetting, match=message):
        read_data(read_clip_config(tiny_pairs.write_config(tmp_path, **changed)))


def test_several_errors_are_reported_together(tmp_path: Path) -> None:
    path = tiny_pairs.write_config(tmp_path, train={"batch": "8", "speed": 3}, data={"shuffle": 0.5})
    with pytest.raises(InvalidSetting) as caught:
        read_clip_config(path)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "data.shuffle",
        "train.batch",
        "train.speed",
    ]


def test_unusable_data_is_refused(tmp_path: Path) -> None:
    config = tiny_pairs.config(tmp_path)
    with pytest.raises(InvalidSetting, match=r"pairs\.jsonl: no such file"):
        read_data(config)
    tiny_pairs.paint(tmp_path, 5)
    with pytest.raises(InvalidSetting, match="batch 8 is more than the 5 pictures"):
        read_data(config)
    with pytest.raises(InvalidSetting, match="judge me"):
        read_data(tiny_pairs.config(tmp_path, train={"batch": 4}, data={"evaluate": "judge me.jsonl"}))
    only = tmp_path / "classes" / "cat"
    only.mkdir(parents=True)
    (only / "1.jpg").touch()
    with pytest.raises(InvalidSetting, match="one class"):
        read_data(tiny_pairs.config(tmp_path, data={"train": "classes"}))
    with pytest.raises(InvalidSetting, match="no such shard"):
        read_data(tiny_pairs.config(tmp_path, data={"train": "s-{0..1}.tar"}))


def test_epochs_are_converted_to_steps(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path, 20)
    assert read_data(tiny_pairs.config(tmp_path, train={"steps": None, "epochs": 3, "batch": 8})).steps == 8


@pytest.mark.parametrize("content", ["", "[1]", "{", "\udcff"])
def test_a_file_without_settings_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InvalidSetting, match=r"config\.json"):
        read_clip_config(path)
    with pytest.raises(InvalidSetting, match="can't be read"):
        read_clip_config(tmp_path / "missing.json")


@pytest.mark.slow
def test_the_command_reports_the_error_and_exits_with_status_2(tmp_path: Path) -> None:
    path = tiny_pairs.write_config(tmp_path, train={"learning_rat": 1})
    order = [sys.executable, "-m", "beholder", "train", "clip", str(path), "--json"]
    run = subprocess.run(order, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2 and run.stdout == ""
    assert "learning_rate" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.slow
def test_check_prints_a_summary_and_trains_nothing(tmp_path: Path) -> None:
    tiny_pairs.paint(tmp_path / "pictures", 9)
    path = tiny_pairs.write_config(tmp_path)
    order = [sys.executable, "-m", "beholder", "train", "clip", str(path), "--data", str(tmp_path / "pictures")]
    run = subprocess.run([*order, "--check", "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    assert (summary["pictures"], summary["steps"], summary["batch"]) == (9, 12, 8)
    assert summary["parameters"] == summary["trained"] > 1000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.json", "pictures"]


def test_the_recipes_are_valid() -> None:
    recipes = sorted(RECIPES.glob("*.json"))
    assert recipes
    for recipe in recipes:
        assert json.loads(recipe.read_text("utf-8"))["about"]
        try:
            read_clip_config(recipe)
        except BeholderError as error:
            pytest.fail(f"{recipe}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["laion", "siglip", "emoji"])
def test_a_scaled_down_recipe_runs(recipe: str, tmp_path: Path) -> None:
    """The architecture, loss and precision are the recipe's; only the sizes are reduced."""
    values = json.loads((RECIPES / f"{recipe}.json").read_text("utf-8"))
    tiny_pairs.paint(tmp_path, 8)
    values["data"] = {"train": "pairs.jsonl"}
    values["model"].pop("tokenizer", None)
    values["model"]["vocabulary"] = 600
    network = values["model"]["network"]
    network["embedding"] = 16
    for tower in ("image", "text"):
        network[tower] |= {"width": 16, "layers": 1, "heads": 2, "mlp_width": 24}
    values["train"] |= {"steps": 2, "batch": 8, "chunk": 4, "parallel": "ddp"}
    values["train"].pop("epochs", None)
    (tmp_path / "config.json").write_text(json.dumps(values))
    logged: list[dict[str, Any]] = []
    train_clip(read_clip_config(tmp_path / "config.json"), tmp_path / "out", logged.append, device="cpu")
    assert logged[-1]["step"] == 2 and logged[-1]["loss"] > 0
    encoder = DualEncoder.from_pretrained(tmp_path / "out" / "model")
    assert encoder.similarity(tmp_path / "pictures" / "0.png", ["a red wall"]).shape == (1, 1)


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("train", "warm_up", "warmup"),
        ("train", "clip", "max_grad_norm"),
        ("train", "averaging", "ema_decay"),
        ("train", "final_rate", "min_lr_ratio"),
        ("train", "hottest", "max_logit_scale"),
        ("augment", "colour", "color_jitter"),
    ],
)
def test_a_renamed_setting_is_refused_with_its_current_name(tmp_path: Path, section: str, old: str, new: str) -> None:
    path = tiny_pairs.write_config(tmp_path, **{section: {old: 0.5}})
    with pytest.raises(InvalidSetting, match=rf"{section}\.{old}: this setting is called {new} now"):
        read_clip_config(path)


def test_a_config_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tiny_pairs.write_config(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_clip_config(path).train.batch == 8


@pytest.mark.parametrize("section", ["train", "evaluate"])
def test_data_with_a_single_label_is_refused_before_anything_expensive_starts(tmp_path: Path, section: str) -> None:
    rows = [json.loads(line) for line in tiny_pairs.paint(tmp_path, 8).read_text().splitlines()]
    lines = "".join(json.dumps({**row, "label": "wall"}) + "\n" for row in rows)
    (tmp_path / "one.jsonl").write_text(lines)
    config = tiny_pairs.config(tmp_path, data={section: "one.jsonl"})
    with pytest.raises(InvalidSetting, match=r"one\.jsonl: all lines have the same label \(wall\)"):
        train_clip(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
