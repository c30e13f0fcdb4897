"""A dual encoder with a second text tower for other scripts."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_model
from beholder import DualEncoder
from beholder.errors import InvalidSetting, ModelError
from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder
from beholder.text.tokenizer import TruncationWarning
from beholder.weights.native import FILES, _description, fingerprint, load_dual_encoder, save_dual_encoder

CHINESE = "狗在雪地里"
ENGLISH = "a dog in the snow"


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return DualEncoder(tiny_model.build(multilingual=True), "cpu")


def test_a_text_is_embedded_by_the_tower_of_its_script(encoder: DualEncoder) -> None:
    assert not isinstance(encoder.loaded, CompiledDualEncoder)
    alone = DualEncoder(replace(encoder.loaded, multilingual=None), "cpu")
    both = encoder.embed_texts([CHINESE, ENGLISH, "кот", "a harbour at night"])
    np.testing.assert_allclose(both[[1, 3]], alone.embed_texts([ENGLISH, "a harbour at night"]), atol=1e-6)
    second = encoder.loaded.multilingual
    assert second is not None
    for row, text in ((0, CHINESE), (2, "кот")):
        tokens = second.tokenizer([text])
        with torch.inference_mode():
            expected = second.network.embed_text(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))
        np.testing.assert_allclose(both[row], expected[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)


def test_match_uses_the_calibration_of_each_texts_tower(encoder: DualEncoder) -> None:
    loaded = encoder.loaded
    assert loaded.calibration is not None and loaded.multilingual is not None
    assert loaded.multilingual.calibration is not None
    texts = [ENGLISH, CHINESE]
    vectors = encoder.embed_texts(texts)
    images = np.random.default_rng(0).normal(size=(3, tiny_model.EMBEDDING)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    match, cosines = encoder.match(images, vectors, texts), images @ vectors.T
    np.testing.assert_allclose(match[:, :1], loaded.calibration.match(images, cosines[:, :1]))
    np.testing.assert_allclose(match[:, 1:], loaded.multilingual.calibration.match(images, cosines[:, 1:]))
    assert not np.allclose(encoder.match(images, vectors)[:, 1], match[:, 1])
    with pytest.raises(InvalidSetting, match="one for each"):
        encoder.match(images, vectors, texts[:1])


def test_classification_takes_labels_of_both_scripts(encoder: DualEncoder, tmp_path: Path) -> None:
    picture = tiny_model.paint(tmp_path)[0]
    labels = ["dog", "猫"]
    ranked = dict(encoder.classify(picture, labels, "{}", multi=True))
    images, vectors = encoder.embed_images([picture]), encoder.embed_labels(labels, ["{}"])
    expected = encoder.match(images, vectors, labels)[0]
    np.testing.assert_allclose([ranked[label] for label in labels], expected, rtol=1e-5)


def test_a_chinese_text_that_is_too_long_is_named_with_its_place(encoder: DualEncoder) -> None:
    with pytest.warns(TruncationWarning, match="sentence 2 .* it has 20 tokens and the model reads 10"):
        encoder.embed_texts([ENGLISH, "狗" * 20])


def test_it_is_saved_and_loaded_bit_for_bit(encoder: DualEncoder, tmp_path: Path) -> None:
    loaded = encoder.loaded
    assert not isinstance(loaded, CompiledDualEncoder)
    save_dual_encoder(loaded, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    again = load_dual_encoder(tmp_path / "model")
    assert fingerprint(again) == fingerprint(loaded)
    np.testing.assert_array_equal(
        DualEncoder(again, "cpu").embed_texts([CHINESE, ENGLISH]), encoder.embed_texts([CHINESE, ENGLISH])
    )
    assert again.multilingual is not None and again.multilingual.calibration is not None
    assert again.multilingual.calibration.weights.tolist() == [2.0, -0.5, 0.25]
    (tmp_path / "model" / "multilingual.safetensors").unlink()
    with pytest.raises(ModelError, match="multilingual"):
        load_dual_encoder(tmp_path / "model")


def test_the_second_tower_is_part_of_the_fingerprint_and_its_absence_is_not(tmp_path: Path) -> None:
    with_second = tiny_model.build(multilingual=True)
    without = replace(with_second, multilingual=None)
    digest = sha256(json.dumps(_description(without), sort_keys=True).encode())
    digest.update(without.tokenizer.backend.to_str().encode())
    for name, tensor in sorted(without.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert fingerprint(without) == digest.hexdigest(), "as before there were second towers"
    assert fingerprint(with_second) != fingerprint(without)
    save_dual_encoder(without, tmp_path / "model")
    assert '"version": 1' in (tmp_path / "model" / "beholder.json").read_text("utf-8")


@pytest.mark.slow
def test_the_compiled_model_embeds_both_and_reads_the_second_vocabulary_only_when_needed(
    encoder: DualEncoder, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    encoder.save_pretrained(tmp_path / "model")
    compiled = DualEncoder.compile(tmp_path / "model")
    assert compiled.fingerprint == encoder.fingerprint
    again = DualEncoder.from_pretrained(tmp_path / "model", device="cpu")
    again.embed_texts([ENGLISH])
    second = again.loaded.multilingual
    assert second is not None and "tokenizer" not in vars(second), "an English text needs no second vocabulary"
    texts = [CHINESE, ENGLISH, "кот"]
    np.testing.assert_allclose(again.embed_texts(texts), encoder.embed_texts(texts), atol=1e-5)
    images = encoder.embed_texts(["x", "y"])
    vectors = encoder.embed_texts(texts)
    np.testing.assert_allclose(again.match(images, vectors, texts), encoder.match(images, vectors, texts), atol=1e-6)
