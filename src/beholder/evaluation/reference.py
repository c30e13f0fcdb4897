"""The reference implementation of a checkpoint, if it is installed: transformers or open_clip.

Shapes: B batch, T text tokens, E the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.pictures.naflex import MARKS, NaFlexPreprocessing, mark_patches, spatial_shapes
from beholder.text.cleaning import SIGLIP2
from beholder.weights import formats
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.quiet_transformers import quiet_transformers

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class ReferenceMissingError(Exception):
    """There is no reference implementation; the message says why, and what to install."""


@dataclass(frozen=True)
class Reference:
    """The four functions on which two implementations can disagree.

    A part that the reference implementation could not load raises `ReferenceMissingError` when it is called.

    Attributes:
        name: with its version.
        pixels: a picture to float32 (3, H, W), or to marked patches.
        ids: sentences to a row of ids each, without padding if the network masks it.
        embed_images: pixels (B, 3, H, W), or marked patches, to unit vectors (B, E).
        embed_texts: ids (B, T) and mask (B, T) to unit vectors (B, E).
    """

    name: str
    pixels: Callable[[Image], np.ndarray]
    ids: Callable[[Sequence[str]], list[list[int]]]
    embed_images: Callable[[Tensor], Tensor]
    embed_texts: Callable[[Tensor, Tensor], Tensor]


def find_reference(folder: Path, loaded: LoadedDualEncoder, allow_pickle: bool = True) -> Reference:
    """Return the reference implementation of the model in ``folder``.

    Raises:
        ReferenceMissingError: the format has no other implementation, or that is not installed or cannot be imported.
    """
    match formats.recognize(folder).reference:
        case "transformers":
            return _transformers(folder, loaded, allow_pickle)
        case "open_clip":
            return _open_clip(folder, loaded)
        case _:
            raise ReferenceMissingError("this is Beholder's own format, which nothing else reads")


def _transformers(folder: Path, loaded: LoadedDualEncoder, allow_pickle: bool) -> Reference:
    import torch

    transformers = _import("transformers", "transformers")
    full_length = loaded.tokenizer.settings.padding == "full"
    network = _loader(
        lambda: transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=None if allow_pickle else True
        ).eval()
    )
    processor = _loader(
        lambda: transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    )
    # SigLIP 2's files name Gemma's tokenizer, which keeps the capitals that the network never saw.
    lowered = loaded.tokenizer.settings.cleaning == SIGLIP2
    tokenizer_class = transformers.Siglip2Tokenizer if lowered else transformers.AutoTokenizer
    tokenizer = _loader(lambda: tokenizer_class.from_pretrained(folder, local_files_only=True))

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer()(
            list(texts),
            padding="max_length" if full_length else False,
            truncation=True,
            max_length=loaded.tokenizer.settings.context_length,
        )["input_ids"]

    def embed_texts(ids: Tensor, mask: Tensor) -> Tensor:
        # A network that sees its padding was trained without a mask.
        features = network().get_text_features(ids, attention_mask=None if full_length else mask.long())
        return _unit(features)

    def pixels(picture: Image) -> np.ndarray:
        found = processor()(picture, return_tensors="np")
        if not isinstance(loaded.preprocessing, NaFlexPreprocessing):
            return found["pixel_values"][0]
        rows, columns = found["spatial_shapes"][0].tolist()
        return mark_patches(found["pixel_values"][0][: rows * columns], columns, len(found["pixel_values"][0]))

    def embed_images(pixels: Tensor) -> Tensor:
        if not isinstance(loaded.preprocessing, NaFlexPreprocessing):
            return _unit(network().get_image_features(pixels))
        shapes = torch.from_numpy(spatial_shapes(pixels.numpy()))
        patches, is_patch = pixels[..., :-MARKS], pixels[..., -MARKS].long()
        return _unit(network().get_image_features(patches, is_patch, shapes))

    return Reference(f"transformers {transformers.__version__}", pixels, ids, embed_images, embed_texts)


def _open_clip(folder: Path, loaded: LoadedDualEncoder) -> Reference:
    library = _import("open_clip", "open_clip_torch")
    name = f"local-dir:{folder.absolute()}"
    network = _loader(
        lambda: library.create_model_from_pretrained(
            name, device="cpu", precision="fp32", return_transform=False
        ).eval()
    )
    transform = _loader(lambda: library.create_model_from_pretrained(name, device="cpu", precision="fp32")[1])
    tokenizer = _loader(lambda: library.get_tokenizer(name))

    def ids(texts: Sequence[str]) -> list[list[int]]:
        rows = tokenizer()(list(texts)).tolist()
        if loaded.tokenizer.settings.padding == "full":
            return rows
        return [row[: row.index(loaded.tokenizer.settings.end_id) + 1] for row in rows]

    return Reference(
        f"open_clip {library.__version__}",
        lambda picture: transform()(picture).numpy(),
        ids,
        lambda pixels: network().encode_image(pixels, normalize=True),
        lambda ids, mask: network().encode_text(ids, normalize=True),
    )


def embed_with_sentence_transformers(
    folder: Path, pictures: Sequence[Image], texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors (B, E) of pictures and of sentences that sentence-transformers computes.

    Raises:
        ReferenceMissingError: it is not installed, or could not load the folder.
    """
    library = _import("sentence_transformers", "sentence-transformers")
    network = _loader(lambda: library.SentenceTransformer(str(folder), device="cpu", local_files_only=True))()
    options = {"convert_to_numpy": True, "normalize_embeddings": True, "show_progress_bar": False}
    return network.encode(list(pictures), **options), network.encode(list(texts), **options)


def _import(module: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        if error.name == module:
            raise ReferenceMissingError(f"{module} is not installed: pip install {package}") from error
        raise ReferenceMissingError(f"{module} is installed but cannot be imported ({error})") from error


def _loader(load: Callable[[], Any]) -> Callable[[], Any]:
    """Load on the first call; the checkpoint is not to blame for what another library can't load."""
    from functools import cache

    @cache
    def loaded() -> Any:
        try:
            with quiet_transformers():
                return load()
        except Exception as error:  # whatever the other library raises
            raise ReferenceMissingError(f"the reference implementation could not load this part ({error})") from error

    return loaded


def _unit(features: Any) -> Tensor:
    """Return unit vectors (B, E) from the output of transformers, since version 5 an object that holds them."""
    from torch.nn.functional import normalize

    return normalize(getattr(features, "pooler_output", features), dim=-1)
