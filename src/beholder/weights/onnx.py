"""A dual encoder as two ONNX graphs, to be run without Beholder and without PyTorch.

    image.onnx        pixels (B, 3, H, W) float32 → vectors (B, E), unit length
    text.onnx         ids (B, T) int64, mask (B, T) bool → vectors (B, E), unit length
    tokenizer.json    as the library ``tokenizers`` reads it
    export.json       how pictures and sentences are prepared, and what turns a cosine into a logit
    README.md         how to use them

B is free; so is T up to the context length, unless the network sees its padding and wants it in full.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beholder.errors import MissingExtra
from beholder.models.dual_encoder import TwoTowers
from beholder.weights.card import model_card
from beholder.weights.exporting import fixed_preprocessing
from beholder.weights.loaded import LoadedDualEncoder

IMAGE, TEXT, SETTINGS = "image.onnx", "text.onnx", "export.json"

EXAMPLE = """
## Run it with ONNX Runtime

```python
import json
import numpy as np, onnxruntime, tokenizers
from PIL import Image

settings = json.load(open("export.json"))
pixels = settings["preprocessing"]       # "fit": squash is shown here; crop keeps the proportions and cuts the middle,
                                         # as squash does from a square with the side "resize", if that is given
filter = Image.Resampling[pixels["interpolation"].upper()]
picture = Image.open("photo.jpg").convert("RGB").resize((pixels["width"], pixels["height"]), filter)
values = (np.asarray(picture, np.float32) / 255 - np.float32(pixels["mean"])) / np.float32(pixels["std"])
image, = onnxruntime.InferenceSession("image.onnx").run(None, {"pixels": values.transpose(2, 0, 1)[None]})

marks = settings["tokenizer"]            # the marks around a sentence; "padding": "full" means up to context_length
ids = tokenizers.Tokenizer.from_file("tokenizer.json").encode("a dog", add_special_tokens=False).ids
ids = [*([] if marks["start_id"] is None else [marks["start_id"]]), *ids, marks["end_id"]]
there = len(ids)
ids += [marks["pad_id"]] * (marks["context_length"] - there if marks["padding"] == "full" else 0)
mask = np.arange(len(ids))[None] < there
text, = onnxruntime.InferenceSession("text.onnx").run(None, {"ids": np.int64([ids]), "mask": mask})

print((image @ text.T).item())           # the cosine
```
"""


class ImageTower(nn.Module):
    """Pixels to embeddings."""

    def __init__(self, network: TwoTowers):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, E)."""
        return self.network.embed_image(pixels)


class TextTower(nn.Module):
    """Tokens to embeddings. The mask is an input even of networks that ignore it, so that all are called alike."""

    def __init__(self, network: TwoTowers):
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and (B, T) → (B, E)."""
        return self.network.embed_text(ids, mask)


def write_onnx(loaded: LoadedDualEncoder, folder: Path) -> None:
    """Write both towers into a folder, with what is needed to call them.

    Raises:
        ModelError: the pictures of the model keep their own shape.
        MissingExtra: onnx or onnxscript is not installed.
    """
    pixels = fixed_preprocessing(loaded)
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it, and says so less clearly)
    except ImportError as error:
        raise MissingExtra("writing ONNX", "onnx") from error
    network, marks = loaded.network.cpu().eval(), loaded.tokenizer.settings
    batch = torch.export.Dim("batch")
    picture = torch.zeros(2, 3, pixels.height, pixels.width)
    _export(ImageTower(network), {"pixels": picture}, {"pixels": {0: batch}}, folder / IMAGE)
    full = marks.padding == "full"
    length = marks.context_length if full else min(7, marks.context_length)
    ids = torch.full((2, length), marks.end_id)
    free = {0: batch} if full else {0: batch, 1: torch.export.Dim("tokens", min=2, max=marks.context_length)}
    inputs = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}
    _export(TextTower(network), inputs, {"ids": free, "mask": free}, folder / TEXT)
    for name in (IMAGE, TEXT):
        onnx.checker.check_model(str(folder / name))
    loaded.tokenizer.save(folder)
    settings = {
        "name": loaded.name,
        "licence": loaded.licence,
        "embedding": network.settings.embedding,
        "preprocessing": asdict(pixels),
        "tokenizer": asdict(marks),
        "logit_scale": float(network.logit_scale.detach().exp()),
        "logit_bias": None if network.logit_bias is None else float(network.logit_bias.detach()),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    card = model_card(loaded)
    (folder / "README.md").write_text(card[: card.index("```python")] + EXAMPLE.strip() + "\n", "utf-8")


def _export(tower: nn.Module, inputs: dict[str, Tensor], free: dict[str, Any], file: Path) -> None:
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            tower,
            (),
            str(file),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["vectors"],  # "embedding" is what the exporter calls a node of its own
            dynamic_shapes=free,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's logs and warnings about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
