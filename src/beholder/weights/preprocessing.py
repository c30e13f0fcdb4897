"""Import and export of the preprocessing of pictures, between other projects' configs and ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beholder.errors import ModelError
from beholder.models.vit import VisionSettings
from beholder.pictures.naflex import NaFlexPreprocessing
from beholder.pictures.transform import Fit, Interpolation, Preprocessing
from beholder.weights.huggingface import read_json

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PREPROCESSOR_CONFIG = "preprocessor_config.json"
HALF = (0.5, 0.5, 0.5)

# Defaults of the image processors of transformers 5.23, without "ImageProcessor"; a config may leave out what equals
# them. A lone number as size means the shorter side where the default size has one, otherwise a square.
_CROPPED = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
_SQUASHED = {"size": {"height": 224, "width": 224}, "do_center_crop": False, "image_mean": HALF, "image_std": HALF}
PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIP": _CROPPED,
    "ChineseCLIP": _CROPPED,
    "Bit": _CROPPED,
    "Blip": {
        **_SQUASHED,
        "size": {"height": 384, "width": 384},
        "resample": 3,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    },
    "EfficientNet": {
        **_SQUASHED,
        "size": {"height": 346, "width": 346},
        "crop_size": {"height": 289, "width": 289},
        "resample": 3,
        "include_top": True,
    },
    "Siglip": {**_SQUASHED, "resample": 3},
    "ViT": {**_SQUASHED, "resample": 2},
}
NAFLEX = {"image_mean": HALF, "image_std": HALF, "resample": 2, "patch_size": 16, "max_num_patches": 256}
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's
# open_clip's modes; its image_transform takes every interpolation but bilinear for bicubic.
OPEN_CLIP_FITS: dict[str, Fit] = {"shortest": "crop", "squash": "squash", "longest": "pad"}


def from_huggingface(folder: Path, processor: str) -> Preprocessing:
    """Read ``processor_config.json`` or ``preprocessor_config.json``.

    Args:
        folder: the checkpoint's.
        processor: the image processor, such as ``"CLIP"``, whose defaults apply if the file names none.

    Raises:
        ModelError: there is no such file, or it describes something that Preprocessing can't do.
    """
    path, named, given = _image_processor(folder, processor)
    if named not in PROCESSORS:
        raise ModelError(f"{path}: the image processor {named} is not known; known are {', '.join(PROCESSORS)}")
    config = {**PROCESSORS[named], **given}
    side = "shortest_edge" if "shortest_edge" in PROCESSORS[named]["size"] else "square"
    size = _size(config["size"], side)
    crop = _size(config["crop_size"], "square") if config["do_center_crop"] else None
    shared = _normalization(path, config)
    if config["do_resize"] and set(size) == {"shortest_edge"} and crop is not None:
        return Preprocessing(crop["height"], crop["width"], "crop", size["shortest_edge"], **shared)
    if config["do_resize"] and set(size) == {"height", "width"} and crop in (None, size):
        return Preprocessing(size["height"], size["width"], "squash", **shared)
    if config["do_resize"] and crop is not None and size.get("height", 0) == size.get("width"):
        return Preprocessing(crop["height"], crop["width"], "squash", size["height"], **shared)
    raise ModelError(
        f"{path}: pictures resized to {size} and cut to {crop} do not all get one size; this is not covered"
    )


def naflex_from_huggingface(folder: Path, processor: str) -> NaFlexPreprocessing:
    """Read the config of the ``Siglip2ImageProcessor`` of a NaFlex checkpoint.

    Args:
        folder: the checkpoint's.
        processor: the image processor if the file names none.

    Raises:
        ModelError: there is no such file, or it is another processor's.
    """
    path, named, given = _image_processor(folder, processor)
    if named != "Siglip2" or not given["do_resize"]:
        resized = "pictures are not resized" if named == "Siglip2" else f"the image processor is {named}"
        raise ModelError(f"{path}: {resized}, and a NaFlex network needs those of Siglip2ImageProcessor")
    config = {**NAFLEX, **given}
    return NaFlexPreprocessing(config["patch_size"], config["max_num_patches"], **_normalization(path, config))


def _image_processor(folder: Path, processor: str) -> tuple[Path, str, dict[str, Any]]:
    """Return the config file of a folder's image processor, the processor's name, and what the file says."""
    path = folder / "processor_config.json"
    config = read_json(path).get("image_processor") if path.is_file() else None
    if config is None:
        path = folder / PREPROCESSOR_CONFIG
        config = read_json(path)
    named = config.get("image_processor_type") or config.get("feature_extractor_type") or processor
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        named = named.removesuffix(suffix)
    return path, named, {"do_resize": True, "do_rescale": True, "do_normalize": True, **config}


def _normalization(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all kinds of preprocessing share.

    EfficientNet's processor may subtract 1 after rescaling, and divide by std once more at the end.
    """
    if config["resample"] not in range(len(INTERPOLATIONS)):
        raise ModelError(f"{path}: resample is {config['resample']}, which is not one of Pillow's filters")
    scale = 255 * config.get("rescale_factor", 1 / 255) if config["do_rescale"] else 255.0
    offset = 1.0 if config["do_rescale"] and config.get("rescale_offset") else 0.0
    mean = config["image_mean"] if config["do_normalize"] else (0.0, 0.0, 0.0)
    std = config["image_std"] if config["do_normalize"] else (1.0, 1.0, 1.0)
    if config.get("include_top"):
        std = [value * again for value, again in zip(std, config["image_std"], strict=True)]
    return {
        "interpolation": INTERPOLATIONS[config["resample"]],
        "mean": tuple((value + offset) / scale for value in mean),
        "std": tuple(value / scale for value in std),
    }


