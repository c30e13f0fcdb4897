"""A vision-language model compiled for the processor by OpenVINO and kept on disk: the same words, sooner.

    writer.json              what was compiled, and what the tasks need beside the networks
    tower.xml, bridge.xml    pixels to picture tokens, and those to soft prompts
    matching.xml             where the bridge's matching head judges
    language.xml             the language model, where it is a causal one (`beholder.runtime.language_network`); weights
                             that came out of a file of few bits are kept in few (`quantization.quantize_grouped`)
    language-groups.xml      all of them in eight bits, once "fast" or "fastest" was asked for
    language-int8.xml        one scale for each output, once "fastest" was asked for
    kernels/                 what the processor runs, kept for the next time
    words.npy                the vectors of the language model's words
    language_model/          its tokenizer
    tokenizer.json           of the bridge's own text
    precisions.json          how each precision is computed, measured when it was first asked for

An encoder-decoder model stays in torch; its picture tower and bridge are compiled.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import ModelError
from beholder.files import atomic_folder
from beholder.pictures.transform import Preprocessing
from beholder.runtime import engine
from beholder.runtime.compiled_folder import (
    found_at,
    place_of,
    place_to_compile,
    remove_older,
    source_of,
    write_network,
)
from beholder.runtime.device import processor_name
from beholder.runtime.engine import Stage, save
from beholder.runtime.quantization import quantize_grouped
from beholder.text.prompts import Prompts
from beholder.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

    from beholder.weights.loaded import LoadedVisionLanguage

FILE = "writer.json"
BUILD = 6  # raised when the folder is made in another way
WORDS = "words.npy"
LANGUAGE = "language_model"
CHECKED = 3  # pictures


@dataclass(frozen=True)
class CompiledVisionLanguageModel:
    """What a compiled folder holds; the networks in torch are loaded only where somebody asks for them.

    Attributes:
        source: the name that the model was compiled under.
        words: the language model's tokenizer.
        tokenizer: of the bridge's own text, where it reads any.
        soft_prompts: how many a picture has.
        matching: whether it can say how well a text fits a picture.
        reranker, num_candidates: as in `beholder.weights.loaded.LoadedVisionLanguage`.
        decoder: whether the language model was compiled, too.
        ends, context_length: of the language model.
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
        """What this was compiled from."""
        from beholder.weights.load import load_vision_language

        return load_vision_language(self.source)

    def read(self, stage: Stage) -> Any:
        """One of the networks, ready to run."""
        if stage.file.startswith("language"):
            return engine.compiled(self.folder, stage, KV_CACHE_PRECISION=stage.arithmetic)
        return engine.compiled(self.folder, stage)


def find_compiled_vision_language(name: str | Path) -> CompiledVisionLanguageModel | None:
    """What was compiled of ``"mini"`` or of a folder, if it was and the model has not changed since.

    Args:
        name: other names than ``"mini"`` and folders are never found.
    """
    folder = place(name)
    held = found_at(folder, FILE)
    if folder is None or held is None:
        return None
    language_tokenizer = None
    if (folder / LANGUAGE).is_dir():
        import tokenizers

        language_tokenizer = tokenizers.Tokenizer.from_file(str(folder / LANGUAGE / "tokenizer.json"))
        language_tokenizer.encode_special_tokens = True
    settings = held.pop("tokenizer")
    return CompiledVisionLanguageModel(
        folder=folder,
        preprocessing=Preprocessing(**held.pop("preprocessing")),
        prompts=Prompts(**held.pop("prompts")),
        language_tokenizer=language_tokenizer,
        tokenizer=Tokenizer.load(folder, settings) if settings else None,
        eos_token_ids=tuple(held.pop("eos_token_ids")),
        **held,
    )


def place(name: str | Path) -> Path | None:
    """Where a compiled vision-language model lies, or would lie."""
    from beholder.weights import mini_bridge

    return place_of(name, mini_bridge.model_folder, BUILD, ["transformers"], "writer-")


