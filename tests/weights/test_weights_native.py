import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from beholder.errors import BeholderError, InvalidSetting, ModelError, WeightsMismatch
from beholder.models.bert import BertSettings
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from beholder.weights import native
from beholder.weights.calibration import Calibration
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import fingerprint, save_dual_encoder

BLOCKS = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 24}
GRID = EfficientNetLiteSettings(width_scale=0.25, depth_scale=0.3, classes=0)
TEXT = TextTransformerSettings(vocabulary=8, context_length=6, **BLOCKS)
VISION = VisionSettings(image_height=64, image_width=64, patch_size=16, **BLOCKS)
NETWORKS = {
    "clip": TwoTowersSettings(VISION, TEXT, 8),
    "siglip": TwoTowersSettings(
        dataclasses.replace(VISION, class_token=False, pooling="attention"),
        dataclasses.replace(TEXT, causal=False, pooling="last"),
        16,
        HeadSettings("none"),
        HeadSettings("linear", bias=True),
        logit_bias=True,
    ),
    "stem": TwoTowersSettings(dataclasses.replace(VISION, stem=(4, 8), patch_size=2), TEXT, 8),
    "mini": TwoTowersSettings(
        GRID,
        BertSettings(vocabulary=8, context_length=6, pooling="mean", **BLOCKS),
        8,
        HeadSettings("mlp", bias=True, hidden=12),
        HeadSettings("mlp", bias=True, hidden=12),
    ),
}


def build(network: str = "clip", calibrated: bool = False) -> LoadedDualEncoder:
    torch.manual_seed(1)
    vocabulary = {"<start>": 0, "dog": 1, "cat": 2, "the": 3, "?": 4, "<end>": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    calibration = Calibration(np.ones((3, 8), np.float32), np.array([1.0, 2.0, -0.1])) if calibrated else None
    return LoadedDualEncoder(
        TwoTowers(NETWORKS[network]).eval(),
        Preprocessing(64, 64, "crop", 70, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        Tokenizer(backend, TokenizerSettings(6, end_id=5, start_id=0, padding="full", cleaning=("single_spaces",))),
        calibration,
        name="small model",
        licence="apache-2.0",
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_saved_model_is_restored_bit_for_bit(tmp_path: Path, network: str, calibrated: bool) -> None:
    saved = build(network, calibrated)
    save_dual_encoder(saved, tmp_path / "model")
    loaded = load_dual_encoder(tmp_path / "model")
    assert loaded.network.settings == saved.network.settings
    written, read = saved.network.state_dict(), loaded.network.state_dict()
    assert list(written) == list(read)
    assert all(torch.equal(written[name], read[name]) and written[name].dtype == read[name].dtype for name in read)
    assert loaded.preprocessing == saved.preprocessing
    assert loaded.tokenizer.settings == saved.tokenizer.settings
    assert np.array_equal(loaded.tokenizer(["the cat"]).ids, saved.tokenizer(["the cat"]).ids)
    assert (loaded.name, loaded.licence) == ("small model", "apache-2.0")
    assert (loaded.calibration is not None) == calibrated
    if loaded.calibration is not None and saved.calibration is not None:
        assert np.array_equal(loaded.calibration.background, saved.calibration.background)
        assert np.array_equal(loaded.calibration.weights, saved.calibration.weights)
    assert fingerprint(loaded) == fingerprint(saved)


def test_saving_is_deterministic(tmp_path: Path) -> None:
    save_dual_encoder(build(calibrated=True), tmp_path / "first")
    save_dual_encoder(load_dual_encoder(tmp_path / "first"), tmp_path / "second")
    first = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert set(first) == native.FILES - native.MULTILINGUAL_FILES


def test_a_model_can_be_saved_over_the_folder_it_was_loaded_from(tmp_path: Path) -> None:
    save_dual_encoder(build(calibrated=True), tmp_path / "model")
    loaded = load_dual_encoder(tmp_path / "model")
    save_dual_encoder(dataclasses.replace(loaded, calibration=None), tmp_path / "model")
    again = load_dual_encoder(tmp_path / "model")
    assert again.calibration is None
    assert fingerprint(again) == fingerprint(loaded)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidSetting, match="something other than a model"):
        save_dual_encoder(build(), tmp_path)
    with pytest.raises(InvalidSetting, match="something other than a model"):
        save_dual_encoder(build(), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("failing", ["save_file", "model_card", "fsync"])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_failed_write_leaves_the_old_model_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, there_before: bool
) -> None:
    old = build()
    if there_before:
        save_dual_encoder(old, tmp_path / "model")

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if failing == "fsync" else native, failing, disk_full)
    with pytest.raises(OSError, match="No space"):
        save_dual_encoder(build("siglip"), tmp_path / "model")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if there_before else [])
    if there_before:
        assert fingerprint(load_dual_encoder(tmp_path / "model")) == fingerprint(old)


