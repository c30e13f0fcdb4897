"""SmolVLM against transformers, on small random checkpoints written by transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from beholder import VisionLanguageModel
from beholder.errors import ModelError, WeightsMismatch
from beholder.models.bridge import image_tokens
from beholder.models.connector import pixel_shuffle
from beholder.pictures.tiles import Tiling, to_tiles
from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.smolvlm_conversation import SmolVLMConversation
from beholder.weights.image_text_to_text import read_processor
from beholder.weights.smolvlm import LoadedSmolVLM, load
from tiny_image_text_to_text import EOS, IMAGE, LLAMA, picture, smolvlm, smolvlm_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smolvlm")
    smolvlm(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return read_processor(folder, "smolvlm")


def prompt(model: VisionLanguageModel, pictures: int = 1) -> str:
    assert isinstance(model.backend, ImageTextToTextModel)
    return model.backend.question_prompt("what is this ?", pictures)


def reference_inputs(processor: Any, pictures: list[list[Image.Image]], texts: list[str]) -> Any:
    processor.tokenizer.padding_side = "left"
    return processor(images=pictures, text=texts, return_tensors="pt", padding=True)


def without_end(row: list[int]) -> list[int]:
    return row[: row.index(EOS)] if EOS in row else row


BATCHES = {
    "one picture": [[picture()]],
    "a picture of a single tile": [[picture(1, 28, 20)]],
    "three pictures": [[picture(0), picture(1, 30, 60), picture(2, 60, 20)]],
    "a batch of two": [[picture(0)], [picture(1, 20, 60), picture(2, 56, 56)]],
}


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}},
        {"size": {"longest_edge": 70}, "max_image_size": {"longest_edge": 30}, "resample": 3},
        {"size": {"longest_edge": 28}, "max_image_size": {"longest_edge": 28}, "image_mean": [0.1, 0.2, 0.3]},
        {"size": {"longest_edge": 50}, "max_image_size": {"longest_edge": 28}, "do_image_splitting": False},
        {"size": {"longest_edge": 5000}, "max_image_size": {"longest_edge": 1024}},
    ],
)
def test_tiles_equal_those_of_the_reference_processor(settings: dict[str, Any]) -> None:
    reference = transformers.SmolVLMImageProcessorPil(**settings)
    tiling = Tiling(
        settings["max_image_size"]["longest_edge"],
        settings["size"]["longest_edge"],
        settings.get("do_image_splitting", True),
        "bicubic" if settings.get("resample") == 3 else "lanczos",
        mean=tuple(settings.get("image_mean", (0.5, 0.5, 0.5))),
    )
    sizes = [(50, 40), (40, 50), (28, 28), (20, 9), (300, 7), (7, 300), (57, 56)]
    for width, height in sizes if tiling.tile_size < 1000 else sizes[:1]:
        expected = reference([[picture(0, width, height)]], return_tensors="np", return_row_col_info=True)
        found = to_tiles(picture(0, width, height), tiling)
        assert [[found.rows]] == expected["rows"] and [[found.columns]] == expected["cols"]
        np.testing.assert_allclose(found.pixels, expected["pixel_values"][0], atol=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
def test_pixels_and_token_ids_equal_those_of_the_reference_processor(
    model: VisionLanguageModel, processor: Any, batch: str
) -> None:
    pictures = BATCHES[batch]
    texts = [prompt(model, len(each)) for each in pictures]
    inputs = smolvlm_generator(model).encode(pictures, texts)
    expected = reference_inputs(processor, pictures, texts)
    for row, mask, ids in zip(expected["input_ids"], expected["attention_mask"], inputs.ids, strict=True):
        assert row[mask.bool()].tolist() == ids
    for pixels, tiles in zip(expected["pixel_values"].numpy(), inputs.tiles, strict=True):
        np.testing.assert_allclose(tiles, pixels[: len(tiles)], atol=1e-5)
        assert not pixels[len(tiles) :].any()


@pytest.mark.parametrize("batch", BATCHES)
def test_logits_equal_those_of_transformers(
    model: VisionLanguageModel, reference: Any, processor: Any, batch: str
) -> None:
    pictures = BATCHES[batch]
    texts = [prompt(model, len(each)) for each in pictures]
    ours = smolvlm_generator(model)
    inputs = ours.encode(pictures, texts)
    with torch.inference_mode():
        soft_prompts = torch.cat([ours.soft_prompts(tiles) for tiles in inputs.tiles])
        logits, _ = ours.language.prefill(*ours.embed(inputs.ids, soft_prompts))
        expected = reference(**reference_inputs(processor, pictures, texts))
    features = torch.cat(list(expected.image_outputs.pooler_output)) if expected.image_outputs else soft_prompts
    torch.testing.assert_close(soft_prompts, features, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, expected.logits[:, -1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("batch", BATCHES)
def test_generated_ids_equal_those_of_transformers(
    model: VisionLanguageModel, reference: Any, processor: Any, batch: str, num_beams: int
) -> None:
    pictures = BATCHES[batch]
    texts = [prompt(model, len(each)) for each in pictures]
    expected = reference_inputs(processor, pictures, texts)
    theirs = reference.generate(**expected, max_new_tokens=8, num_beams=num_beams, do_sample=False)
    ours = smolvlm_generator(model)
    found = ours.generate(ours.encode(pictures, texts), DecodingSettings(8, num_beams))
    for (text,), row in zip(found, theirs[:, expected["input_ids"].shape[1] :].tolist(), strict=True):
        assert text.ids == without_end(row)
        assert text.ids, "empty answers test little"
        assert text.finished == (EOS in row)


def test_captions_do_not_depend_on_the_batch(model: VisionLanguageModel, reference: Any, processor: Any) -> None:
    pictures = [picture(0), picture(1, 60, 30), picture(2, 30, 60)]
    assert isinstance(model.backend, ImageTextToTextModel)
    text = model.backend.caption_prompt(CaptionOptions())
    expected = []
    for each in pictures:
        inputs = reference_inputs(processor, [[each]], [text])
        out = reference.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False)
        whole = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        expected.append(" ".join(whole.split()))
    options: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 3, "no_repeat_ngram_size": 0}
    assert model.caption(pictures, batch_size=3, **options) == expected
    assert model.caption(pictures, batch_size=1, **options) == expected


@pytest.mark.parametrize("pictures", [1, 2])
def test_each_turn_equals_transformers_reading_the_whole_conversation(
    model: VisionLanguageModel, reference: Any, processor: Any, pictures: int
) -> None:
    seen = [picture(seed) for seed in range(pictures)]
    chat = model.chat(seen if pictures > 1 else seen[0], max_new_tokens=5)
    assert isinstance(chat, SmolVLMConversation)
    messages: list[dict[str, Any]] = []
    for question in ("what is this ?", "how many ?", "where ?", "who ?", "and when ?"):
        answer = chat.ask(question)
        shown = [{"type": "image"}] * (0 if messages else pictures)
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        text = processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, add_generation_prompt=True, tokenize=False
        )
        inputs = reference_inputs(processor, [seen], [text])
        out = reference.generate(**inputs, max_new_tokens=5, do_sample=False)
        expected = without_end(out[0, inputs["input_ids"].shape[1] :].tolist())
        assert chat.turns[-1].answer_ids == expected
        assert answer == processor.tokenizer.decode(expected, skip_special_tokens=True).strip()
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    assert len(chat.turns) == 5


def test_pixel_shuffle_equals_that_of_transformers(reference: Any) -> None:
    tokens = torch.randn(2, 36, 5)
    for factor in (1, 2, 3):
        assert torch.equal(pixel_shuffle(tokens, factor), reference.model.connector.pixel_shuffle(tokens, factor))


def write(folder: Path, vision: dict[str, Any], text: dict[str, Any], tile: int, tokens: int, **more: Any) -> None:
    """Write another checkpoint into a folder that has the small one's tokenizer."""
    smolvlm(folder)
    torch.manual_seed(1)
    config = transformers.SmolVLMConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, pad_token_id=0, **more
    )
    transformers.SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 2 * tile}, max_image_size={"longest_edge": tile}
    ).save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "SmolVLMProcessor", "image_seq_len": tokens})
    )


