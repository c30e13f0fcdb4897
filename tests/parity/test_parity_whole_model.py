"""From pictures and sentences to embeddings: the public API against transformers and sentence-transformers."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from small_clip import SENTENCES, pictures, write_small_clip

from beholder.errors import ModelError
from beholder.pictures.transform import to_pixels
from beholder.weights.load import load_dual_encoder, load_image_encoder
from beholder.weights.loaded import LoadedDualEncoder

transformers = pytest.importorskip("transformers")


def embed(loaded: LoadedDualEncoder, images: list, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    tokens = loaded.tokenizer(texts)
    pixels = torch.from_numpy(np.stack([to_pixels(image, loaded.preprocessing) for image in images]))
    with torch.no_grad():
        text_vectors = loaded.network.embed_text(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))
        return loaded.network.embed_image(pixels).numpy(), text_vectors.numpy()


def reference(folder: Path, images: list, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        output = model(**processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True))
    return output.image_embeds.numpy(), output.text_embeds.numpy()


@pytest.mark.parametrize("end_id", [None, 2])
def test_embeddings_of_pictures_and_sentences_equal_those_of_transformers(tmp_path: Path, end_id: int | None) -> None:
    write_small_clip(tmp_path, end_id)
    images, texts = embed(load_dual_encoder(tmp_path), pictures(), SENTENCES)
    expected_images, expected_texts = reference(tmp_path, pictures(), SENTENCES)
    np.testing.assert_allclose(images, expected_images, atol=1e-5, rtol=0)
    np.testing.assert_allclose(texts, expected_texts, atol=1e-5, rtol=0)


def test_padding_to_full_length_does_not_change_the_embedding(tmp_path: Path) -> None:
    write_small_clip(tmp_path)
    loaded = load_dual_encoder(tmp_path)
    _, together = embed(loaded, pictures(), SENTENCES)
    loaded.tokenizer.settings = replace(loaded.tokenizer.settings, padding="full")
    for row, sentence in enumerate(SENTENCES):
        _, alone = embed(loaded, pictures(), [sentence])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6, rtol=0)


BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
VISION = {**BLOCKS, "image_size": 48, "patch_size": 16}


def test_chinese_clip_is_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "一", "只", "狗", "猫", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    text = {**BLOCKS, "vocab_size": len(words), "max_position_embeddings": 16}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    model = transformers.ChineseCLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    size = {"height": 48, "width": 48}
    transformers.ChineseCLIPImageProcessorPil(size=size, do_center_crop=False).save_pretrained(tmp_path)
    sentences = ["一只狗", "dog 猫", "一只狗一只猫"]
    _, texts = embed(load_dual_encoder(tmp_path), pictures()[2:], sentences)
    with torch.no_grad():
        features = model.get_text_features(**tokenizer(sentences, padding=True, return_tensors="pt")).pooler_output
    np.testing.assert_allclose(texts, torch.nn.functional.normalize(features, dim=-1), atol=1e-5, rtol=0)


def test_siglip_pads_every_sentence_to_full_length(tmp_path: Path) -> None:
    vocabulary = {"</s>": 0, "<unk>": 1, "a": 2, "dog": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"}')
    text = {**BLOCKS, "vocab_size": 4, "max_position_embeddings": 9}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)).eval()
    model.save_pretrained(tmp_path)
    transformers.SiglipImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    loaded = load_dual_encoder(tmp_path)
    ids = [[2, 3, 0, 0, 0, 0, 0, 0, 0]]
    assert loaded.tokenizer(["A dog."]).ids.tolist() == ids
    _, texts = embed(loaded, pictures()[2:], ["A dog."])
    with torch.no_grad():
        features = model.get_text_features(torch.tensor(ids)).pooler_output
    np.testing.assert_allclose(texts, torch.nn.functional.normalize(features, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
@pytest.mark.parametrize("path", ["", "0_CLIPModel"])
def test_embeddings_of_a_sentence_transformers_folder_equal_those_of_the_library(tmp_path: Path, path: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    write_small_clip(tmp_path / "clip")
    saved = tmp_path / "saved"
    SentenceTransformer(modules=[Transformer(str(tmp_path / "clip"))], device="cpu").save_pretrained(str(saved))
    if path:  # the layout of versions before 5.4 and of the published checkpoints
        (saved / path).mkdir()
        for file in saved.glob("*.*"):
            if file.name not in ("modules.json", "config_sentence_transformers.json"):
                file.rename(saved / path / file.name)
        module = {"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.CLIPModel"}
        (saved / "modules.json").write_text(json.dumps([module]))
    model = SentenceTransformer(str(saved), device="cpu")
    images, texts = embed(load_dual_encoder(saved), pictures(), SENTENCES)
    encode = {"convert_to_numpy": True, "normalize_embeddings": True, "show_progress_bar": False}
    np.testing.assert_allclose(images, model.encode(pictures(), **encode), atol=1e-5, rtol=0)
    np.testing.assert_allclose(texts, model.encode(SENTENCES, **encode), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            '[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]',
            "Pooling is not a CLIP",
        ),
        ('[{"type": "a.CLIPModel", "path": "../elsewhere"}]', "not a folder beside it"),
        ('[{"type": "a.CLIPModel", "path": "missing"}]', "not a folder beside it"),
        ("[]", "lists no module"),
        ("{}", "lists no module"),
        ('[{"path": ""}]', "not a list of modules"),
    ],
)
def test_modules_other_than_a_single_clip_are_refused(tmp_path: Path, modules: str, message: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text(modules)
    with pytest.raises(ModelError, match=message):
        load_dual_encoder(tmp_path / "model")


def test_a_folder_without_a_dual_encoder_is_refused_with_what_it_contains(tmp_path: Path) -> None:
    cases = {
        '{"model_type": "flava"}': "FLAVA",
        '{"model_type": "vit"}': "load_image_encoder",
        '{"model_type": "llama"}': "llama is not known",
        "{": "cannot be read as JSON",
        "[]": "no JSON object",
    }
    for text, message in cases.items():
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=message) as caught:
            load_dual_encoder(tmp_path)
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_dual_encoder(tmp_path / "..")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelError, match="not an image encoder"):
        load_image_encoder(tmp_path)


@pytest.mark.hub
@pytest.mark.skipif(os.environ.get("BEHOLDER_TEST_HUB") != "1", reason="needs the hub: set BEHOLDER_TEST_HUB=1")
def test_the_published_clip_has_the_embeddings_of_transformers() -> None:
    name = "openai/clip-vit-base-patch32"
    images, texts = embed(load_dual_encoder(name), pictures(), SENTENCES)
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "model.safetensors", "pytorch_model.bin"]))
    expected_images, expected_texts = reference(folder, pictures(), SENTENCES)
    np.testing.assert_allclose(images, expected_images, atol=1e-5, rtol=0)
    np.testing.assert_allclose(texts, expected_texts, atol=1e-5, rtol=0)


@pytest.mark.hub
@pytest.mark.skipif(
    os.environ.get("BEHOLDER_TEST_HUB") != "1" or "BEHOLDER_TEST_PUPPY" not in os.environ,
    reason="needs the hub and the picture: set BEHOLDER_TEST_HUB=1 and BEHOLDER_TEST_PUPPY to its path or address",
)
def test_the_published_clip_gives_the_documented_cosine_of_the_puppy_in_the_snow() -> None:
    from beholder.pictures.read import read_picture

    picture = read_picture(os.environ["BEHOLDER_TEST_PUPPY"], allow_urls=True)
    loaded = load_dual_encoder("openai/clip-vit-base-patch32")
    images, texts = embed(loaded, [picture], ["a puppy playing in the snow"])
    assert float(images @ texts.T) == pytest.approx(0.33149636, abs=1e-4)


@pytest.mark.hub
@pytest.mark.skipif(
    os.environ.get("BEHOLDER_TEST_HUB") != "1" or "BEHOLDER_TEST_PUPPY" not in os.environ,
    reason="needs the hub and the picture: set BEHOLDER_TEST_HUB=1 and BEHOLDER_TEST_PUPPY to its path or address",
)
def test_the_example_for_the_hub_runs() -> None:
    from beholder import DualEncoder, VisionLanguageModel

    puppy = os.environ["BEHOLDER_TEST_PUPPY"]
    encoder = DualEncoder.from_pretrained("clip")
    similarity = encoder.embed_images([puppy], allow_urls=True) @ encoder.embed_texts(["a puppy playing in the snow"]).T
    assert float(similarity) == pytest.approx(0.33149636, abs=1e-4)
    model = VisionLanguageModel.from_pretrained("smolvlm")
    assert "snow" in model.caption(puppy, max_new_tokens=40, allow_urls=True).lower()
