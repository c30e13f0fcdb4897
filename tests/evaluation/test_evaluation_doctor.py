import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from beholder.evaluation import doctor
from beholder.evaluation.doctor import Check, diagnose
from beholder.models.dual_encoder import TwoTowers
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import save_dual_encoder

pytest.importorskip("transformers")

VOCABULARY_OF = {
    "clip": "clip",
    "siglip": "siglip",
    "siglip2": "siglip2",
    "siglip2_naflex": "siglip2",
    "chinese_clip": "bert",
    "align": "bert",
}


def failed(folder: Path) -> list[Check]:
    return [check for check in diagnose(folder) if check.ok is False]


@pytest.fixture(scope="module")
def valid_checkpoint(vocabularies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid CLIP checkpoint written by transformers."""
    return checkpoints.write("clip", vocabularies / "clip", tmp_path_factory.mktemp("doctor") / "clip")


@pytest.fixture
def clip(valid_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the valid checkpoint, to be damaged."""
    return Path(shutil.copytree(valid_checkpoint, tmp_path / "clip"))


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("kind", VOCABULARY_OF)
def test_a_valid_checkpoint_passes_every_check(vocabularies: Path, tmp_path: Path, kind: str) -> None:
    folder = checkpoints.write(kind, vocabularies / VOCABULARY_OF[kind], tmp_path / kind)
    checks = list(diagnose(folder))
    assert [check for check in checks if not check.ok] == []
    assert {"pixels", "tokens", "image network", "text network", "saving and loading"} <= {row.check for row in checks}


def test_a_valid_folder_in_our_own_format_passes_without_a_reference(valid_checkpoint: Path, tmp_path: Path) -> None:
    save_dual_encoder(load_dual_encoder(valid_checkpoint), tmp_path / "ours")
    checks = {check.check: check for check in diagnose(tmp_path / "ours")}
    assert [name for name, check in checks.items() if check.ok is None] == ["reference implementation"]
    assert all(check.ok is not False for check in checks.values())


@pytest.mark.slow
def test_a_valid_sentence_transformers_folder_is_compared_with_that_library(
    valid_checkpoint: Path, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Transformer

    library.SentenceTransformer(modules=[Transformer(str(valid_checkpoint))], device="cpu").save_pretrained(
        str(tmp_path / "st")
    )
    checks = {check.check: check.ok for check in diagnose(tmp_path / "st")}
    assert checks["sentence-transformers"] is True
    assert False not in checks.values()


def test_a_missing_folder_is_one_failed_check(tmp_path: Path) -> None:
    assert [(check.check, check.ok) for check in diagnose(tmp_path / "nowhere")] == [("loading", False)]


def test_a_wrong_activation_in_one_tower_is_reported(clip: Path) -> None:
    edit(clip / "config.json", lambda config: config["text_config"].update(hidden_act="gelu"))
    (fault,) = failed(clip)
    assert fault.check == "settings"
    assert "activation: the config asks for quick_gelu in the image tower and gelu in the text tower" in fault.detail


def test_an_activation_that_contradicts_the_open_clip_config_is_reported(clip: Path) -> None:
    model = {
        "embed_dim": 512,
        "quick_gelu": False,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
        "text_cfg": {"layers": 2, "width": 32, "heads": 4},
    }
    (clip / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    (fault,) = failed(clip)
    assert fault.check == "settings"
    assert "activation: config.json says quick_gelu for the image tower and open_clip_config.json says gelu" in (
        fault.detail
    )
    edit(clip / "open_clip_config.json", lambda config: config["model_cfg"].update(quick_gelu=True))
    assert failed(clip) == []


def test_a_misread_activation_fails_the_check_of_its_network(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_another_network(monkeypatch, lambda settings: {"text": dataclasses.replace(settings.text, activation="gelu")})
    assert [check.check for check in failed(valid_checkpoint) if check.check != "settings"] == ["text network"]


def test_a_misread_pooling_fails_the_check_of_the_text_network(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_another_network(monkeypatch, lambda settings: {"text": dataclasses.replace(settings.text, pooling="first")})
    assert [check.check for check in failed(valid_checkpoint)] == ["text network"]


def with_another_network(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], dict[str, Any]]) -> None:
    """Make the doctor load networks with misread settings."""

    def load(name: Path, allow_pickle: bool = False) -> LoadedDualEncoder:
        loaded = load_dual_encoder(name, allow_pickle=allow_pickle)
        settings = loaded.network.settings
        network = TwoTowers(dataclasses.replace(settings, **change(settings)))
        network.load_state_dict(loaded.network.state_dict())
        return dataclasses.replace(loaded, network=network.eval())

    monkeypatch.setattr(doctor, "load_dual_encoder", load)


@pytest.mark.parametrize("change", [{"image_mean": [0.5, 0.4, 0.5]}, {"image_std": [0.1, 0.2, 0.3]}])
def test_a_wrong_mean_or_std_is_reported(clip: Path, change: dict[str, list[float]]) -> None:
    edit(clip / "preprocessor_config.json", lambda config: config.update(change))
    (fault,) = failed(clip)
    assert fault.check == "settings"
    assert fault.detail.startswith("mean and std: pictures are normalized by mean (")


def test_a_picture_size_other_than_the_networks_is_reported(clip: Path) -> None:
    size = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    edit(clip / "preprocessor_config.json", lambda config: config.update(size))
    faults = {check.check: check.detail for check in failed(clip)}
    assert "size: pictures are resized to 32 x 32, but the network expects 48 x 48" in faults["settings"]


def test_misread_preprocessing_fails_the_check_of_the_pixels(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: Path, allow_pickle: bool = False) -> LoadedDualEncoder:
        loaded = load_dual_encoder(name, allow_pickle=allow_pickle)
        return dataclasses.replace(
            loaded, preprocessing=dataclasses.replace(loaded.preprocessing, interpolation="bilinear")
        )

    monkeypatch.setattr(doctor, "load_dual_encoder", load)
    (fault,) = failed(valid_checkpoint)
    assert fault.check == "pixels"
    assert "largest difference" in fault.detail


@pytest.mark.parametrize("pieces", [40, -40])
def test_the_tokenizer_of_another_model_is_reported(clip: Path, pieces: int) -> None:
    vocabulary = json.loads((clip / "vocab.json").read_text("utf-8"))
    marks = [vocabulary.pop("<|startoftext|>"), vocabulary.pop("<|endoftext|>")]
    if pieces > 0:
        vocabulary |= {f"new{number}": marks[0] + number for number in range(pieces)}
    else:
        vocabulary = {piece: token for piece, token in vocabulary.items() if token < marks[0] + pieces}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    (clip / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    lines = (clip / "merges.txt").read_text("utf-8").splitlines()
    kept = [line for line in lines if line.startswith("#") or line.replace(" ", "") in vocabulary]
    (clip / "merges.txt").write_text("\n".join(kept), "utf-8")
    fault = failed(clip)[0]
    assert fault.check == "vocabulary"
    assert "another model's" in fault.detail


def test_a_wrong_end_token_in_the_config_is_reported(clip: Path) -> None:
    edit(clip / "config.json", lambda config: config["text_config"].update(eos_token_id=7))
    fault = failed(clip)[0]
    assert fault.check == "vocabulary"
    assert "the network pools at the end token 7" in fault.detail


def test_different_tokens_are_reported_with_their_sentence(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: Path, allow_pickle: bool = False) -> LoadedDualEncoder:
        loaded = load_dual_encoder(name, allow_pickle=allow_pickle)
        loaded.tokenizer.settings = dataclasses.replace(loaded.tokenizer.settings, cleaning=("no_punctuation",))
        return loaded

    monkeypatch.setattr(doctor, "load_dual_encoder", load)
    (fault,) = failed(valid_checkpoint)
    assert fault.check == "tokens"
    assert 'of "Two cats sleep on the RED sofa, don\'t th" is' in fault.detail


def test_an_end_token_below_the_highest_id_is_reported_if_pooling_uses_the_highest(clip: Path) -> None:
    vocabulary = json.loads((clip / "vocab.json").read_text("utf-8"))
    end, other = vocabulary["<|endoftext|>"], vocabulary["!"]
    vocabulary |= {"<|endoftext|>": other, "!": end}
    (clip / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    edit(clip / "config.json", lambda config: config["text_config"].update(eos_token_id=2))
    faults = {check.check: check.detail for check in failed(clip)}
    assert "pools at the highest id of a sentence" in faults["vocabulary"]


def test_nan_in_the_weights_is_reported(clip: Path) -> None:
    tensors = load_file(clip / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] = float("nan")
    save_file(tensors, clip / "model.safetensors", metadata={"format": "pt"})
    faults = {check.check: check.detail for check in failed(clip)}
    assert faults["finite weights"] == "NaN or infinity in image_head.linear.weight"
    assert "pictures in a batch" in faults
    assert "sentences in a batch" not in faults


def test_a_missing_tensor_is_reported(clip: Path) -> None:
    tensors = load_file(clip / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, clip / "model.safetensors", metadata={"format": "pt"})
    (fault,) = failed(clip)
    assert fault.check == "loading"
    assert "missing: text_projection.weight" in fault.detail


def test_a_vector_that_depends_on_its_batch_is_detected(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = TwoTowers.embed_image
    monkeypatch.setattr(TwoTowers, "embed_image", lambda self, pixels: embed(self, pixels - pixels.mean(0)))
    assert "pictures in a batch" in {check.check for check in failed(valid_checkpoint)}


def test_a_missing_reference_library_is_reported_with_the_install_command(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    checks = {check.check: check for check in diagnose(valid_checkpoint)}
    assert checks["reference implementation"] == Check(
        "reference implementation", None, "transformers is not installed: pip install transformers"
    )
    assert "pixels" not in checks


def test_a_part_that_the_reference_cannot_load_is_not_a_failure(
    valid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    checks = {check.check: check for check in diagnose(valid_checkpoint)}
    assert checks["tokens"].ok is None
    assert "not today" in checks["tokens"].detail
    assert checks["text network"].ok is True


def test_a_diagnosis_prints_nothing_else_and_leaves_no_files(
    valid_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in valid_checkpoint.iterdir()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(diagnose(valid_checkpoint))
    assert [str(warning.message) for warning in caught if "beholder" in str(warning.category)] == []
    assert capfd.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in valid_checkpoint.iterdir()} == before


def test_correct_implementations_differ_far_less_than_the_smallest_error(valid_checkpoint: Path) -> None:
    loaded = load_dual_encoder(valid_checkpoint)
    settings = loaded.network.settings
    other = TwoTowers(dataclasses.replace(settings, text=dataclasses.replace(settings.text, activation="gelu")))
    other.load_state_dict(loaded.network.state_dict())
    tokens = loaded.tokenizer(doctor.SENTENCES[:4])
    with torch.no_grad():
        here, there = (network.embed_text(torch.from_numpy(tokens.ids)) for network in (loaded.network, other))
    assert (here - there).abs().max() > 10 * doctor.TOLERANCE


@pytest.mark.slow
def test_an_open_clip_folder_is_compared_with_open_clip(tmp_path: Path) -> None:
    if find_spec("open_clip") is None:
        pytest.skip("open_clip is not installed")
    program = """
import json, shutil, sys
from pathlib import Path
from open_clip_reference import import_open_clip, write
open_clip = import_open_clip()  # with stand-ins for torchvision, so without its preprocessing
folder = Path(sys.argv[1])
write(open_clip, {"quick_gelu": True, "text_cfg": {"vocab_size": 49408}}, folder)
shutil.copy(Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz"), folder)
from beholder.evaluation.doctor import diagnose
print(json.dumps({check.check: check.ok for check in diagnose(folder)}))
"""
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "parity"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout.splitlines()[-1])
    assert {checks.pop(check) for check in ("tokens", "image network", "text network")} == {True}
    assert {check for check, ok in checks.items() if not ok} == {"settings", "pixels"}  # made-up mean; no torchvision
