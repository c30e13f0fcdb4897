"""Writing and reading mini's bridge."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from beholder.errors import ModelError, WeightsMismatch
from beholder.models.bridge import BridgeSettings, image_tokens
from beholder.models.global_token_encoder import GlobalTokenEncoder
from beholder.models.qformer import QFormerSettings
from beholder.weights import mini, mini_bridge
from beholder.weights.eight_bits import unpack
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.native_vision_language import load_vision_language, save_vision_language
from initial_bridge import initial_bridge

pytestmark = pytest.mark.mini

WIDTH = 1280 + 2 * 384


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    qformer = QFormerSettings(
        queries=2,
        width=384,
        layers=1,
        heads=12,
        mlp_width=1536,
        image_width=WIDTH,
        cross_attention_frequency=1,
        vocabulary=30522,
        max_position_embeddings=128,
    )
    bridge = initial_bridge(BridgeSettings(qformer, embedding=8, language_width=576, image_norm=True))
    tower = mini_bridge.with_sentence_tokens(mini.image_tower(), torch.nn.Linear(1280, 384), torch.randn(1000, 384))
    folder = tmp_path_factory.mktemp("mini") / "bridge"
    mini_bridge.save(bridge, tower, folder)
    return folder


@pytest.fixture(scope="module")
def loaded(written: Path) -> LoadedVisionLanguage:
    """The bridge with the language model, whose file takes a while to read."""
    return mini_bridge.assemble(written)


@pytest.mark.slow
def test_a_bridge_with_global_tokens_survives_both_formats(loaded: LoadedVisionLanguage, tmp_path: Path) -> None:
    assert isinstance(loaded.image, GlobalTokenEncoder)
    save_vision_language(loaded, tmp_path / "whole")
    again = load_vision_language(tmp_path / "whole")
    for first, second in ((loaded.image, again.image), (loaded.bridge, again.bridge)):
        kept = second.state_dict()
        assert all(torch.equal(tensor, kept.pop(name)) for name, tensor in first.state_dict().items()) and not kept
    assert (again.reranker, again.num_candidates) == (loaded.reranker, loaded.num_candidates) == ("mini", 12)
    pixels = torch.rand(1, 3, 260, 260)
    with torch.no_grad():
        tokens = image_tokens(again.image.eval(), pixels)
        assert tokens.shape == (1, 83, WIDTH)
        assert torch.allclose(image_tokens(loaded.image, pixels), tokens, atol=1e-5)
        assert again.bridge.eval().soft_prompts(tokens).shape == (1, 2, 576)


@pytest.mark.slow
def test_a_folder_with_another_reranker_is_refused(loaded: LoadedVisionLanguage, tmp_path: Path) -> None:
    save_vision_language(replace(loaded, reranker="somebody/elses-model"), tmp_path / "whole")
    with pytest.raises(ModelError, match="reranker 'somebody/elses-model'"):
        load_vision_language(tmp_path / "whole")


@pytest.mark.slow
def test_an_incomplete_set_of_projections_is_reported_by_name(written: Path, tmp_path: Path) -> None:
    tensors = load_file(written / mini_bridge.WEIGHTS)
    del tensors["names.weight"], tensors["names.weight.scale"]
    save_file(tensors, tmp_path / mini_bridge.WEIGHTS, metadata={"format": "pt"})
    (tmp_path / mini_bridge.SETTINGS).write_bytes((written / mini_bridge.SETTINGS).read_bytes())
    with pytest.raises(WeightsMismatch, match=r"names\.weight only 2 are there"):
        mini_bridge.load(tmp_path)


@pytest.mark.slow
def test_a_folder_of_version_1_is_read_with_its_former_names(loaded: LoadedVisionLanguage, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    save_vision_language(loaded, whole)
    config = json.loads((whole / "beholder.json").read_text())
    config |= {"version": 1, "judge": config.pop("reranker"), "candidates": config.pop("num_candidates")}
    bridge, qformer = config["bridge"], config["bridge"]["qformer"]
    bridge |= {"whole_tokens": bridge.pop("global_tokens"), "whole_prompts": bridge.pop("global_prompts")}
    qformer["positions"] = qformer.pop("max_position_embeddings")
    qformer["cross_every"] = qformer.pop("cross_attention_frequency")
    prompts = config["prompts"]
    prompts |= {"between": prompts.pop("separator"), "lower": prompts.pop("lowercase")}
    (whole / "beholder.json").write_text(json.dumps(config))
    then = {
        "qformer.query_tokens": "qformer.queries",
        ".word_embeddings.": ".words.",
        ".position_embeddings.": ".positions.",
        ".cross_attention.": ".look.",
        "_feed_forward.": "_feed.",
    }
    tensors = load_file(whole / "model.safetensors")
    for now, before in then.items():
        assert any(now in name for name in tensors)
        tensors = {name.replace(now, before): tensor for name, tensor in tensors.items()}
    save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
    again = load_vision_language(whole)
    assert (again.reranker, again.num_candidates, again.bridge.settings) == ("mini", 12, loaded.bridge.settings)
    assert again.prompts == loaded.prompts
    kept = again.bridge.state_dict()
    assert all(torch.equal(tensor, kept.pop(name)) for name, tensor in loaded.bridge.state_dict().items()) and not kept


@pytest.mark.slow
def test_the_file_holds_eight_bits_and_one_in_half_precision_is_read_as_well(written: Path, tmp_path: Path) -> None:
    packed = load_file(written / mini_bridge.WEIGHTS)
    assert packed["to_language.weight"].dtype == torch.int8
    bridge, _ = mini_bridge.load(written)
    tensors = unpack(packed)
    assert torch.equal(bridge.state_dict()["to_language.weight"], tensors["to_language.weight"])
    (tmp_path / mini_bridge.SETTINGS).write_bytes((written / mini_bridge.SETTINGS).read_bytes())
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, tmp_path / mini_bridge.WEIGHTS, metadata={"format": "pt"})
    again, _ = mini_bridge.load(tmp_path)
    for name, tensor in bridge.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