@pytest.mark.parametrize(("image_size", "tile"), [(108, 108), (108, 72), (72, 108)])
def test_positions_are_found_as_transformers_finds_them(image_size: int, tile: int, tmp_path: Path) -> None:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 4,
        "initializer_range": 0.5,
    }
    write(tmp_path, vision, LLAMA | {"num_hidden_layers": 1}, tile, (tile // 4 // 3) ** 2, scale_factor=3)
    reference = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    loaded = load(tmp_path, "small")
    pixels = to_tiles(picture(3, 90, 60), loaded.processor.tiling).pixels
    with torch.inference_mode():
        expected = reference.model.get_image_features(torch.from_numpy(pixels)[None]).pooler_output[0]
        found = loaded.connector.soft_prompts(image_tokens(loaded.image, torch.from_numpy(pixels)))
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-4, rtol=0)


def test_tied_embeddings_and_the_older_files_of_the_hub(folder: Path, tmp_path: Path) -> None:
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    write(tmp_path, vision, LLAMA | {"tie_word_embeddings": True}, 28, 4, scale_factor=2, tie_word_embeddings=True)
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    config = json.loads((tmp_path / "config.json").read_text())
    # What earlier versions of transformers wrote.
    config["text_config"] |= {"torch_dtype": "bfloat16", "_attn_implementation_autoset": False, "rope_scaling": None}
    rope = config["text_config"].pop("rope_parameters", {})
    config["text_config"]["rope_theta"] = rope.get("rope_theta", 10000.0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    reference = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model = VisionLanguageModel.from_pretrained(tmp_path, device="cpu")
    inputs = reference_inputs(read_processor(tmp_path, "smolvlm"), [[picture()]], [prompt(model)])
    theirs = reference.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    ours = smolvlm_generator(model)
    ((found,),) = ours.generate(ours.encode([[picture()]], [prompt(model)]), DecodingSettings(6))
    assert found.ids == without_end(theirs.tolist())


def test_tokens_that_the_checkpoint_forbids_are_never_generated(folder: Path, tmp_path: Path) -> None:
    smolvlm(tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    generation["bad_words_ids"] = [[IMAGE], [40], [41]]
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    loaded = load(tmp_path, "small")
    assert {IMAGE, 40, 41, *generation["suppress_tokens"]} == set(loaded.suppress_tokens)
    generation["bad_words_ids"] = [[40, 41]]
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(ModelError, match="bad_words_ids"):
        load(tmp_path, "small")


def test_a_missing_or_unexpected_tensor_is_reported_by_name(tmp_path: Path) -> None:
    smolvlm(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("vision_model.embeddings.position_embedding.weight", "text_model.layers.1.mlp.up_proj.weight"):
        key = next(key for key in tensors if key.endswith(name))
        kept = {other: tensor for other, tensor in tensors.items() if other != key}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsMismatch, match=name.split(".", 1)[1].replace(".", r"\.")):
            load(tmp_path, "small")
    save_file(tensors | {"model.more": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match="unexpected: more"):
        load(tmp_path, "small")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("processor_config.json", {"image_seq_len": 5}, "must leave 5 of them"),
        ("config.json", {"image_token_id": 7}, "the config says that 7 is the image token"),
        ("config.json", {"scale_factor": 3}, "pixel shuffle by 3"),
        ("preprocessor_config.json", {"resample": 9}, "not one of Pillow's filters"),
        ("preprocessor_config.json", {"size": {"height": 28, "width": 28}}, "only a longest_edge is known"),
    ],
)
def test_files_that_contradict_each_other_are_refused(
    file: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    smolvlm(tmp_path)
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | change))
    with pytest.raises(ModelError, match=message):
        VisionLanguageModel.from_pretrained(tmp_path)


def test_the_networks_are_here(model: VisionLanguageModel) -> None:
    assert isinstance(model.loaded, LoadedSmolVLM)
    assert type(model.loaded.language.module).__name__ == "LlamaForCausalLM"


def test_a_processor_that_transformers_saved_in_one_file_is_read(folder: Path, processor: Any, tmp_path: Path) -> None:
    saved = processor.to_dict()
    smolvlm(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": processor.image_processor.to_dict(), "image_seq_len": saved["image_seq_len"]})
    )
    assert load(tmp_path, "small").processor.settings() == load(folder, "small").processor.settings()
