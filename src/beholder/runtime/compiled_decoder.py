"""The language model in the folder of a compiled model: written, read, and compared with the original.

language.xml             a causal language model (`beholder.runtime.language_network`); weights that come from a
                         quantized file stay quantized (`beholder.runtime.quantization.quantize_grouped`)
embeddings.npy           its token embeddings
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import ModelError
from beholder.runtime.engine import NetworkConfig, compile_network, save_network
from beholder.runtime.quantization import quantize_grouped

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.models.language_model import LanguageModel
    from beholder.runtime.compiled_language import CompiledLanguageModel
    from beholder.runtime.decoding import Language

NETWORK = "language.xml"
EMBEDDINGS = "embeddings.npy"
TOLERANCE = 1e-3  # relative to the spread of the numbers: the effect of another order of additions
STEPS = 6  # tokens decoded after each image


def write_language_model(language: LanguageModel, folder: Path) -> None:
    """Compile a causal language model, on the CPU in float32, into a folder."""
    import torch

    from beholder.models.language_model import CausalLanguageModel
    from beholder.runtime.language_network import language_network

    if not isinstance(language, CausalLanguageModel):
        raise TypeError("only causal language models can be compiled")
    network = quantize_grouped(language_network(language), lossless=True)
    save_network(network, folder / NETWORK)
    with torch.inference_mode():
        count = language.module.get_input_embeddings().weight.shape[0]
        embeddings = language.embed(torch.arange(count)).numpy()
    half = embeddings.astype(np.float16)
    np.save(folder / EMBEDDINGS, half if np.array_equal(half.astype(np.float32), embeddings) else embeddings)


def read_language_model(
    folder: Path,
    config: NetworkConfig,
    eos_token_ids: tuple[int, ...],
    context_length: int,
    original: Callable[[], LanguageModel],
) -> CompiledLanguageModel:
    """Return the compiled language model of a folder; the arguments are those of `CompiledLanguageModel`."""
    from beholder.runtime.compiled_language import CompiledLanguageModel

    network = compile_network(folder, config, **cache_options(config))
    embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r")
    return CompiledLanguageModel(network, embeddings, eos_token_ids, context_length, original)


def cache_options(config: NetworkConfig) -> dict[str, str]:
    """Return the options of a language model's keys and values, which have the precision of its activations."""
    return {"KV_CACHE_PRECISION": config.precision}


def verify_language_model(compiled: Language, original: LanguageModel, prompts: Tensor) -> None:
    """Compare the logits after soft prompts (B, P, D); errors as for `check_close`."""
    logits, ids = teacher_forced_logits(original, prompts)
    check_close("language model's logits", teacher_forced_logits(compiled, prompts, ids)[0], logits)


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


def check_close(what: str, found: Tensor, expected: Tensor) -> None:
    """Raise `ModelError` if a difference is larger than another order of additions explains."""
    difference, spread = float((found - expected).abs().max()), float(expected.std())
    if not difference <= TOLERANCE * spread:
        raise ModelError(f"the compiled {what} are off by {difference:.1e}, with a standard deviation of {spread:.1e}")
