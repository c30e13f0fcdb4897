"""SigLIP 2 NaFlex against transformers, on small random checkpoints that transformers writes."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from beholder import DualEncoder
from beholder.errors import InvalidSetting, ModelError
from beholder.pictures.naflex import MARKS, NaFlexPreprocessing, mark_patches, to_patches
from beholder.training.clip_model import fixed_preprocessing
from beholder.weights.export import export
from beholder.weights.load import load_dual_encoder, load_image_tower
from random_weights import enlarge

transformers = pytest.importorskip("transformers")

BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
TOLERANCE = {"atol": 1e-5, "rtol": 0}
SIZES = ((80, 60), (48, 200), (48, 48), (400, 20), (3, 5))


def pictures() -> list[Image.Image]:
    """Return pictures of different shapes, smooth enough to survive resizing."""
    noise = np.random.default_rng(4).integers(0, 256, (len(SIZES), 9, 9, 3), np.uint8)
    return [
        Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each, size in zip(noise, SIZES, strict=True)
    ]


def write(
    vocabularies: Path,
    folder: Path,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    pixels: dict[str, Any] | None = None,
) -> Any:
    """Write a checkpoint with tokenizer and processor; return the model."""
    shutil.copytree(vocabularies / "siglip2", folder, dirs_exist_ok=True)
    pieces = len(json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    config = transformers.Siglip2Config(
        text_config={**BLOCKS, "vocab_size": pieces, "max_position_embeddings": 16, **(text or {})},
        vision_config={**BLOCKS, "patch_size": 8, "num_patches": 16, **(vision or {})},
    )
    model = enlarge(transformers.Siglip2Model(config))
    model.save_pretrained(folder)
    settings = {"patch_size": config.vision_config.patch_size, "max_num_patches": 30, **(pixels or {})}
    transformers.Siglip2ImageProcessorPil(**settings).save_pretrained(folder)
    return model


def inputs(folder: Path, images: list[Image.Image]) -> Any:
    return transformers.Siglip2ImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")


@torch.no_grad()
def expected_images(model: Any, folder: Path, images: list[Image.Image]) -> np.ndarray:
    return normalize(model.get_image_features(**inputs(folder, images)).pooler_output, dim=-1).numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 16, "max_num_patches": 256, "resample": 3},
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "max_num_patches": 7},
        {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [50.0, 60.0, 70.0]},
        {"do_normalize": False},
    ],
)
def test_patches_equal_those_of_the_processor(vocabularies: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    patch = changes.get("patch_size", 8)
    write(vocabularies, tmp_path, {"patch_size": patch}, pixels=changes)
    preprocessing = load_dual_encoder(tmp_path).preprocessing
    assert isinstance(preprocessing, NaFlexPreprocessing)
    theirs = inputs(tmp_path, pictures())
    for row, picture in enumerate(pictures()):
        ours = to_patches(picture, preprocessing)
        np.testing.assert_allclose(ours[:, :-MARKS], theirs["pixel_values"][row], atol=1e-5, rtol=1e-6)
        assert ours[:, -MARKS].tolist() == theirs["pixel_attention_mask"][row].tolist()
        assert preprocessing.patch_grid(*picture.size) == tuple(theirs["spatial_shapes"][row].tolist())


def test_grids_of_many_sizes_equal_those_of_the_processor() -> None:
    preprocessing = NaFlexPreprocessing()
    processor = transformers.Siglip2ImageProcessorPil()
    generator = np.random.default_rng(1)
    sizes = [(1, 1), (1, 3000), (224, 224), *generator.integers(1, 1200, (9, 2)).tolist()]
    blank = [Image.new("RGB", (width, height)) for width, height in sizes]
    theirs = processor(blank, return_tensors="np")["spatial_shapes"].tolist()
    assert [list(preprocessing.patch_grid(*size)) for size in sizes] == theirs


@pytest.mark.parametrize(
    ("vision", "text"),
    [({}, {}), ({"patch_size": 4, "num_patches": 9, "hidden_act": "gelu"}, {"hidden_size": 16, "projection_size": 32})],
)
def test_tokens_and_embeddings_equal_those_of_transformers(
    vocabularies: Path, tmp_path: Path, vision: dict[str, Any], text: dict[str, Any]
) -> None:
    model = write(vocabularies, tmp_path, vision, text)
    loaded = load_dual_encoder(tmp_path)
    theirs, network = inputs(tmp_path, pictures()), loaded.network
    marked = torch.from_numpy(np.stack([to_patches(each, loaded.preprocessing) for each in pictures()]))  # type: ignore[arg-type]
    with torch.no_grad():
        expected, found = model.vision_model(**theirs), network.image(marked)
        is_patch = theirs["pixel_attention_mask"].bool()
        torch.testing.assert_close(found.tokens[is_patch], expected.last_hidden_state[is_patch], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.pooled, expected.pooler_output, atol=1e-4, rtol=0)
        ids = torch.randint(0, 60, (3, 16), generator=torch.Generator().manual_seed(8))
        texts = normalize(model.get_text_features(ids).pooler_output, dim=-1)
        torch.testing.assert_close(network.embed_text(ids), texts, **TOLERANCE)
        logits = model(ids, **theirs).logits_per_image
        torch.testing.assert_close(network.logits(network.embed_image(marked), texts), logits, atol=1e-4, rtol=0)


def test_pictures_of_different_shapes_share_a_batch_and_equal_those_alone(vocabularies: Path, tmp_path: Path) -> None:
    model = write(vocabularies, tmp_path / "model")
    encoder = DualEncoder.from_pretrained(tmp_path / "model", device="cpu")
    files = [tmp_path / f"{number}.png" for number in range(len(SIZES))]
    for file, picture in zip(files, pictures(), strict=True):
        picture.save(file)
    together = encoder.embed_images(files)
    np.testing.assert_allclose(together, expected_images(model, tmp_path / "model", pictures()), **TOLERANCE)
    for file, vector in zip(files, together, strict=True):
        np.testing.assert_allclose(encoder.embed_images(file)[0], vector, **TOLERANCE)
    sentences = ["a dog", "The HARBOUR"]
    tokens = transformers.Siglip2Tokenizer.from_pretrained(tmp_path / "model")(
        sentences, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        texts = normalize(model.get_text_features(tokens["input_ids"]).pooler_output, dim=-1)
    np.testing.assert_allclose(encoder.embed_texts(sentences), texts, **TOLERANCE)
    assert encoder.calibrated  # by SigLIP's bias


def test_a_saved_model_loads_again_bit_for_bit(vocabularies: Path, tmp_path: Path) -> None:
    write(vocabularies, tmp_path / "model")
    encoder = DualEncoder.from_pretrained(tmp_path / "model", device="cpu")
    encoder.save_pretrained(tmp_path / "saved")
    again = DualEncoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert asdict(again.loaded.preprocessing) == asdict(encoder.loaded.preprocessing)
    np.testing.assert_array_equal(again.embed_images(pictures()), encoder.embed_images(pictures()))
    assert "up to 30 patches of 8 × 8 pixels" in (tmp_path / "saved" / "README.md").read_text("utf-8")


def test_half_precision_places_patches_exactly() -> None:
    marked = torch.from_numpy(mark_patches(np.zeros((600, 3), np.float32), 300, 700))
    assert torch.equal(marked.to(torch.bfloat16).float(), marked)


@pytest.mark.slow
def test_the_compiled_model_gives_the_vectors_of_the_network(
    vocabularies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    small = {"num_hidden_layers": 1}
    write(vocabularies, tmp_path / "model", small, small, {"max_num_patches": 12})
    own = DualEncoder(load_dual_encoder(tmp_path / "model"), "cpu")
    fast = DualEncoder.compile(tmp_path / "model", precision="fast")
    for compiled, bound in ((fast, 0.999), (DualEncoder(fast.loaded), 1 - 1e-6)):
        assert compiled.towers.engine.startswith("OpenVINO")
        assert compiled.fingerprint == own.fingerprint
        assert ((compiled.embed_images(pictures()) * own.embed_images(pictures())).sum(1) > bound).all()
        assert ((compiled.embed_texts(["a dog"]) * own.embed_texts(["a dog"])).sum(1) > bound).all()


def test_what_is_not_covered_says_so(vocabularies: Path, tmp_path: Path) -> None:
    write(vocabularies, tmp_path / "model")
    loaded = load_dual_encoder(tmp_path / "model")
    for target in ("transformers", "open_clip", "onnx"):
        with pytest.raises(ModelError, match=r"NaFlex.*save_pretrained keeps it"):
            export(loaded, target, tmp_path / target)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"NaFlex.*siglip2-base-patch16-224"):
        fixed_preprocessing(loaded)
    with pytest.raises(ModelError, match="NaFlex"):
        load_image_tower(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"vision_config": {"num_patches": 15}}, "square of a positive integer"),
        ("config.json", {"vision_config": {"vision_use_head": False}}, "pooling head"),
        ("preprocessor_config.json", {"do_resize": False}, "not resized"),
        ("preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor"}, "Siglip2ImageProcessor"),
        ("preprocessor_config.json", {"max_num_patches": 0}, "max_num_patches"),
    ],
)
def test_a_broken_config_is_refused(
    vocabularies: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    write(vocabularies, tmp_path)
    config = json.loads((tmp_path / file).read_text("utf-8"))
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / file).write_text(json.dumps(config))
    with pytest.raises((ModelError, InvalidSetting), match=message):
        load_dual_encoder(tmp_path)
