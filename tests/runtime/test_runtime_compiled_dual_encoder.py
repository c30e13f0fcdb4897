import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_model
from beholder import DualEncoder
from beholder.errors import ModelError
from beholder.models.bert import BertSettings
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.runtime import compiled_dual_encoder, compiled_model
from beholder.runtime.compiled_dual_encoder import COMPILED_DUAL_ENCODER, CompiledDualEncoder
from beholder.runtime.compiled_model import CompiledFormat
from beholder.text.tokenizer import Tokenizer
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import fingerprint, save_dual_encoder

pytest.importorskip("openvino")
SENTENCES = ["a dog", "two dogs on the beach", "a", "the old harbour at night, with a boat and a red light in front"]
BLOCKS = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 24}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))


def with_towers(image: dict[str, object], text: object, **more: object) -> LoadedDualEncoder:
    base = tiny_model.build()
    vision = VisionSettings(image_height=32, image_width=32, patch_size=8, **BLOCKS, **image)  # type: ignore[arg-type]
    network = TwoTowers(TwoTowersSettings(vision, text, 8, **more)).eval()  # type: ignore[arg-type]
    return replace(base, network=network)


def siglip_like() -> LoadedDualEncoder:
    text = TextTransformerSettings(vocabulary=160, context_length=16, causal=False, pooling="last", **BLOCKS)  # type: ignore[arg-type]
    loaded = with_towers({"class_token": False, "pooling": "attention"}, text, logit_bias=True)
    settings = replace(loaded.tokenizer.settings, padding="full")
    return replace(loaded, tokenizer=Tokenizer(loaded.tokenizer.backend, settings))


def bert_like() -> LoadedDualEncoder:
    text = BertSettings(vocabulary=160, context_length=16, pooling="mean", **BLOCKS)  # type: ignore[arg-type]
    head = HeadSettings("two_layers", hidden=12)
    return with_towers({"registers": 2, "pooling": "mean"}, text, text_head=head)


@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_model.build, siglip_like, bert_like])
def test_a_compiled_model_gives_the_vectors_of_the_network(build, tmp_path: Path) -> None:
    save_dual_encoder(build(), tmp_path / "model")
    own = DualEncoder(load_dual_encoder(tmp_path / "model"), "cpu")
    fast = DualEncoder.compile(tmp_path / "model")
    pictures = tiny_model.paint(tmp_path)
    np.testing.assert_allclose(fast.embed_images(pictures), own.embed_images(pictures), atol=1e-5)
    np.testing.assert_allclose(fast.embed_texts(SENTENCES), own.embed_texts(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(fast.embed_texts(SENTENCES[:1]), own.embed_texts(SENTENCES)[:1], atol=1e-5)
    assert fast.towers.scale == own.towers.scale and fast.towers.bias == own.towers.bias
    assert fast.classify(pictures[0], ["a dog", "a boat"])[0][0] == own.classify(pictures[0], ["a dog", "a boat"])[0][0]
    assert fast.fingerprint == own.fingerprint == fingerprint(load_dual_encoder(tmp_path / "model"))


@pytest.mark.slow
def test_a_compiled_model_is_reused_until_its_source_changes(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_dual_encoder(load_dual_encoder(tiny_model), folder)
    assert COMPILED_DUAL_ENCODER.find(folder) is None
    assert not isinstance(DualEncoder.from_pretrained(folder, device="cpu").loaded, CompiledDualEncoder)
    DualEncoder.compile(folder)
    encoder = DualEncoder.from_pretrained(folder, device="cpu")
    assert isinstance(encoder.loaded, CompiledDualEncoder)
    assert isinstance(encoder.network, TwoTowers), "the network is there for who asks for it"
    changed = load_dual_encoder(folder)
    with torch.no_grad():
        changed.network.image.positions += 1
    save_dual_encoder(changed, folder)
    assert COMPILED_DUAL_ENCODER.find(folder) is None
    DualEncoder.compile(folder)
    kept = list((tmp_path / "cache" / "compiled").iterdir())
    assert len(kept) == 1, "what was compiled of the model as it was is gone"


@pytest.mark.slow
def test_saving_a_compiled_model_writes_the_original_model(tiny_model: Path, tmp_path: Path) -> None:
    DualEncoder.compile(tiny_model).save_pretrained(tmp_path / "again")
    assert fingerprint(load_dual_encoder(tmp_path / "again")) == fingerprint(load_dual_encoder(tiny_model))


@pytest.mark.slow
def test_a_compiled_model_loads_without_torch(tiny_model: Path, tmp_path: Path) -> None:
    DualEncoder.compile(tiny_model)
    program = (
        "import sys; from beholder import DualEncoder\n"
        f"encoder = DualEncoder.from_pretrained({str(tiny_model)!r}, device='cpu')\n"
        f"encoder.classify({str(tiny_model_picture(tmp_path))!r}, ['a dog', 'a boat'])\n"
        "print(sorted({'torch', 'transformers', 'openvino', 'openvino_telemetry.main'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['openvino']", "and without what reports its use to a server"


def tiny_model_picture(folder: Path) -> Path:
    return tiny_model.paint(folder)[0]


@pytest.mark.slow
def test_a_compiled_model_with_wrong_vectors_is_not_used(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_dual_encoder, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="vectors are off by"):
        COMPILED_DUAL_ENCODER.compile(load_dual_encoder(tiny_model), tiny_model)
    assert COMPILED_DUAL_ENCODER.find(tiny_model) is None


def test_only_a_model_in_a_folder_can_be_compiled(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="somebody/model: only mini and a model in a folder"):
        COMPILED_DUAL_ENCODER.compile(load_dual_encoder(tiny_model), "somebody/model")


def test_missing_openvino_is_reported(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_model, "available", lambda: False)
    assert COMPILED_DUAL_ENCODER.find(tiny_model) is None
    with pytest.raises(ModelError, match="pip install openvino"):
        COMPILED_DUAL_ENCODER.compile(load_dual_encoder(tiny_model), tiny_model)


def test_a_model_that_cannot_be_compiled_still_runs(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CompiledFormat, "compile", full)
    with pytest.warns(UserWarning, match="could not be compiled.*No space left"):
        slow = DualEncoder.from_pretrained(tiny_model, device="cpu", precision="fastest")
    assert slow.towers.engine.startswith("torch on cpu")
    assert slow.embed_texts(["a dog"]).shape == (1, slow.towers.embedding)