def _size(size: int | Mapping[str, int], lone: str) -> dict[str, int]:
    if isinstance(size, int):
        return {"shortest_edge": size} if lone == "shortest_edge" else {"height": size, "width": size}
    return dict(size)


def from_open_clip(config: Mapping[str, Any], vision: VisionSettings) -> Preprocessing:
    """Read the ``preprocess_cfg`` of an ``open_clip_config.json``; the size is the network's.

    Raises:
        ModelError: it describes something that Preprocessing can't do.
    """
    mode = config.get("resize_mode") or "shortest"
    if mode not in OPEN_CLIP_FITS or config.get("fill_color", 0) != 0:
        raise ModelError(f"open_clip: pictures fitted by {mode} on color {config.get('fill_color', 0)} are not covered")
    square = vision.image_height == vision.image_width
    return Preprocessing(
        vision.image_height,
        vision.image_width,
        OPEN_CLIP_FITS[mode],
        resize=vision.image_height if mode == "shortest" and square else None,
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        centre="round",
        mean=_three(config.get("mean") or CLIP_MEAN),
        std=_three(config.get("std") or CLIP_STD),
    )


def _three(value: float | list[float] | tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = (value,) * 3 if isinstance(value, int | float) else value
    return first, second, third


def to_huggingface(preprocessing: Preprocessing, processor: str) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of a processor such as ``"CLIP"``.

    Raises:
        ModelError: transformers' processors can't prepare pictures this way.
    """
    height, width = preprocessing.height, preprocessing.width
    size: dict[str, Any]
    match preprocessing.fit:
        case "squash" if preprocessing.resize is None:
            size = {"size": {"height": height, "width": width}, "do_center_crop": False}
        case "crop" if preprocessing.resize is not None or height == width:
            size = {"size": {"shortest_edge": preprocessing.resize or height}, "do_center_crop": True}
            size["crop_size"] = {"height": height, "width": width}
        case fit:
            raise ModelError(f"its pictures are fitted by {fit} into {height} x {width}, which its processors can't do")
    return {
        "image_processor_type": f"{processor}ImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
        "resample": INTERPOLATIONS.index(preprocessing.interpolation),
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        **size,
    }


def to_open_clip(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the ``preprocess_cfg`` of an ``open_clip_config.json``."""
    return {
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "resize_mode": {ours: theirs for theirs, ours in OPEN_CLIP_FITS.items()}[preprocessing.fit],
    }
