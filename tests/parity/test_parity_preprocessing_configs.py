"""Preprocessing read from a config gives the pixels of the processor that wrote the config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_clip import pictures

from beholder.errors import ModelError
from beholder.models.vit import VisionSettings
from beholder.pictures.transform import to_pixels
from beholder.weights.preprocessing import PROCESSORS, from_huggingface, from_open_clip

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("CLIP", {}),
        ("CLIP", {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 40}, "resample": 2}),
        ("CLIP", {"size": {"height": 48, "width": 32}, "do_center_crop": False}),
        ("CLIP", {"size": {"height": 50, "width": 50}, "crop_size": {"height": 40, "width": 41}}),
        ("EfficientNet", {}),
        (  # ALIGN's
            "EfficientNet",
            {"do_center_crop": True, "do_normalize": False, "include_top": False, "resample": 2}
            | {
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "size": {"height": 61, "width": 61},
                "crop_size": 48,
            },
        ),
        ("EfficientNet", {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": 48}),
        ("ChineseCLIP", {"size": {"height": 48, "width": 48}, "do_center_crop": False}),
        (
            "Bit",
            {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}, "image_mean": [0.4, 0.5, 0.6]},
        ),
        ("Siglip", {}),
        ("Siglip", {"size": {"height": 40, "width": 56}, "do_normalize": False}),
        ("ViT", {}),
        ("ViT", {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [50.0, 60.0, 70.0]}),
        ("ViT", {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]}),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore::beholder.pictures.transform.ExtremeShapeWarning")
def test_pixels_equal_those_of_the_processor(tmp_path: Path, kind: str, changes: dict[str, Any], nested: bool) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**changes)
    processor.save_pretrained(tmp_path)
    if nested:  # as written by the processors of multimodal models
        config = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (tmp_path / "preprocessor_config.json").unlink()
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    preprocessing = from_huggingface(tmp_path, "none of them")
    for picture in pictures():
        expected = np.asarray(processor(picture)["pixel_values"][0])
        np.testing.assert_allclose(to_pixels(picture, preprocessing), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_an_empty_config_means_the_defaults_of_its_processor(tmp_path: Path, kind: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    processor = getattr(transformers, f"{kind}ImageProcessorPil")()
    expected = np.asarray(processor(pictures()[0])["pixel_values"][0])
    pixels = to_pixels(pictures()[0], from_huggingface(tmp_path, kind))
    np.testing.assert_allclose(pixels, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["CLIP", "ViT"])
def test_scalar_sizes_of_old_configs_are_read_like_in_transformers(tmp_path: Path, kind: str) -> None:
    config = {"feature_extractor_type": f"{kind}FeatureExtractor", "size": 56, "do_resize": True, "resample": 3}
    if kind == "CLIP":
        config |= {"crop_size": 48, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(tmp_path)
    expected = np.asarray(processor(pictures()[0])["pixel_values"][0])
    pixels = to_pixels(pictures()[0], from_huggingface(tmp_path, "none of them"))
    np.testing.assert_allclose(pixels, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_center_crop": False}, "one size"),
        ({"do_resize": False}, "one size"),
        ({"size": {"longest_edge": 224}}, "one size"),
        ({"size": {"height": 50, "width": 60}, "crop_size": 40}, "one size"),
        ({"resample": 9}, "not one of Pillow.s filters"),
        ({"image_processor_type": "BridgeTowerImageProcessor"}, "BridgeTower is not known"),
    ],
)
def test_unsupported_preprocessing_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        from_huggingface(tmp_path, "CLIP")


def test_a_folder_without_a_preprocessing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"preprocessor_config\.json: this file is needed"):
        from_huggingface(tmp_path, "CLIP")


def test_open_clip_settings_are_converted() -> None:
    square, oblong = VisionSettings(), VisionSettings(image_height=224, image_width=288)
    read = from_open_clip({}, square)
    assert (read.fit, read.resize, read.interpolation, read.centre) == ("crop", 224, "bicubic", "round")
    assert read.mean == (0.48145466, 0.4578275, 0.40821073)
    read = from_open_clip({"resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5, "std": [1, 2, 3]}, oblong)
    assert (read.fit, read.height, read.width, read.interpolation) == ("squash", 224, 288, "bilinear")
    assert (read.mean, read.std) == ((0.5, 0.5, 0.5), (1.0, 2.0, 3.0))
    assert from_open_clip({"resize_mode": "longest"}, square).fit == "pad"
    assert from_open_clip({"resize_mode": "shortest"}, oblong).resize is None
    for refused in ({"fill_color": 127, "resize_mode": "longest"}, {"resize_mode": "random"}):
        with pytest.raises(ModelError, match="not covered"):
            from_open_clip(refused, square)
