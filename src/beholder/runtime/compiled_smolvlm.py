"""A SmolVLM compiled for the processor by OpenVINO: the same texts, faster.

smolvlm.json             metadata, and the settings of its processor
tokenizer.json           of the processor
tower.xml, bridge.xml    pixels of tiles to image tokens, and those to soft prompts
language.xml, …          the language model (`beholder.runtime.compiled_decoder`), and its rounded forms
kernels/                 OpenVINO's cache
front-end-fast.json, …   the configuration chosen for a precision (`beholder.runtime.execution_plan`)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from beholder.errors import ModelError
from beholder.pictures.transform import Preprocessing
from beholder.runtime.compiled_decoder import (
    NETWORK,
    check_close,
    read_language_model,
    verify_language_model,
    write_language_model,
)
from beholder.runtime.compiled_model import CompiledFormat, convert
from beholder.runtime.engine import Network, NetworkConfig, compile_network
from beholder.runtime.samples import sample_pixels
from beholder.weights.smolvlm import MODEL_TYPE, LoadedSmolVLM, load
from beholder.weights.smolvlm_processor import SmolVLMProcessor

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.runtime.compiled_language import CompiledLanguageModel
    from beholder.runtime.vision_front_end import CompiledFrontEnd

TILES = 4  # that are compared


@dataclass(frozen=True)
class CompiledSmolVLM:
    """The contents of a compiled folder; the networks in torch are loaded only on demand.

    Attributes:
        source: path that the model was compiled from.
        processor, suppress_tokens, name: as in `LoadedSmolVLM`.
        eos_token_ids, context_length: of the language model.
    """

    folder: Path
    source: str
    name: str
    processor: SmolVLMProcessor
    suppress_tokens: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    context_length: int
    model_type: ClassVar[str] = MODEL_TYPE
    decoder: ClassVar[bool] = True

    @cached_property
    def loaded(self) -> LoadedSmolVLM:
        """The model that this was compiled from."""
        return load(Path(self.source), self.name)

    @property
    def preprocessing(self) -> Preprocessing:
        """Of a picture that is a single tile."""
        tiling = self.processor.tiling
        size = tiling.tile_size
        return Preprocessing(size, size, "squash", interpolation=tiling.interpolation, mean=tiling.mean, std=tiling.std)

    def front_end(self, tower: NetworkConfig, bridge: NetworkConfig) -> CompiledFrontEnd:
        """Return the image tower and the connector in these configurations."""
        from beholder.runtime.vision_front_end import CompiledFrontEnd

        return CompiledFrontEnd(lambda config: Network(compile_network(self.folder, config)), tower, bridge)

    def language_model(self, config: NetworkConfig) -> CompiledLanguageModel:
        """Return the compiled language model in this configuration."""
        return read_language_model(
            self.folder, config, self.eos_token_ids, self.context_length, lambda: self.loaded.language
        )


def _no_mini() -> Path:
    raise ModelError("mini is no SmolVLM")


def _read(folder: Path, metadata: dict[str, Any]) -> CompiledSmolVLM:
    return CompiledSmolVLM(
        folder,
        metadata["source"],
        metadata["name"],
        SmolVLMProcessor.restore(folder, metadata["smolvlm_processor"]),
        tuple(metadata["suppress_tokens"]),
        tuple(metadata["eos_token_ids"]),
        metadata["context_length"],
    )


def _metadata(loaded: LoadedSmolVLM) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "smolvlm_processor": loaded.processor.settings(),
        "suppress_tokens": list(loaded.suppress_tokens),
        "eos_token_ids": list(loaded.language.eos_token_ids),
        "context_length": loaded.language.context_length,
    }


def _write(loaded: LoadedSmolVLM, folder: Path) -> None:
    loaded.processor.save_tokenizer(folder)


def _convert(loaded: LoadedSmolVLM, folder: Path) -> None:
    import torch
    from torch import nn

    from beholder.models.bridge import image_tokens

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = loaded.image

        def forward(self, pixels: Tensor) -> Tensor:
            return image_tokens(self.tower, pixels)

    class Prompts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connector = loaded.connector

        def forward(self, tokens: Tensor) -> Tensor:
            return self.connector.soft_prompts(tokens)

    size = loaded.processor.tiling.tile_size
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        tokens = image_tokens(loaded.image, pixels)
    convert(Tower(), [pixels], [[-1, *pixels.shape[1:]]], folder / "tower.xml")
    convert(Prompts(), [tokens], [[-1, *tokens.shape[1:]]], folder / "bridge.xml")
    write_language_model(loaded.language, folder)


def _verify(compiled: CompiledSmolVLM, loaded: LoadedSmolVLM) -> None:
    """Compare image tokens, soft prompts and logits with those of the networks in torch.

    Raises:
        ModelError: a difference is larger than another order of additions explains.
    """
    import torch

    from beholder.runtime.vision_front_end import TorchFrontEnd

    expected = TorchFrontEnd(loaded.image, loaded.connector, torch.device("cpu"))
    found = compiled.front_end(NetworkConfig("tower.xml"), NetworkConfig("bridge.xml"))
    pixels = sample_pixels(compiled.preprocessing, TILES)
    tokens = expected.tokens(pixels)
    check_close("image tokens", found.tokens(pixels), tokens)
    prompts = expected.prompts(tokens)
    check_close("soft prompts", found.prompts(tokens), prompts)
    verify_language_model(compiled.language_model(NetworkConfig(NETWORK)), loaded.language, prompts)


COMPILED_SMOLVLM = CompiledFormat(
    "smolvlm.json",
    1,
    _no_mini,
    _read,
    _metadata,
    _write,
    _convert,
    _verify,
    packages=("transformers",),
    prefix="smolvlm-",
)
