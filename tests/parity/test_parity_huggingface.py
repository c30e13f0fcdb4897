"""Our networks against transformers', on small random checkpoints written by transformers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from beholder.errors import InvalidSetting, ModelError
from beholder.models.bert import Bert
from beholder.models.dual_encoder import TwoTowers
from beholder.weights import align, bert, clip, dinov2, huggingface, siglip, siglip2_naflex, vit
from beholder.weights.load import load_image_encoder
from beholder.weights.table import build_empty, load_foreign
from beholder.weights.tensors import read_tensors
from foreign_network import load_foreign_network
from random_weights import enlarge

transformers = pytest.importorskip("transformers")

BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VISION = {**BLOCKS, "hidden_size": 32, "image_size": 48, "patch_size": 16}
TEXT = {**BLOCKS, "hidden_size": 24, "vocab_size": 60, "max_position_embeddings": 12, "bos_token_id": 57}
CROPPED = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 48}, "crop_size": 48}
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def write(model: Any, folder: Path) -> Any:
    """Enlarge the weights so that errors in the network change its output, and save the model."""
    enlarge(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CROPPED))
    return model


def pictures(height: int = 48, width: int = 48, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(6))


def sentences(lengths: tuple[int, ...], end_id: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random sentences with an end token and padding: ids and mask (B, T)."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.full((len(lengths), max(lengths) + 1), pad_id)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 56, (length,), generator=generator)
        ids[row, length] = end_id
    mask = torch.arange(ids.shape[1]) <= torch.tensor(lengths)[:, None]
    return ids, mask


def unit(features: Any) -> torch.Tensor:
    return F.normalize(features.pooler_output, dim=-1)


@torch.no_grad()
def assert_equal_embeddings(network: TwoTowers, reference: Any, ids: torch.Tensor, mask: torch.Tensor) -> None:
    expected = unit(reference.get_text_features(ids, mask.long()))
    torch.testing.assert_close(network.embed_text(ids, mask), expected, **TOLERANCE)
    expected = unit(reference.get_image_features(pictures()))
    torch.testing.assert_close(network.embed_image(pictures()), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("text", "vision", "shared"),
    [
        ({"eos_token_id": 58}, {}, {"projection_dim": 16}),
        ({"eos_token_id": 2}, {"hidden_act": "gelu"}, {"projection_dim": 20}),
        ({"eos_token_id": 58, "hidden_act": "gelu", "layer_norm_eps": 1e-3}, {"patch_size": 8}, {}),
        ({"eos_token_id": 58}, {"layer_norm_eps": 1e-2, "num_attention_heads": 2, "image_size": 50}, {}),
    ],
)
def test_clip_embeddings_equal_those_of_transformers(
    tmp_path: Path, text: dict[str, Any], vision: dict[str, Any], shared: dict[str, Any]
) -> None:
    config = transformers.CLIPConfig(text_config={**TEXT, **text}, vision_config={**VISION, **vision}, **shared)
    reference = write(transformers.CLIPModel(config), tmp_path)
    network, _ = load_foreign_network(tmp_path)
    size = config.vision_config.image_size
    ids, mask = sentences((4, 9, 1), end_id=58, pad_id=0)
    with torch.no_grad():
        images, texts = network.embed_image(pictures(size, size)), network.embed_text(ids, mask)
        torch.testing.assert_close(images, unit(reference.get_image_features(pictures(size, size))), **TOLERANCE)
        torch.testing.assert_close(texts, unit(reference.get_text_features(ids, mask.long())), **TOLERANCE)
        logits = reference(ids, pictures(size, size), mask.long()).logits_per_image
        torch.testing.assert_close(network.logits(images, texts), logits, atol=1e-4, rtol=0)
        tokens = reference.vision_model(pictures(size, size)).last_hidden_state
        torch.testing.assert_close(network.image(pictures(size, size)).tokens, tokens, atol=1e-4, rtol=0)


def test_clip_interpolates_position_embeddings_like_transformers(tmp_path: Path) -> None:
    reference = write(transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION)), tmp_path)
    network, _ = load_foreign_network(tmp_path)
    for height, width in ((64, 64), (32, 80), (96, 40)):
        pixels = pictures(height, width)
        with torch.no_grad():
            expected = unit(reference.get_image_features(pixels, interpolate_pos_encoding=True))
            torch.testing.assert_close(network.embed_image(pixels), expected, **TOLERANCE)


def test_a_config_without_default_values_is_read_like_in_transformers(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 1, "vocab_size": 60, "hidden_size": 512}
    vision = {"num_hidden_layers": 1, "image_size": 32}
    reference = write(transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)), tmp_path)
    config = {"model_type": "clip", "text_config": text, "vision_config": {}, "vision_config_dict": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert transformers.CLIPConfig(**config).vision_config.image_size == 32
    network, _ = load_foreign_network(tmp_path)
    with torch.no_grad():
        expected = unit(reference.get_image_features(pictures(32, 32)))
        torch.testing.assert_close(network.embed_image(pictures(32, 32)), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("CLIPText", clip.TEXT_DEFAULTS),
        ("CLIPVision", clip.VISION_DEFAULTS),
        ("ChineseCLIPVision", clip.VISION_DEFAULTS),
        ("SiglipVision", siglip.VISION_DEFAULTS),
        ("SiglipText", {**siglip.TEXT_DEFAULTS, "projection_size": 768}),  # i.e. the hidden size
        ("Siglip2Vision", siglip2_naflex.VISION_DEFAULTS),
        ("Siglip2Text", {**siglip.TEXT_DEFAULTS, "projection_size": 768}),
        ("AlignVision", align.VISION_DEFAULTS),
        ("AlignText", align.TEXT_DEFAULTS),
        ("Bert", bert.DEFAULTS),
        ("ChineseCLIPText", bert.DEFAULTS),
        ("ViT", {**vit.DEFAULTS, "pooler_output_size": 768}),
        ("Dinov2", dinov2.DEFAULTS),
        ("Dinov2WithRegisters", dinov2.WITH_REGISTERS_DEFAULTS),
    ],
)
def test_the_default_settings_equal_those_of_transformers(kind: str, defaults: dict[str, Any]) -> None:
    config = getattr(transformers, f"{kind}Config")()
    defaults = {key: value for key, value in defaults.items() if key != "position_embedding_type"}  # removed in 5.0
    assert {key: getattr(config, key) for key in defaults} == defaults


def test_a_legacy_section_takes_precedence_as_in_transformers(tmp_path: Path) -> None:
    config = {
        "model_type": "clip",
        "text_config": {**TEXT, "hidden_act": "gelu", "eos_token_id": 2},
        "text_config_dict": {**TEXT, "layer_norm_eps": 1e-3},
        "vision_config": VISION,
    }
    written = json.dumps(config)  # before transformers modifies it in place
    reference = write(transformers.CLIPModel(transformers.CLIPConfig(**config)), tmp_path)
    (tmp_path / "config.json").write_text(written)
    network, _ = load_foreign_network(tmp_path)
    ids, mask = sentences((4, 9), end_id=58, pad_id=0)
    with torch.no_grad():
        expected = unit(reference.get_text_features(ids, mask.long()))
        torch.testing.assert_close(network.embed_text(ids, mask), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("text", "vision"),
    [({}, {}), ({"projection_size": 32, "hidden_size": 16}, {"hidden_act": "gelu"}), ({}, {"patch_size": 12})],
)
def test_siglip_embeddings_equal_those_of_transformers(
    tmp_path: Path, text: dict[str, Any], vision: dict[str, Any]
) -> None:
    config = transformers.SiglipConfig(
        text_config={**TEXT, "hidden_size": 32, **text}, vision_config={**VISION, **vision}
    )
    reference = write(transformers.SiglipModel(config), tmp_path)
    network, _ = load_foreign_network(tmp_path)
    ids = torch.randint(0, 60, (3, 12), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        images, texts = network.embed_image(pictures()), network.embed_text(ids)
        torch.testing.assert_close(images, unit(reference.get_image_features(pictures())), **TOLERANCE)
        torch.testing.assert_close(texts, unit(reference.get_text_features(ids)), **TOLERANCE)
        logits = reference(ids, pictures()).logits_per_image
        torch.testing.assert_close(network.logits(images, texts), logits, atol=1e-4, rtol=0)
        other = pictures(64, 32)
        expected = unit(reference.get_image_features(other, interpolate_pos_encoding=True))
        if config.vision_config.patch_size == 16:
            torch.testing.assert_close(network.embed_image(other), expected, **TOLERANCE)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_chinese_clip_embeddings_equal_those_of_transformers(tmp_path: Path, activation: str) -> None:
    config = transformers.ChineseCLIPConfig(
        text_config={**TEXT, "hidden_act": activation}, vision_config=VISION, projection_dim=20
    )
    reference = write(transformers.ChineseCLIPModel(config), tmp_path)
    network, _ = load_foreign_network(tmp_path)
    ids, mask = sentences((4, 9, 1), end_id=58, pad_id=0)
    assert_equal_embeddings(network, reference, ids, mask)


@pytest.mark.parametrize("end_id", [2, 58])
def test_metaclip_2_embeddings_equal_those_of_transformers(tmp_path: Path, end_id: int) -> None:
    config = transformers.MetaClip2Config(
        text_config={**TEXT, "eos_token_id": end_id, "pad_token_id": 1}, vision_config=VISION, projection_dim=20
    )
    reference = write(transformers.MetaClip2Model(config), tmp_path)
    network, _ = load_foreign_network(tmp_path)
    ids, mask = sentences((4, 9, 1), end_id=end_id, pad_id=1)
    assert_equal_embeddings(network, reference, ids, mask)


@pytest.mark.parametrize("layers", ["layer", "layers"])
def test_altclip_embeddings_equal_those_of_transformers(tmp_path: Path, layers: str) -> None:
    text = {**TEXT, "hidden_size": 32, "pad_token_id": 1, "type_vocab_size": 1, "project_dim": 28}
    config = transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=20)
    reference = write(transformers.AltCLIPModel(config), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {re.sub(r"\.encoder\.layers?\.", f".encoder.{layers}.", name): each for name, each in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    network, _ = load_foreign_network(tmp_path)
    ids, mask = sentences((4, 9, 1), end_id=2, pad_id=1)
    assert_equal_embeddings(network, reference, ids, mask)


EFFICIENT_NET = {
    "width_coefficient": 0.5,
    "depth_coefficient": 1.2,
    "kernel_sizes": [3, 5, 3],
    "in_channels": [32, 16, 24],
    "out_channels": [16, 24, 32],
    "strides": [1, 2, 2],
    "num_block_repeats": [1, 2, 1],
    "expand_ratios": [1, 6, 2],
}


@pytest.mark.parametrize(
    ("vision", "size"),
    [
        ({}, (48, 48)),
        ({"depthwise_padding": [2], "squeeze_expansion_ratio": 0.5}, (45, 37)),
        ({"strides": [1, 1, 2]}, (33, 60)),
    ],
)
def test_align_embeddings_equal_those_of_transformers(
    tmp_path: Path, vision: dict[str, Any], size: tuple[int, int]
) -> None:
    config = transformers.AlignConfig(text_config=TEXT, vision_config={**EFFICIENT_NET, **vision}, projection_dim=16)
    model = transformers.AlignModel(config)
    for name, buffer in model.named_buffers():
        if "running" in name:  # the statistics of a trained network
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    reference = write(model, tmp_path)
    network, _ = load_foreign_network(tmp_path)
    ids, mask = sentences((4, 9, 1), end_id=58, pad_id=0)
    pixels = pictures(*size)
    with torch.no_grad():
        images, texts = network.embed_image(pixels), network.embed_text(ids, mask)
        found = reference.get_image_features(pixels)
        torch.testing.assert_close(images, unit(found), **TOLERANCE)
        torch.testing.assert_close(texts, unit(reference.get_text_features(ids, mask.long())), **TOLERANCE)
        torch.testing.assert_close(network.image(pixels).grid, found.last_hidden_state, atol=1e-4, rtol=1e-4)
        logits = reference(ids, pixels, mask.long()).logits_per_image
        torch.testing.assert_close(network.logits(images, texts), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision_config", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("vision_config", {"pooling_type": "max"}, "pooling_type 'max'"),
        ("vision_config", {"strides": [1, 2]}, "one value per stage"),
    ],
)
def test_an_align_of_another_kind_is_refused(part: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelError, InvalidSetting), match=message):
        align.settings({part: changes})


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ModelError, match="temperature"):
        align.prepare({"temperature": torch.tensor(0.0)})


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_standalone_bert_equals_transformers_in_tokens_and_pooled_output(tmp_path: Path, pooling: Any) -> None:
    reference = write(transformers.BertModel(transformers.BertConfig(**TEXT)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = read_tensors(tmp_path, huggingface.STEMS)
    network = load_foreign(build_empty(Bert, bert.settings(config, pooling)), tensors, bert.rows(), bert.ignored())
    ids, mask = sentences((4, 9, 1), end_id=58, pad_id=0)
    with torch.no_grad():
        expected, encoded = reference(ids, mask.long()).last_hidden_state, network(ids, mask)
    torch.testing.assert_close(encoded.tokens[mask], expected[mask], **TOLERANCE)
    means = [tokens[words].mean(dim=0) for tokens, words in zip(expected, mask, strict=True)]
    pooled = expected[:, 0] if pooling == "first" else torch.stack(means)
    torch.testing.assert_close(encoded.pooled, pooled, **TOLERANCE)


def test_a_half_precision_checkpoint_is_loaded_as_float32(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION)
    reference = write(transformers.CLIPModel(config).half(), tmp_path)
    network, _ = load_foreign_network(tmp_path)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = unit(reference.float().get_image_features(pictures()))
        torch.testing.assert_close(network.embed_image(pictures()), expected, **TOLERANCE)


def test_a_sharded_checkpoint_gives_the_same_embeddings(tmp_path: Path) -> None:
    reference = write(transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION)), tmp_path)
    whole, _ = load_foreign_network(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    reference.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    shards, _ = load_foreign_network(tmp_path)
    assert all(torch.equal(shards.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"qkv_bias": False, "patch_size": 8, "hidden_act": "gelu_new"}])
def test_vit_tokens_and_pooled_output_equal_those_of_transformers(tmp_path: Path, settings: dict[str, Any]) -> None:
    reference = write(transformers.ViTModel(transformers.ViTConfig(**{**VISION, **settings})), tmp_path)
    network = load_image_encoder(tmp_path).network
    for size in ((48, 48), (64, 80)):
        with torch.no_grad():
            expected = reference(pictures(*size), interpolate_pos_encoding=True)
            encoded = network(pictures(*size))
        torch.testing.assert_close(encoded.tokens, expected.last_hidden_state, **TOLERANCE)
        torch.testing.assert_close(encoded.pooled, expected.pooler_output, **TOLERANCE)


def test_vit_without_a_pooler_pools_its_class_token(tmp_path: Path) -> None:
    reference = write(transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=False), tmp_path)
    encoded = load_image_encoder(tmp_path).network(pictures())
    torch.testing.assert_close(encoded.pooled, reference(pictures()).last_hidden_state[:, 0], **TOLERANCE)


def test_vit_logits_equal_those_of_transformers(tmp_path: Path) -> None:
    names = {index: f"class {index}" for index in range(11)}
    config = transformers.ViTConfig(**VISION, id2label=names, label2id={name: key for key, name in names.items()})
    reference = write(transformers.ViTForImageClassification(config), tmp_path)
    loaded = load_image_encoder(tmp_path)
    logits = loaded.network.classify(loaded.network(pictures()))
    torch.testing.assert_close(logits, reference(pictures()).logits, **TOLERANCE)
    assert loaded.labels == tuple(f"class {index}" for index in range(11))


DINO = {key: value for key, value in VISION.items() if key != "intermediate_size"}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Dinov2", {}),
        ("Dinov2", {"use_swiglu_ffn": True, "mlp_ratio": 3}),
        ("Dinov2WithRegisters", {"num_register_tokens": 3}),
        ("Dinov2WithRegisters", {"use_swiglu_ffn": True}),
    ],
)
def test_dinov2_tokens_and_pooled_output_equal_those_of_transformers(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    config = getattr(transformers, f"{kind}Config")(**{**DINO, **settings})
    reference = write(getattr(transformers, f"{kind}Model")(config), tmp_path)
    network = load_image_encoder(tmp_path).network
    for size in ((48, 48), (64, 80), (32, 32)):
        with torch.no_grad():
            expected, encoded = reference(pictures(*size)), network(pictures(*size))
        torch.testing.assert_close(encoded.tokens, expected.last_hidden_state, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(encoded.pooled, expected.pooler_output, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_dinov2_logits_equal_those_of_transformers(tmp_path: Path, kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(**DINO, num_labels=5)
    reference = write(getattr(transformers, f"{kind}ForImageClassification")(config), tmp_path)
    network = load_image_encoder(tmp_path).network
    with torch.no_grad():
        logits = network.classify(network(pictures()))
        torch.testing.assert_close(logits, reference(pictures()).logits, atol=1e-4, rtol=1e-5)


def test_embeddings_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    for kind in ("CLIP", "ChineseCLIP"):
        config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=VISION)
        write(getattr(transformers, f"{kind}Model")(config), tmp_path / kind)
        network, _ = load_foreign_network(tmp_path / kind)
        lengths = (4, 9, 1)
        ids, mask = sentences(lengths, end_id=58, pad_id=0)
        with torch.no_grad():
            images, texts = network.embed_image(pictures()), network.embed_text(ids, mask)
            for row, length in enumerate(lengths):
                alone = network.embed_text(ids[row : row + 1, : length + 1], mask[row : row + 1, : length + 1])
                torch.testing.assert_close(alone[0], texts[row], atol=1e-6, rtol=0)
                alone = network.embed_image(pictures()[row : row + 1])
                torch.testing.assert_close(alone[0], images[row], atol=1e-6, rtol=0)