def compile_vision_language(loaded: LoadedVisionLanguage, name: str | Path) -> CompiledVisionLanguageModel:
    """Compile what was loaded under a name, check it against the networks, and keep it.

    `find_compiled_vision_language` then finds it.

    Args:
        loaded: on the CPU, in single precision.
        name: ``"mini"`` or a folder.

    Raises:
        ModelError: the name is neither, OpenVINO is not installed, a network can't be compiled, or the compiled one
            gives something else.
    """
    from beholder.runtime.checked_writer import check

    folder = place_to_compile(name, place)
    language = loaded.language
    decoder = language is not None and not language.encoder_decoder
    held = {
        "source": source_of(name),
        "name": loaded.name,
        "licence": loaded.licence,
        "preprocessing": asdict(loaded.preprocessing),
        "prompts": asdict(loaded.prompts),
        "tokenizer": asdict(loaded.tokenizer.settings) if loaded.tokenizer else None,
        "soft_prompts": loaded.soft_prompts,
        "matching": loaded.matching,
        "reranker": loaded.reranker,
        "num_candidates": loaded.num_candidates,
        "decoder": decoder,
        "eos_token_ids": list(language.eos_token_ids) if language else [],
        "context_length": language.context_length if language else 0,
        "processor": processor_name(),
    }
    with atomic_folder(folder, replace=False) as whole:
        (whole / FILE).write_text(json.dumps(held), "utf-8")
        if loaded.tokenizer is not None:
            loaded.tokenizer.save(whole)
        if loaded.language_tokenizer is not None:
            (whole / LANGUAGE).mkdir()
            loaded.language_tokenizer.save(str(whole / LANGUAGE / "tokenizer.json"))
        try:
            _write_front_end(loaded, whole)
            if decoder:
                _write_language(loaded, whole)
        except Exception as error:  # OpenVINO's converter raises what it likes
            raise ModelError(f"{name}: OpenVINO can't compile this model ({error})") from error
    compiled = find_compiled_vision_language(name)
    if compiled is None:
        raise ModelError(f"{name}: its files changed while it was compiled; compile it again")
    try:
        check(compiled, loaded)
    except ModelError as error:
        shutil.rmtree(folder)
        raise ModelError(f"{name}: {error}; it is not used") from None
    remove_older(folder, FILE, compiled.source, compiled.processor)
    return compiled


def _write_front_end(loaded: LoadedVisionLanguage, folder: Path) -> None:
    import torch
    from torch import Tensor, nn

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

    made = loaded.preprocessing
    pixels = torch.randn(2, 3, made.height, made.width)
    with torch.inference_mode():
        tokens = image_tokens(loaded.image, pixels)
    picture = [-1, *tokens.shape[1:]]
    write_network(Tower(), [pixels], [[-1, *pixels.shape[1:]]], folder / "tower.xml")
    if loaded.language is not None:
        write_network(Prompts(), [tokens], [picture], folder / "bridge.xml")
    if loaded.bridge_matches:
        texts = torch.ones(2, 5, dtype=torch.long)
        inputs = [tokens[:1], texts, texts.bool()]
        write_network(Matching(), inputs, [[1, *tokens.shape[1:]], [-1, -1], [-1, -1]], folder / "matching.xml")


def _write_language(loaded: LoadedVisionLanguage, folder: Path) -> None:
    import torch

    from beholder.models.language_model import CausalLanguageModel
    from beholder.runtime.language_network import language_network

    language = loaded.language
    if not isinstance(language, CausalLanguageModel):
        raise TypeError("only a causal language model is compiled")
    network = quantize_grouped(language_network(language), lossless=True)
    save(network, folder / "language.xml")
    with torch.inference_mode():
        count = language.module.get_input_embeddings().weight.shape[0]
        table = language.embed(torch.arange(count)).numpy()
    half = table.astype(np.float16)
    np.save(folder / WORDS, half if np.array_equal(half.astype(np.float32), table) else table)