def test_a_failed_rename_restores_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build()
    save_dual_encoder(old, tmp_path / "model")
    rename = Path.rename

    def fail_for_the_new(path: Path, target: Path) -> Path:
        if path.name == "whole":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="Input/output"):
        save_dual_encoder(build("siglip"), tmp_path / "model")
    assert fingerprint(load_dual_encoder(tmp_path / "model")) == fingerprint(old)


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / native.CONFIG).read_text())
    change(config)
    (folder / native.CONFIG).write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / native.WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / native.WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: edit_tensors(f, lambda t: t.pop("logit_scale")), WeightsMismatch, "missing: logit_scale"),
        (lambda f: edit_tensors(f, lambda t: t.update(extra=torch.ones(1))), WeightsMismatch, "unexpected: extra"),
        (
            lambda f: edit_tensors(f, lambda t: t.update({"image.positions": torch.ones(3, 16)})),
            WeightsMismatch,
            r"image\.positions \(3, 16\) instead of \(17, 16\)",
        ),
        (lambda f: edit_config(f, lambda c: c.update(version=3)), ModelError, "version 3"),
        (lambda f: edit_config(f, lambda c: c.update(format="pony")), ModelError, "pony"),
        (lambda f: edit_config(f, lambda c: c.pop("preprocessing")), ModelError, "preprocessing"),
        (lambda f: edit_config(f, lambda c: c["network"]["image"].update(depth=3)), ModelError, "depth"),
        (lambda f: edit_config(f, lambda c: c["preprocessing"].update(fit="stretch")), ModelError, "stretch"),
        (lambda f: edit_config(f, lambda c: c["tokenizer"].update(language="de")), ModelError, "language"),
        (lambda f: (f / "tokenizer.json").unlink(), ModelError, r"tokenizer\.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), ModelError, r"tokenizer\.json"),
        (lambda f: (f / native.WEIGHTS).unlink(), ModelError, r"model\.safetensors is needed"),
        (lambda f: (f / native.WEIGHTS).write_bytes(b"half"), ModelError, "only half"),
        (lambda f: (f / native.CONFIG).write_text("{"), ModelError, "cannot be read as JSON"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], object], error: type[BeholderError], message: str
) -> None:
    save_dual_encoder(build(), tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(error, match=message) as caught:
        load_dual_encoder(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)


def test_everything_that_affects_a_vector_changes_the_fingerprint() -> None:
    model = build()
    prints = {fingerprint(model)}
    prints.add(fingerprint(dataclasses.replace(model, preprocessing=Preprocessing(64, 64))))
    tokenizer = Tokenizer(model.tokenizer.backend, dataclasses.replace(model.tokenizer.settings, pad_id=1))
    prints.add(fingerprint(dataclasses.replace(model, tokenizer=tokenizer)))
    changed = build()
    with torch.no_grad():
        changed.network.text.positions[2, 3] += 1e-6
    prints.add(fingerprint(changed))
    changed = build()
    changed.tokenizer.backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    prints.add(fingerprint(changed))
    assert len(prints) == 5
    assert fingerprint(dataclasses.replace(model, name="another name")) == fingerprint(model)


# Of the JSON of all settings that are part of a fingerprint.
DESCRIPTIONS = {
    "clip": "cb46ead0cfd777f0",
    "siglip": "28c17a8461860241",
    "stem": "3eefc89f02eb9706",
    "mini": "8ffc6f1e4110d442",
}


@pytest.mark.parametrize("network", NETWORKS)
def test_new_settings_leave_fingerprints_as_they_were(network: str) -> None:
    """Vectors in albums and indexes are found by the fingerprint: a new setting belongs into ``LATER_SETTINGS``."""
    description = json.dumps(native._description(build(network)), sort_keys=True)
    assert hashlib.sha256(description.encode()).hexdigest()[:16] == DESCRIPTIONS[network]


def test_the_model_card_describes_input_and_output(tmp_path: Path) -> None:
    save_dual_encoder(build("mini", calibrated=True), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for fact in ("small model", "EfficientNet-Lite", "Bert", "64 × 64", "up to 6 tokens", "8 numbers", "| yes |"):
        assert fact in card
    assert card.startswith("---\nlicense: apache-2.0\n---\n")
