"""A vision-language model compiled for the processor by OpenVINO: the same texts, faster.

    vision_language.json     metadata, and the settings that the tasks need beside the networks
    tower.xml, bridge.xml    pixels to image tokens, and those to soft prompts
    matching.xml             the bridge's matching head, if it has one
    language.xml             a causal language model (`beholder.runtime.language_network`); weights that come from a
                             quantized file stay quantized (`beholder.runtime.quantization.quantize_grouped`)
    language-groups.xml      all of them in eight bits, for "fast" and "fastest"
    language-int8.xml        one scale per output channel, for "fastest"
    kernels/                 OpenVINO's cache
    embeddings.npy           the language model's token embeddings
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
from beholder.runtime.compiled_model import CompiledFormat, convert
from beholder.runtime.engine import Network, NetworkConfig, compile_network, save_network
from beholder.runtime.quantization import quantize_grouped
from beholder.runtime.samples import sample_pixels
from beholder.text.prompts import Prompts
from beholder.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers
    from torch import Tensor

    from beholder.models.language_model import LanguageModel
    from beholder.runtime.compiled_language import CompiledLanguageModel
    from beholder.runtime.decoding import Language
    from beholder.runtime.vision_front_end import CompiledFrontEnd
    from beholder.weights.loaded import LoadedVisionLanguage

EMBEDDINGS = "embeddings.npy"
LANGUAGE = "language_model"
TOLERANCE = 1e-3  # relative to the spread of the numbers: the effect of another order of additions
IMAGES = 4
STEPS = 6  # tokens decoded after each image


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
        from beholder.runtime.compiled_language import CompiledLanguageModel

        def original() -> LanguageModel:
            if self.loaded.language is None:
                raise ModelError(f"{self.source}: the language model is no longer there")
            return self.loaded.language

        network = compile_network(self.folder, config, KV_CACHE_PRECISION=config.precision)
        embeddings = np.load(self.folder / EMBEDDINGS, mmap_mode="r")
        return CompiledLanguageModel(network, embeddings, self.eos_token_ids, self.context_length, original)


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
    if _has_decoder(loaded):
        _convert_language_model(loaded, folder)


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
    _check_close("image tokens", found.tokens(pixels), tokens)
    if loaded.bridge_matches:
        texts = loaded.tokenizer(["a photo of a dog", "nobody is there"])  # type: ignore[misc]
        probabilities = [front_end.match(tokens[:1], texts.ids, texts.mask) for front_end in (found, expected)]
        if not np.abs(probabilities[0] - probabilities[1]).max() <= TOLERANCE:
            raise ModelError("the compiled matching head gives other probabilities")
    if loaded.language is None:
        return
    prompts = expected.prompts(tokens)
    _check_close("soft prompts", found.prompts(tokens), prompts)
    if compiled.decoder:
        language = compiled.language_model(NetworkConfig("language.xml"))
        logits, ids = teacher_forced_logits(loaded.language, prompts)
        _check_close("language model's logits", teacher_forced_logits(language, prompts, ids)[0], logits)


def teacher_forced_logits(language: Language, prompts: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Decode a few tokens after each soft prompt (B, P, D), and return the logits.

    Args:
        language: the language model.
        prompts: of B images.
        ids: tokens (STEPS, B) to read; by default, the most probable ones.

    Returns:
        Logits (STEPS, B, V) minus their mean, and the tokens.
    """
    import torch

    found, read = [], []
    with torch.inference_mode():
        logits, kv_cache = language.prefill(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool))
        for step in range(STEPS):
            found.append(logits - logits.mean(-1, keepdim=True))
            read.append(logits.argmax(-1) if ids is None else ids[step])
            following = read[-1]
            if step == STEPS // 2:  # reorder the rows, as beam search does
                kv_cache.select(torch.arange(len(prompts)).flip(0))
                following = following.flip(0)
            logits = language.decode(following[:, None], kv_cache)
    return torch.stack(found), torch.stack(read)


def _check_close(what: str, found: Tensor, expected: Tensor) -> None:
    difference, spread = float((found - expected).abs().max()), float(expected.std())
    if not difference <= TOLERANCE * spread:
        raise ModelError(f"the compiled {what} are off by {difference:.1e}, with a standard deviation of {spread:.1e}")


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


def _convert_language_model(loaded: LoadedVisionLanguage, folder: Path) -> None:
    import torch

    from beholder.models.language_model import CausalLanguageModel
    from beholder.runtime.language_network import language_network

    language = loaded.language
    if not isinstance(language, CausalLanguageModel):
        raise TypeError("only causal language models can be compiled")
    network = quantize_grouped(language_network(language), lossless=True)
    save_network(network, folder / "language.xml")
    with torch.inference_mode():
        count = language.module.get_input_embeddings().weight.shape[0]
        embeddings = language.embed(torch.arange(count)).numpy()
    half = embeddings.astype(np.float16)
    np.save(folder / EMBEDDINGS, half if np.array_equal(half.astype(np.float32), embeddings) else embeddings)


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
