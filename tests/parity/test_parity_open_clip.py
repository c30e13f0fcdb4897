"""Our networks against open_clip's, on small random checkpoints that open_clip wrote in a separate process."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip_reference import CASES
from safetensors.torch import load_file

from beholder import DualEncoder
from beholder.errors import ModelError
from beholder.models.bert import BertSettings
from foreign_network import load_foreign_network

if importlib.util.find_spec("open_clip") is None:
    pytest.skip("open_clip is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    script = Path(__file__).with_name("open_clip_reference.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"open_clip cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def differences(folder: Path, **options: Any) -> tuple[float, float]:
    """Return the largest differences of embeddings and of logits."""
    network, _ = load_foreign_network(folder, **options)
    expected = load_file(folder / "outputs.safetensors")
    with torch.no_grad():
        mask = expected["ids"] != 1 if isinstance(network.settings.text, BertSettings) else None
        images, texts = network.embed_image(expected["pixels"]), network.embed_text(expected["ids"], mask)
        logits = network.logits(images, texts)
    vectors = max((images - expected["images"]).abs().max(), (texts - expected["texts"]).abs().max())
    return float(vectors), float((logits - expected["logits"]).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_embeddings_of_open_clip_checkpoints_equal_those_of_open_clip(checkpoints: Path, case: str) -> None:
    vectors, logits = differences(checkpoints / case)
    assert vectors < 1e-5
    assert logits < 2e-4


@pytest.mark.slow
def test_an_open_clip_pickle_is_read_only_if_allowed(checkpoints: Path, tmp_path: Path) -> None:
    for name in ("open_clip_config.json", "open_clip_pytorch_model.bin", "outputs.safetensors"):
        (tmp_path / name).symlink_to(checkpoints / "plain" / name)
    with pytest.raises(ModelError, match="allow_pickle"):
        load_foreign_network(tmp_path, allow_pickle=False)
    vectors, _ = differences(tmp_path, allow_pickle=True)
    assert vectors < 1e-5


@pytest.mark.slow
def test_the_preprocessing_equals_that_of_open_clip(checkpoints: Path) -> None:
    _, pixels = load_foreign_network(checkpoints / "plain")
    assert (pixels.height, pixels.width, pixels.resize, pixels.fit) == (48, 48, 48, "crop")
    assert (pixels.centre, pixels.interpolation) == ("round", "bicubic")
    assert (pixels.mean, pixels.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.slow
def test_a_folder_with_xlm_roberta_and_its_tokenizer_is_a_dual_encoder(
    checkpoints: Path, vocabularies: Path, tmp_path: Path
) -> None:
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).symlink_to(checkpoints / "XLM-RoBERTa" / name)
    for file in (vocabularies / "xlm_roberta").iterdir():
        (tmp_path / file.name).symlink_to(file)
    encoder = DualEncoder.from_pretrained(tmp_path, device="cpu")
    sentences = ["a Dog in the snow", "一只 猫", ""]
    vectors = encoder.embed_texts(sentences)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(encoder.embed_texts(sentences[1:2]), vectors[1:2], atol=1e-6)  # padding is masked
    encoder.save_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(
        DualEncoder.from_pretrained(tmp_path / "own", device="cpu").embed_texts(sentences), vectors
    )


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}, "timm"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "ResNet"),
        ("vision_cfg", {"attentional_pool": True}, "attentional"),
        ("vision_cfg", {"qk_norm": True}, "norms of queries"),
        ("vision_cfg", {"invented_setting": 3}, "invented_setting"),
        ("text_cfg", {"hf_model_name": "google/mt5-base"}, "a text tower of transformers"),
        ("text_cfg", {"hf_model_name": "xlm-roberta-base", "hf_pooler_type": "cls_pooler"}, "cls_pooler"),
        ("text_cfg", {"hf_model_name": "xlm-roberta-base"}, "word_embeddings"),
        ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}, "tokenizer"),
        ("text_cfg", {"pool_type": "none"}, "pooling"),
        ("text_cfg", {"embed_cls": True}, "CoCa"),
    ],
)
def test_unsupported_open_clip_networks_are_refused_with_the_reason(
    checkpoints: Path, tmp_path: Path, part: str, change: dict[str, Any], message: str
) -> None:
    config = json.loads((checkpoints / "plain" / "open_clip_config.json").read_text())
    config["model_cfg"][part] |= change
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").symlink_to(checkpoints / "plain" / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_foreign_network(tmp_path)
