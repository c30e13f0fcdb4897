"""Our models loaded by other libraries, and their checkpoints imported and exported tensor by tensor."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip_reference import CASES
from PIL import Image
from safetensors.torch import load_file, save_file

from beholder import DualEncoder, VisionLanguageModel
from beholder.errors import InvalidSetting, ModelError
from beholder.models.bert import BertSettings
from beholder.models.bridge import Bridge, image_tokens
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLite, EfficientNetLiteSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.transform import Preprocessing, to_pixels
from beholder.text.tokenizer_files import tokenizer_from_folder
from beholder.weights import chinese_clip, clip, open_clip, siglip
from beholder.weights.export import ExportWarning, export
from beholder.weights.load import load_dual_encoder, load_vision_language
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.table import build_empty, load_foreign, to_foreign
from random_weights import enlarge
from tiny_blip2 import make

transformers = pytest.importorskip("transformers")

BLOCKS: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "mlp_width": 48}
SENTENCES = ["a photo of a dog", "Two cats sleep!", "the quick brown fox jumps over the lazy dog", "snow"]
TOLERANCE = {"atol": 1e-5, "rtol": 0}
CROP = Preprocessing(48, 48, "crop", 48, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
SQUASH = Preprocessing(48, 48, "squash", interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def build(kind: str, vocabularies: Path, **changes: Any) -> LoadedDualEncoder:
    """Build a random dual encoder of ours; ``changes`` override settings of its image tower."""
    vocabulary = {"clip": "clip", "highest": "clip", "siglip": "siglip", "chinese": "bert", "grid": "bert"}[kind]
    tokenizer = tokenizer_from_folder(vocabularies / vocabulary, vocabulary, 24)  # type: ignore[arg-type]
    marks, pieces = tokenizer.settings, tokenizer.backend.get_vocab_size()
    vision: dict[str, Any] = {"image_height": 48, "image_width": 48, "patch_size": 16, **BLOCKS}
    cls = {
        "patch_bias": False,
        "norm_first": True,
        "final_norm": "pooled",
        "activation": "quick_gelu",
        "norm_eps": 1e-5,
    }
    if kind in ("clip", "highest"):
        pooling = "end" if kind == "clip" else "highest_id"
        text = TextTransformerSettings(pieces, 24, pooling=pooling, end_id=marks.end_id, **BLOCKS)  # type: ignore[arg-type]
        settings = TwoTowersSettings(VisionSettings(**{**vision, **cls, **changes}), text, 16)
    elif kind == "siglip":
        text = TextTransformerSettings(
            pieces, 24, activation="gelu_tanh", norm_eps=1e-6, causal=False, pooling="last", **BLOCKS
        )
        pooled = {"activation": "gelu_tanh", "class_token": False, "pooling": "attention"}
        settings = TwoTowersSettings(
            VisionSettings(**{**vision, **pooled, **changes}),
            text,
            32,
            HeadSettings("none"),
            HeadSettings("linear", bias=True),
            logit_bias=True,
        )
    elif kind == "chinese":
        settings = TwoTowersSettings(
            VisionSettings(**{**vision, **cls, **changes}), BertSettings(pieces, 24, **BLOCKS), 16
        )
    else:
        grid = EfficientNetLiteSettings(width_scale=0.3, depth_scale=0.5)
        settings = TwoTowersSettings(grid, BertSettings(pieces, 24, pooling="mean", **BLOCKS), 16)
    network = TwoTowers(settings).eval() if kind == "grid" else enlarge(TwoTowers(settings))
    return LoadedDualEncoder(
        network, CROP if kind in ("clip", "highest", "chinese") else SQUASH, tokenizer, name=kind, licence="apache-2.0"
    )


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(4).integers(0, 256, (3, 9, 9, 3), np.uint8)
    sizes = ((60, 80), (120, 96), (48, 48))
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one, size in zip(noise, sizes, strict=True)]


def embed(loaded: LoadedDualEncoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = loaded.tokenizer(SENTENCES)
    pixels = torch.from_numpy(np.stack([to_pixels(picture, loaded.preprocessing) for picture in pictures()]))
    with torch.no_grad():
        images = loaded.network.embed_image(pixels)
        texts = loaded.network.embed_text(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))
        return images, texts, loaded.network.logits(images, texts)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("clip", {}, "CLIPModel"),
        ("clip", {"activation": "gelu", "final_norm": "tokens"}, "CLIPModel"),
        ("highest", {}, "CLIPModel"),
        ("siglip", {}, "SiglipModel"),
        ("siglip", {"mlp_width": 40}, "SiglipModel"),
        ("chinese", {}, "ChineseCLIPModel"),
    ],
)
def test_transformers_computes_our_embeddings_from_an_exported_folder(
    kind: str, changes: dict[str, Any], named: str, vocabularies: Path, tmp_path: Path
) -> None:
    loaded = build(kind, vocabularies, **changes)
    export(loaded, "transformers", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["architectures"] == [named]
    model = transformers.AutoModel.from_pretrained(tmp_path / "exported").eval()
    assert type(model).__name__ == named
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    padding = "max_length" if kind == "siglip" else True
    words = tokenizer(SENTENCES, padding=padding, truncation=True, return_tensors="pt")
    words = {name: words[name] for name in ("input_ids", "attention_mask") if kind != "siglip" or name == "input_ids"}
    with torch.no_grad():
        theirs = model(**processor(images=pictures(), return_tensors="pt"), **words)
    images, texts, logits = embed(loaded)
    normalized = torch.nn.functional.normalize
    torch.testing.assert_close(images, normalized(theirs.image_embeds, dim=-1), **TOLERANCE)
    torch.testing.assert_close(texts, normalized(theirs.text_embeds, dim=-1), **TOLERANCE)
    torch.testing.assert_close(logits, theirs.logits_per_image, atol=2e-5 * float(logits.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["clip", "highest", "siglip", "chinese"])
def test_an_exported_model_can_be_imported_again(kind: str, vocabularies: Path, tmp_path: Path) -> None:
    loaded = build(kind, vocabularies)
    export(loaded, "transformers", tmp_path / "exported")
    export(loaded, "transformers", tmp_path / "exported")  # overwrites its own folder
    again = load_dual_encoder(tmp_path / "exported")
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name
    for ours, theirs in zip(embed(loaded), embed(again), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def theirs_clip(**vision: Any) -> Any:
    text = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 24}
    vision = {**text, "hidden_size": 32, "image_size": 48, "patch_size": 16, **vision}
    text |= {"vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 58}
    return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def theirs_siglip() -> Any:
    blocks = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
    text = {**blocks, "vocab_size": 60, "max_position_embeddings": 12}
    return transformers.SiglipConfig(text_config=text, vision_config={**blocks, "image_size": 48, "patch_size": 16})


def theirs_chinese() -> Any:
    config = theirs_clip()
    text = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 24}
    text |= {"vocab_size": 60, "max_position_embeddings": 12}
    return transformers.ChineseCLIPConfig(
        text_config=text, vision_config=config.vision_config.to_dict(), projection_dim=16
    )


@pytest.mark.parametrize(
    ("name", "config", "layout"),
    [
        ("CLIPModel", theirs_clip(), clip),
        ("CLIPModel", theirs_clip(hidden_act="gelu", patch_size=8), clip),
        ("SiglipModel", theirs_siglip(), siglip),
        ("ChineseCLIPModel", theirs_chinese(), chinese_clip),
    ],
)
def test_tensors_of_transformers_survive_import_and_export(name: str, config: Any, layout: Any, tmp_path: Path) -> None:
    model = enlarge(getattr(transformers, name)(config))
    model.save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    settings = layout.settings(json.loads((tmp_path / "config.json").read_text()))
    network = load_foreign(build_empty(TwoTowers, settings), before, layout.LAYOUT.rows, layout.LAYOUT.ignored)
    assert layout.settings(layout.config(settings)) == settings
    after = to_foreign(network.state_dict(), layout.LAYOUT.rows)
    assert {key: tuple(tensor.shape) for key, tensor in after.items()} == {
        key: tuple(tensor.shape) for key, tensor in before.items()
    }
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())


needs_open_clip = pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")


def in_open_clip(script: str, *folders: Path) -> None:
    order = [sys.executable, Path(__file__).with_name(script), *folders]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"open_clip cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@needs_open_clip
def test_tensors_of_open_clip_survive_import_and_export(tmp_path: Path) -> None:
    in_open_clip("open_clip_reference.py", tmp_path)
    for case in CASES:
        if "xlm_roberta" in CASES[case]:  # it can be read, but not written
            continue
        before = load_file(tmp_path / case / "open_clip_model.safetensors")
        settings = open_clip.settings(json.loads((tmp_path / case / "open_clip_config.json").read_text())["model_cfg"])
        rows = open_clip.rows(before, settings.text_head.bias)
        network = load_foreign(build_empty(TwoTowers, settings), before, rows, open_clip.IGNORED)
        assert open_clip.settings(open_clip.config(settings)) == settings, case
        after = to_foreign(network.state_dict(), rows)
        assert set(after) == set(before) - set(open_clip.IGNORED), case
        # the logit scale may be stored as a scalar or with shape (1,)
        assert all(torch.equal(tensor, before[key].reshape(tensor.shape)) for key, tensor in after.items()), case


@pytest.mark.slow
@needs_open_clip
def test_open_clip_computes_our_embeddings_from_an_exported_folder(vocabularies: Path, tmp_path: Path) -> None:
    cases = ({}, {"pooling": "mean", "layer_scale": True, "final_norm": "tokens"})
    expected = []
    for number, changes in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        loaded = build("clip", vocabularies, **changes)
        loaded = replace(loaded, preprocessing=replace(loaded.preprocessing, centre="round"))
        export(loaded, "open_clip", folder / "exported")
        tokens = loaded.tokenizer(SENTENCES)
        expected.append((*embed(loaded), tokens))
        (folder / "sentences.json").write_text(json.dumps(SENTENCES))
        ids = torch.zeros(len(SENTENCES), 24, dtype=torch.long)
        ids[:, : tokens.ids.shape[1]] = torch.from_numpy(tokens.ids)
        pixels = torch.from_numpy(np.stack([to_pixels(picture, loaded.preprocessing) for picture in pictures()]))
        save_file({"pixels": pixels, "ids": ids}, folder / "inputs.safetensors")
    in_open_clip("open_clip_opens.py", *(tmp_path / str(number) for number in range(len(cases))))
    for number, (images, texts, logits, tokens) in enumerate(expected):
        theirs = load_file(tmp_path / str(number) / "outputs.safetensors")
        torch.testing.assert_close(images, theirs["images"], **TOLERANCE)
        torch.testing.assert_close(texts, theirs["texts"], **TOLERANCE)
        torch.testing.assert_close(logits, theirs["logits"], atol=2e-5 * float(logits.abs().max()), rtol=0)
        read = theirs["tokens"][:, : tokens.ids.shape[1]].numpy()
        np.testing.assert_array_equal(read[tokens.mask], tokens.ids[tokens.mask])
        settings = json.loads((tmp_path / str(number) / "preprocess.json").read_text())
        assert settings["mean"] == list(CROP.mean) and settings["resize_mode"] == "shortest"


@pytest.mark.parametrize(
    ("kind", "changes", "format", "message"),
    [
        ("grid", {}, "transformers", "EfficientNetLiteSettings, which is not a vision transformer"),
        ("grid", {}, "open_clip", "not both transformers"),
        ("clip", {"patch_bias": True, "norm_first": False}, "transformers", "image.norm_first is False and not True"),
        ("clip", {"image_width": 64}, "transformers", "48 x 64, and transformers' vision towers know squares only"),
        ("clip", {"registers": 4}, "transformers", "image.registers is 4 and not 0"),
        ("clip", {"patch_bias": True}, "open_clip", "image.patch_bias is True and not False"),
        ("siglip", {}, "open_clip", "without pooling"),
        ("chinese", {}, "open_clip", "not both transformers"),
    ],
)
def test_an_unsupported_model_is_refused_with_the_format_that_supports_it(
    kind: str, changes: dict[str, Any], format: Any, message: str, vocabularies: Path, tmp_path: Path
) -> None:
    loaded = build(kind, vocabularies, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        export(loaded, format, tmp_path / "exported")
    assert "onnx works for every dual encoder" in str(caught.value) and kind in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_padded_preprocessing_is_refused_and_a_half_pixel_shift_gives_a_warning(
    vocabularies: Path, tmp_path: Path
) -> None:
    loaded = build("clip", vocabularies)
    with pytest.raises(ModelError, match="fitted by pad"):
        export(replace(loaded, preprocessing=replace(CROP, fit="pad")), "transformers", tmp_path / "exported")
    rounded = replace(loaded, preprocessing=replace(CROP, centre="round"))
    with pytest.warns(ExportWarning, match="centre round becomes floor"):
        export(rounded, "transformers", tmp_path / "exported")


def test_a_folder_with_other_files_is_not_overwritten(vocabularies: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidSetting, match="something other than a model"):
        export(build("clip", vocabularies), "transformers", tmp_path)
    with pytest.raises(InvalidSetting, match="none of transformers, open_clip, onnx"):
        export(build("clip", vocabularies), "tflite", tmp_path / "new")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "grid", "siglip"])
def test_onnx_runtime_computes_our_embeddings_for_any_batch_size_and_length(
    kind: str,
    vocabularies: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra beholder[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime")
    loaded = build(kind, vocabularies)
    export(loaded, "onnx", tmp_path / "exported")
    images, texts, _ = embed(loaded)
    session = onnxruntime.InferenceSession(tmp_path / "exported" / "image.onnx")
    pixels = np.stack([to_pixels(picture, loaded.preprocessing) for picture in pictures()])
    np.testing.assert_allclose(session.run(None, {"pixels": pixels})[0], images, **TOLERANCE)
    np.testing.assert_allclose(session.run(None, {"pixels": pixels[1:2]})[0], images[1:2], **TOLERANCE)
    session = onnxruntime.InferenceSession(tmp_path / "exported" / "text.onnx")
    tokens = loaded.tokenizer(SENTENCES)
    np.testing.assert_allclose(session.run(None, {"ids": tokens.ids, "mask": tokens.mask})[0], texts, **TOLERANCE)
    alone = loaded.tokenizer(SENTENCES[3:])
    np.testing.assert_allclose(session.run(None, {"ids": alone.ids, "mask": alone.mask})[0], texts[3:], **TOLERANCE)
    written = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert Preprocessing(**written["preprocessing"]) == loaded.preprocessing
    assert written["logit_scale"] == pytest.approx(float(loaded.network.logit_scale.exp()))
    if kind == "grid":  # its pictures are squashed, as in the example of the model card
        pictures()[0].save(tmp_path / "exported" / "photo.jpg", quality=95)
        monkeypatch.chdir(tmp_path / "exported")
        (program,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text("utf-8"), re.S)
        exec(program, {})
        expected = DualEncoder(loaded, "cpu").similarity("photo.jpg", "a dog").item()
        assert float(capsys.readouterr().out) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "t5", "retrieval"])
def test_blip2_survives_import_and_export_tensor_by_tensor(kind: str, tmp_path: Path) -> None:
    reference = make(kind, tmp_path / "theirs")
    export(load_vision_language(tmp_path / "theirs"), "transformers", tmp_path / "exported")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "exported"))
    assert set(before) == set(after)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    _, report = type(reference).from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_transformers_generates_our_captions_from_an_exported_folder(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "theirs")
    ours = VisionLanguageModel.from_pretrained(tmp_path / "theirs", device="cpu")
    export(ours.loaded, "transformers", tmp_path / "exported")
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "exported").eval()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "exported")
    inputs = processor(images=pictures(), text=["a photo of"] * 3, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=8, num_beams=1, do_sample=False)
    if kind == "opt":
        written = written[:, inputs["input_ids"].shape[1] :]
    theirs = [" ".join(text.split()) for text in processor.batch_decode(written, skip_special_tokens=True)]
    captions = ours.caption(pictures(), prompt="a photo of", max_new_tokens=8, num_beams=1, no_repeat_ngram_size=0)
    assert [" ".join(text.split()) for text in captions] == theirs
    assert any(theirs)


def test_a_bridge_with_both_heads_is_exported_for_generation_with_a_warning(tmp_path: Path) -> None:
    make("opt", tmp_path / "theirs")
    loaded = load_vision_language(tmp_path / "theirs")
    settings = loaded.bridge.settings
    both = replace(
        settings,
        qformer=replace(settings.qformer, vocabulary=50, dropout=0.1),
        embedding=8,
        inference_only=False,
    )
    loaded = replace(loaded, bridge=enlarge(Bridge(both)), name="trained")
    with pytest.warns(
        ExportWarning, match="no place for .*language_head.*matching_head.*text_feed_forward.*word_embeddings"
    ):
        export(loaded, "transformers", tmp_path / "exported")
    again = load_vision_language(tmp_path / "exported")
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        tokens = image_tokens(loaded.image, pixels)
        torch.testing.assert_close(loaded.bridge.soft_prompts(tokens), again.bridge.soft_prompts(tokens), **TOLERANCE)


def test_bridges_of_another_architecture_are_refused(tmp_path: Path) -> None:
    make("retrieval", tmp_path / "theirs")
    loaded = load_vision_language(tmp_path / "theirs")
    convolutional = replace(loaded, image=EfficientNetLite(EfficientNetLiteSettings()), name="grid")
    with pytest.raises(ModelError, match=r"grid: .* EfficientNetLite, not a vision transformer.*save_pretrained"):
        export(convolutional, "transformers", tmp_path / "exported")
    normed = replace(loaded, bridge=Bridge(replace(loaded.bridge.settings, image_norm=True)))
    with pytest.raises(ModelError, match="image_norm is True and not False"):
        export(normed, "transformers", tmp_path / "exported")
    make("opt", tmp_path / "opt")
    writer = load_vision_language(tmp_path / "opt")
    whole = Bridge(replace(writer.bridge.settings, global_tokens=1, global_prompts=2))
    with pytest.raises(ModelError, match="global_tokens is 1 and not 0"):
        export(replace(writer, bridge=whole), "transformers", tmp_path / "exported")
    with pytest.raises(ModelError, match="no place for a bridge"):
        export(loaded, "onnx", tmp_path / "exported")
