"""BLIP-2 against transformers, on small random checkpoints written by transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beholder import VisionLanguageModel
from beholder.errors import ModelError, WeightsMismatch
from beholder.models.bridge import image_tokens
from beholder.pictures.transform import to_pixels
from beholder.runtime.decoding import DecodingSettings, generate
from beholder.tasks.text_codec import append_tokens
from beholder.training.bridge_losses import pair_similarity
from beholder.weights.load import load_vision_language
from tiny_blip2 import make

WRITING = ["opt", "t5"]


def pixels(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(3)) * 3


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", [*WRITING, "retrieval"])
def test_image_features_and_query_outputs_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    reference = make(kind, tmp_path)
    loaded = load_vision_language(tmp_path)
    with torch.no_grad():
        theirs = reference.vision_model(pixels()).last_hidden_state
        ours = image_tokens(loaded.image, pixels())
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
        queries = reference.query_tokens.expand(12, -1, -1)
        expected = reference.qformer(query_embeds=queries, encoder_hidden_states=theirs)
        torch.testing.assert_close(loaded.bridge.queries(ours), expected.last_hidden_state, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", WRITING)
def test_teacher_forced_logits_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    reference = make(kind, tmp_path)
    model = VisionLanguageModel.from_pretrained(tmp_path, device="cpu")
    ids = torch.tensor([[2, 9, 11, 12]])
    with torch.no_grad():
        prompts = model.bridge.soft_prompts(image_tokens(model.image, pixels(1)))
        logits, _ = model.language.prefill(
            append_tokens(model.language, prompts, ids[0].tolist()), torch.ones(1, 9, dtype=torch.bool)
        )
        whole = torch.cat([torch.full((1, 5), 39), ids], 1)
        decoder = {"decoder_input_ids": torch.tensor([[0]])} if kind == "t5" else {}
        expected = reference(pixel_values=pixels(1), input_ids=whole, attention_mask=torch.ones_like(whole), **decoder)
    torch.testing.assert_close(logits, expected.logits[:, -1], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [1, 3])
@pytest.mark.parametrize("kind", WRITING)
def test_captions_equal_those_of_transformers(kind: str, wide: int, tmp_path: Path) -> None:
    reference = make(kind, tmp_path)
    model = VisionLanguageModel.from_pretrained(tmp_path, device="cpu")
    prompt = [9, 11, 12, 7] if kind == "t5" else [2, 9, 11, 12]
    whole = torch.tensor([[39] * 5 + prompt] * 12)
    theirs = reference.generate(
        pixels(),
        input_ids=whole,
        attention_mask=torch.ones_like(whole),
        max_new_tokens=10,
        num_beams=wide,
        do_sample=False,
    ).tolist()
    with torch.inference_mode():
        prompts = model.bridge.soft_prompts(image_tokens(model.image, pixels()))
        embeddings = append_tokens(model.language, prompts, prompt)
    ours = generate(model.language, embeddings, torch.ones(12, 9, dtype=torch.bool), DecodingSettings(10, wide))
    for text, row in zip(ours, theirs, strict=True):
        row = row[9:] if row[:5] == [39] * 5 else row[1:] if kind == "t5" else row
        row = row[: row.index(7)] if 7 in row else row
        assert text.ids == row
    assert all(text.ids for text in ours), "empty captions test little"


def test_matching_logits_and_contrastive_similarity_equal_those_of_transformers(tmp_path: Path) -> None:
    reference = make("retrieval", tmp_path)
    loaded = load_vision_language(tmp_path)
    assert loaded.tokenizer is not None
    tokens = loaded.tokenizer(
        ["a photo of a dog", "two cats sleep", "the red boat on the lake, they've said", "fox"] * 3
    )
    ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
    with torch.no_grad():
        features = image_tokens(loaded.image, pixels())
        options = {"pixel_values": pixels(), "input_ids": ids, "attention_mask": mask.long()}
        expected = reference(**options, use_image_text_matching_head=True).logits_per_image
        torch.testing.assert_close(loaded.bridge.match(features, ids, mask), expected, atol=1e-4, rtol=0)
        expected = reference(**options).logits_per_image
        ours = pair_similarity(loaded.bridge.image_features(features), loaded.bridge.text_features(ids, mask))
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_pixels_equal_those_of_the_reference_processor(tmp_path: Path) -> None:
    make("opt", tmp_path)
    from transformers import BlipImageProcessorPil

    expected = BlipImageProcessorPil.from_pretrained(tmp_path)(picture(), return_tensors="np")["pixel_values"][0]
    ours = to_pixels(picture(), load_vision_language(tmp_path).preprocessing)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [*WRITING, "retrieval"])
def test_a_saved_model_is_restored_bit_for_bit(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "theirs")
    model = VisionLanguageModel.from_pretrained(tmp_path / "theirs", device="cpu")
    model.save_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "ours")  # overwrites its own folder
    again = VisionLanguageModel.from_pretrained(tmp_path / "ours", device="cpu")
    for name, tensor in model.bridge.state_dict().items():
        assert torch.equal(tensor, again.bridge.state_dict()[name]), name
    if kind == "retrieval":
        assert (model.match(picture(), ["a dog", "cats"]) == again.match(picture(), ["a dog", "cats"])).all()
        with pytest.raises(ModelError, match="no language model"):
            again.caption(picture())
    else:
        for name, tensor in model.language.module.state_dict().items():
            assert torch.equal(tensor, again.language.module.state_dict()[name]), name
        assert model.caption([picture(), picture(1)]) == again.caption([picture(), picture(1)])
        with pytest.raises(ModelError, match="matching head"):
            again.match(picture(), ["a dog"])


def test_a_missing_tensor_is_reported_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make("opt", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("decoder.layers.1.fc1.weight"))
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"layers\.1\.fc1\.weight"):
        load_vision_language(tmp_path)
    name = next(name for name in tensors if "crossattention" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match="crossattention"):
        load_vision_language(tmp_path)


def test_an_unknown_model_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "moonbeam"}')
    with pytest.raises(ModelError, match=r"moonbeam is not known; known are .*blip-2"):
        load_vision_language(tmp_path)
