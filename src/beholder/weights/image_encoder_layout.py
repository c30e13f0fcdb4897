"""Image encoders of transformers: the layout of a checkpoint, and what ViT and DINOv2 have in common."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.models.vit import VisionSettings, VisionTransformer
from beholder.weights import huggingface, preprocessing
from beholder.weights.loaded import LoadedImageEncoder
from beholder.weights.table import Row, build_empty, load_foreign
from beholder.weights.tensors import read_tensors

# Defaults of both families' configs.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "hidden_act": "gelu",
    "qkv_bias": True,
}


@dataclass(frozen=True)
class ImageEncoderLayout:
    """How one image encoder of transformers is laid out.

    Attributes:
        settings: reads a config; of the tensors' names, it may take what a config does not say.
        prefix: returns the prefix of the backbone's names, which depends on whether there is a classifier.
        rows: returns the rows of the table of names in which the families differ, given that prefix and the config.
        ignored: patterns of its tensors that are not needed, without the prefix.
        processor: the name of its image processor, without "ImageProcessor".
    """

    settings: Callable[[Mapping[str, Any], Collection[str]], VisionSettings]
    prefix: Callable[[Mapping[str, Any]], str]
    rows: Callable[[str, Mapping[str, Any]], tuple[Row, ...]]
    ignored: tuple[str, ...]
    processor: str


def shared_rows(prefix: str) -> tuple[Row, ...]:
    """Return the rows of the table of names that ViT and DINOv2 share."""
    attention = f"{prefix}encoder.layer.*.attention"
    return (
        Row("class_token", f"{prefix}embeddings.cls_token"),
        Row("patches.*", f"{prefix}embeddings.patch_embeddings.projection.*"),
        Row("positions", f"{prefix}embeddings.position_embeddings"),
        Row("blocks.*.attention.qkv.*", tuple(f"{attention}.attention.{part}.*" for part in ("query", "key", "value"))),
        Row("blocks.*.attention.out.*", f"{attention}.output.dense.*"),
        Row("final_norm.*", f"{prefix}layernorm.*"),
        Row("classifier.*", "classifier.*"),
    )


def load_image_encoder(
    layout: ImageEncoderLayout, folder: Path, name: str, allow_pickle: bool = True
) -> LoadedImageEncoder:
    """Load a folder.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    config = huggingface.read_json(folder / huggingface.CONFIG)
    tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
    prefix = layout.prefix(config)
    network = load_foreign(
        build_empty(VisionTransformer, layout.settings(config, tensors)),
        tensors,
        (*shared_rows(prefix), *layout.rows(prefix, config)),
        [prefix + pattern for pattern in layout.ignored],
    )
    labels = huggingface.labels(config) if network.settings.classes else ()
    return LoadedImageEncoder(network, preprocessing.from_huggingface(folder, layout.processor), labels, name)
