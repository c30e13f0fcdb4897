"""LAVIS checkpoints, made from small random transformers checkpoints by renaming their tensors."""

from pathlib import Path

import pytest
import torch

import tiny_vocabularies
from beholder.errors import ModelError, WeightsMismatch
from beholder.models.bridge import image_tokens
from beholder.weights.lavis import load_lavis
from beholder.weights.load import load_vision_language
from tiny_blip2 import make, word_tokenizer

HEADS = {"vision_heads": 4, "qformer_heads": 4, "vision_layers": 2}
NAMES = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.encoder.layers", "visual_encoder.blocks"),
    ("vision_model.post_layernorm", "ln_vision"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn", "attn"),
    ("layer_norm", "norm"),
    ("attention.attention.", "attention.self."),
    ("qformer.encoder", "Qformer.bert.encoder"),
    ("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm"),
    ("language_projection", "opt_proj"),
    ("vision_projection", "vision_proj"),
    ("text_projection", "text_proj"),
)


def as_lavis(reference: torch.nn.Module) -> dict[str, torch.Tensor]:
    made = {}
    for name, tensor in reference.state_dict().items():
        if name.startswith("language_model."):
            continue
        if name.startswith("embeddings."):
            name = "Qformer.bert." + name
        for theirs, lavis in NAMES:
            name = name.replace(theirs, lavis)
        if name.endswith("qkv.bias"):
            query, key, value = tensor.chunk(3)
            assert not key.any()
            made[name.replace("qkv.bias", "q_bias")], made[name.replace("qkv.bias", "v_bias")] = query, value
        else:
            made[name] = tensor.clone()
    return made


def checkpoint(kind: str, folder: Path) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """Return tensors under LAVIS's names, and their transformers model, whose keys have no bias, like LAVIS's."""
    (folder / "theirs").mkdir()
    reference = make(kind, folder / "theirs")
    with torch.no_grad():
        for layer in reference.vision_model.encoder.layers:
            layer.self_attn.qkv.bias.view(3, -1)[1].zero_()
    reference.save_pretrained(folder / "theirs")
    return as_lavis(reference), reference


def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def test_a_stage_1_checkpoint_equals_that_of_transformers(tmp_path: Path) -> None:
    tensors, _ = checkpoint("retrieval", tmp_path)
    width, vocabulary = 24, 200
    head = {
        "temp": torch.tensor(0.05),
        "Qformer.cls.predictions.bias": torch.randn(vocabulary),
        "Qformer.cls.predictions.decoder.bias": torch.randn(vocabulary),
        "Qformer.cls.predictions.decoder.weight": torch.randn(vocabulary, width),
        "Qformer.cls.predictions.transform.dense.weight": torch.randn(width, width),
        "Qformer.cls.predictions.transform.dense.bias": torch.randn(width),
        "Qformer.cls.predictions.transform.LayerNorm.weight": torch.randn(width),
        "Qformer.cls.predictions.transform.LayerNorm.bias": torch.randn(width),
    }
    torch.save({"model": tensors | head, "epoch": 3}, tmp_path / "blip2_pretrained.pth")
    tiny_vocabularies.write_bert(tmp_path)
    loaded = load_lavis(tmp_path / "blip2_pretrained.pth", vocabulary=tmp_path, **HEADS)
    expected = load_vision_language(tmp_path / "theirs")
    assert loaded.tokenizer is not None and expected.tokenizer is not None
    tokens = loaded.tokenizer(["a dog", "two cats sleep", "snow"])
    ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
    with torch.no_grad():
        ours, theirs = image_tokens(loaded.image, pixels()), image_tokens(expected.image, pixels())
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(loaded.bridge.match(ours, ids, mask), expected.bridge.match(theirs, ids, mask))
        assert loaded.bridge.generation_logits(ours, ids, mask).shape == (*ids.shape, vocabulary)
    assert float(loaded.bridge.logit_scale.detach().exp()) == pytest.approx(20)  # type: ignore[union-attr]


@pytest.mark.parametrize("apart", [False, True])
def test_a_stage_2_checkpoint_equals_that_of_transformers(tmp_path: Path, apart: bool) -> None:
    tensors, reference = checkpoint("opt", tmp_path)
    reference.language_model.save_pretrained(tmp_path / "opt")
    word_tokenizer("opt").save_pretrained(tmp_path / "opt")
    vision = {name: tensor for name, tensor in tensors.items() if name.startswith("visual_encoder.")}
    file = None
    if apart:  # with the additional tensors of the vision transformer's file
        tensors = {name: tensor for name, tensor in tensors.items() if name not in vision}
        extra = {name.replace("blocks.1", "blocks.2"): tensor for name, tensor in vision.items() if "blocks.1" in name}
        whole = vision | extra | {"visual_encoder.norm.weight": torch.ones(32)}
        file = tmp_path / "eva_vit_g.pth"
        torch.save({name.removeprefix("visual_encoder."): tensor for name, tensor in whole.items()}, file)
    torch.save({"model": tensors}, tmp_path / "stage2.pth")
    loaded = load_lavis(tmp_path / "stage2.pth", vision=file, language=tmp_path / "opt", **HEADS)
    expected = load_vision_language(tmp_path / "theirs")
    with torch.no_grad():
        ours = loaded.bridge.soft_prompts(image_tokens(loaded.image, pixels()))
        theirs = expected.bridge.soft_prompts(image_tokens(expected.image, pixels()))
    torch.testing.assert_close(ours, theirs)
    assert loaded.language is not None and expected.language is not None
    for name, tensor in expected.language.module.state_dict().items():
        assert torch.equal(tensor, loaded.language.module.state_dict()[name]), name


def test_missing_parts_are_reported(tmp_path: Path) -> None:
    tensors, _ = checkpoint("opt", tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        load_lavis(tmp_path / "nothing.pth")
    (tmp_path / "broken.pth").write_bytes(b"no pickle")
    with pytest.raises(ModelError, match=r"broken\.pth"):
        load_lavis(tmp_path / "broken.pth")
    torch.save({"model": tensors}, tmp_path / "stage2.pth")
    with pytest.raises(ModelError, match="pass the folder of its language model"):
        load_lavis(tmp_path / "stage2.pth", **HEADS)
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual_encoder.")}
    torch.save({"model": without}, tmp_path / "bridge.pth")
    with pytest.raises(ModelError, match="pass its file as vision"):
        load_lavis(tmp_path / "bridge.pth", **HEADS)
    del tensors["Qformer.bert.encoder.layer.1.output_query.dense.weight"]
    torch.save({"model": tensors}, tmp_path / "hole.pth")
    (tmp_path / "opt").mkdir()
    with pytest.raises(WeightsMismatch, match=r"layer\.1\.output_query\.dense\.weight"):
        load_lavis(tmp_path / "hole.pth", language=tmp_path / "opt", **HEADS)
