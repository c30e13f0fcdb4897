"""A vision-language model compiled for the processor by OpenVINO: the same texts, faster.

    vision_language.json     metadata, and the settings that the tasks need beside the networks
    tower.xml, bridge.xml    pixels to image tokens, and those to soft prompts
    matching.xml             the bridge's matching head, if it has one
    language.xml             the language model, with embeddings.npy (`beholder.runtime.compiled_decoder`)
    language-groups.xml      all of them in eight bits, for "fast" and "fastest"
    language-int8.xml        one scale per output channel, for "fastest"
    kernels/                 OpenVINO's cache
    language_model/          its tokenizer
    tokenizer.json           of the bridge's own text
    front-end-fast.json, …   the configuration chosen for a precision (`beholder.runtime.execution_plan`)

An encoder-decoder language model stays in torch; its image tower and bridge are compiled.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.pictures.transform import Preprocessing
from beholder.runtime.compiled_decoder import (
    NETWORK,
    TOLERANCE,
    check_close,
    read_language_model,
    verify_language_model,
    write_language_model,
)
from beholder.runtime.compiled_model import CompiledFormat, convert
from beholder.runtime.engine import Network, NetworkConfig, compile_network
from beholder.runtime.samples import sample_pixels
from beholder.text.prompts import Prompts
from beholder.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers
    from torch import Tensor

    from beholder.models.language_model import LanguageModel
    from beholder.runtime.compiled_language import CompiledLanguageModel
    from beholder.runtime.vision_front_end import CompiledFrontEnd
    from beholder.weights.loaded import LoadedVisionLanguage

LANGUAGE = "language_model"
IMAGES = 4


@dataclass(frozen=True)
class CompiledVisionLanguageModel:
    """The contents of a compiled folder; the networks in torch are loaded only on demand.

    Attributes:
        source: name or path that the model was compiled from.
        language_tokenizer: of the language model.
        tokenizer: of the bridge's own text, if it reads any.
        soft_prompts: number of soft prompts of an image.
        matching: whether the bridge can score how well a text matches an image.
        reranker, num_candidates: as in `beholder.weights.loaded.LoadedVisionLanguage`.
        decoder: whether the language model was compiled, too.
        eos_token_ids, context_length: of the language model.
        processor: that it was compiled for.
    """

    folder: Path
    source: str
    name: str
    licence: str
    preprocessing: Preprocessing
    prompts: Prompts
    language_tokenizer: tokenizers.Tokenizer | None
    tokenizer: Tokenizer | None
    soft_prompts: int
    matching: bool
    reranker: str
    num_candidates: int
    decoder: bool
    eos_token_ids: tuple[int, ...]
    context_length: int
    processor: str

    @cached_property
    def loaded(self) -> LoadedVisionLanguage:
        """The model that this was compiled from."""
        from beholder.weights.load import load_vision_language

        return load_vision_language(self.source)

    def front_end(self, tower: NetworkConfig, bridge: NetworkConfig) -> CompiledFrontEnd:
        """Return the image tower and the bridge in these configurations."""
        from beholder.runtime.vision_front_end import CompiledFrontEnd

        return CompiledFrontEnd(lambda config: Network(compile_network(self.folder, config)), tower, bridge)

    def language_model(self, config: NetworkConfig) -> CompiledLanguageModel:
        """Return the compiled language model in this configuration."""

        def original() -> LanguageModel:
            if self.loaded.language is None:
                raise ModelError(f"{self.source}: the language model is no longer there")
            return self.loaded.language

        return read_language_model(self.folder, config, self.eos_token_ids, self.context_length, original)


def _read(folder: Path, metadata: dict[str, Any]) -> CompiledVisionLanguageModel:
    language_tokenizer = None
    if (folder / LANGUAGE).is_dir():
        import tokenizers

        language_tokenizer = tokenizers.Tokenizer.from_file(str(folder / LANGUAGE / "tokenizer.json"))
        language_tokenizer.encode_special_tokens = True
    settings = metadata.pop("tokenizer")
    return CompiledVisionLanguageModel(
        folder=folder,
        preprocessing=Preprocessing(**metadata.pop("preprocessing")),
        prompts=Prompts(**metadata.pop("prompts")),
        language_tokenizer=language_tokenizer,
        tokenizer=Tokenizer.load(folder, settings) if settings else None,
        eos_token_ids=tuple(metadata.pop("eos_token_ids")),
        **metadata,
    )


def _metadata(loaded: LoadedVisionLanguage) -> dict[str, Any]:
    language = loaded.language
    return {
        "name": loaded.name,
        "licence": loaded.licence,
        "preprocessing": asdict(loaded.preprocessing),
        "prompts": asdict(loaded.prompts),
        "tokenizer": asdict(loaded.tokenizer.settings) if loaded.tokenizer else None,
        "soft_prompts": loaded.soft_prompts,
        "matching": loaded.matching,
        "reranker": loaded.reranker,
        "num_candidates": loaded.num_candidates,
        "decoder": _has_decoder(loaded),
        "eos_token_ids": list(language.eos_token_ids) if language else [],
        "context_length": language.context_length if language else 0,
    }


def _has_decoder(loaded: LoadedVisionLanguage) -> bool:
    return loaded.language is not None and not loaded.language.encoder_decoder


def _write(loaded: LoadedVisionLanguage, folder: Path) -> None:
    if loaded.tokenizer is not None:
        loaded.tokenizer.save(folder)
    if loaded.language_tokenizer is not None:
        (folder / LANGUAGE).mkdir()
        loaded.language_tokenizer.save(str(folder / LANGUAGE / "tokenizer.json"))


def _convert(loaded: LoadedVisionLanguage, folder: Path) -> None:
    _convert_front_end(loaded, folder)
    if loaded.language is not None and _has_decoder(loaded):
        write_language_model(loaded.language, folder)


def _mini_folder() -> Path:
    from beholder.weights import mini_bridge  # imports torch

    return mini_bridge.model_folder()


def _verify(compiled: CompiledVisionLanguageModel, loaded: LoadedVisionLanguage) -> None:
    """Compare image tokens, soft prompts, matching and logits with those of the networks in torch.

    Raises:
        ModelError: a difference is larger than another order of additions explains.
    """
    import torch

    from beholder.runtime.vision_front_end import TorchFrontEnd

    expected = TorchFrontEnd(loaded.image, loaded.bridge, torch.device("cpu"))
    found = compiled.front_end(NetworkConfig("tower.xml"), NetworkConfig("bridge.xml"))
    pixels = sample_pixels(compiled.preprocessing, IMAGES)
    tokens = expected.tokens(pixels)
    check_close("image tokens", found.tokens(pixels), tokens)
    if loaded.bridge_matches:
        texts = loaded.tokenizer(["a photo of a dog", "nobody is there"])  # type: ignore[misc]
        probabilities = [front_end.match(tokens[:1], texts.ids, texts.mask) for front_end in (found, expected)]
        if not np.abs(probabilities[0] - probabilities[1]).max() <= TOLERANCE:
            raise ModelError("the compiled matching head gives other probabilities")
    if loaded.language is None:
        return
    prompts = expected.prompts(tokens)
    check_close("soft prompts", found.prompts(tokens), prompts)
    if compiled.decoder:
        verify_language_model(compiled.language_model(NetworkConfig(NETWORK)), loaded.language, prompts)


def _convert_front_end(loaded: LoadedVisionLanguage, folder: Path) -> None:
    import torch
    from torch import nn

    from beholder.models.bridge import image_tokens

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.bridge = loaded.image, loaded.bridge

    class Tower(Part):
        def forward(self, pixels: Tensor) -> Tensor:
            return image_tokens(self.tower, pixels)

    class Prompts(Part):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.bridge.soft_prompts(tokens)

    class Matching(Part):
        def forward(self, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
            return self.bridge.match(tokens.expand(ids.shape[0], -1, -1), ids, mask).softmax(-1)[:, 1]

    preprocessing = loaded.preprocessing
    pixels = torch.randn(2, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        tokens = image_tokens(loaded.image, pixels)
    shape = [-1, *tokens.shape[1:]]
    convert(Tower(), [pixels], [[-1, *pixels.shape[1:]]], folder / "tower.xml")
    if loaded.language is not None:
        convert(Prompts(), [tokens], [shape], folder / "bridge.xml")
    if loaded.bridge_matches:
        texts = torch.ones(2, 5, dtype=torch.long)
        inputs = [tokens[:1], texts, texts.bool()]
        convert(Matching(), inputs, [[1, *tokens.shape[1:]], [-1, -1], [-1, -1]], folder / "matching.xml")


COMPILED_VISION_LANGUAGE = CompiledFormat(
    "vision_language.json",
    6,
    _mini_folder,
    _read,
    _metadata,
    _write,
    _convert,
    _verify,
    packages=("transformers",),
    prefix="vision-language-",
    older_files=("writer.json",),
)
