"""A compiled vision-language model against the networks that it was made from, and what each precision may take."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from beholder.errors import ModelError
from beholder.files import write_text
from beholder.runtime import quantization
from beholder.runtime.compiled_language import CompiledLanguageModel
from beholder.runtime.compiled_vision_language import WORDS, CompiledVisionLanguageModel
from beholder.runtime.decoding import Language
from beholder.runtime.engine import KERNELS, Stage, library, save
from beholder.runtime.precision import Precision, within_bound
from beholder.runtime.samples import sample_pixels
from beholder.runtime.vision_front_end import CompiledFrontEnd, TorchFrontEnd, VisionFrontEnd

if TYPE_CHECKING:
    from beholder.models.language_model import LanguageModel
    from beholder.weights.loaded import LoadedVisionLanguage

KEPT = "precisions.json"
TOLERANCE = 1e-3  # of the spread of the numbers that are compared; so much do two ways of adding them up differ
PICTURES = 4
STEPS = 6  # words behind each picture
ROUNDS = 3


@dataclass(frozen=True)
class ExecutionPlan:
    """How the parts of a compiled model are computed; ``language`` is None where it was not compiled."""

    tower: Stage
    bridge: Stage
    language: Stage | None

    def front_end(self, compiled: CompiledVisionLanguageModel) -> CompiledFrontEnd:
        """The picture tower and the bridge."""
        return CompiledFrontEnd(compiled, self.tower, self.bridge)

    def load_language_model(self, compiled: CompiledVisionLanguageModel) -> CompiledLanguageModel | None:
        """The language model, if it was compiled."""
        return None if self.language is None else load_language_model(compiled, self.language)


def single(compiled: CompiledVisionLanguageModel) -> ExecutionPlan:
    """All in single precision."""
    return ExecutionPlan(Stage("tower.xml"), Stage("bridge.xml"), Stage("language.xml") if compiled.decoder else None)


def load_language_model(compiled: CompiledVisionLanguageModel, stage: Stage) -> CompiledLanguageModel:
    """The compiled language model."""

    def original() -> LanguageModel:
        if compiled.loaded.language is None:
            raise ModelError(f"{compiled.source}: has no language model any more")
        return compiled.loaded.language

    table = np.load(compiled.folder / WORDS, mmap_mode="r")
    return CompiledLanguageModel(compiled.read(stage), table, compiled.eos_token_ids, compiled.context_length, original)


def check(compiled: CompiledVisionLanguageModel, loaded: LoadedVisionLanguage) -> None:
    """Compares pictures, and what is said about them, with the networks in torch.

    Raises:
        ModelError: something differs by more than the order of additions explains.
    """
    network, ours = (
        TorchFrontEnd(loaded.image, loaded.bridge, torch.device("cpu")),
        single(compiled).front_end(compiled),
    )
    pixels = sample_pixels(compiled.preprocessing, PICTURES)
    tokens = network.tokens(pixels)
    _same("picture tokens", ours.tokens(pixels), tokens)
    if loaded.bridge_matches:
        texts = loaded.tokenizer(["a photo of a dog", "nobody is there"])  # type: ignore[misc]
        fits = [torch.from_numpy(front_end.match(tokens[:1], texts.ids, texts.mask)) for front_end in (ours, network)]
        if (fits[0] - fits[1]).abs().max() > TOLERANCE:  # probabilities
            raise ModelError("the compiled matching head gives other probabilities")
    if loaded.language is None:
        return
    prompts = network.prompts(tokens)
    _same("soft prompts", ours.prompts(tokens), prompts)
    language = single(compiled).load_language_model(compiled)
    if language is not None:
        logits, words = teacher_forced_logits(loaded.language, prompts)
        _same("words' logits", teacher_forced_logits(language, prompts, words)[0], logits)


def execution_plan(compiled: CompiledVisionLanguageModel, precision: Precision) -> ExecutionPlan:
    """How a precision is computed on this processor: measured when it is first asked for, and remembered."""
    if precision == "exact":
        return single(compiled)
    file = compiled.folder / KEPT
    held = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if precision not in held:
        held[precision] = asdict(_arranged(compiled, precision))
        shutil.rmtree(compiled.folder / KERNELS, ignore_errors=True)  # most of what was tried will not be used
        write_text(compiled.folder / KEPT, json.dumps(held))
    return ExecutionPlan(**{part: stage and Stage(**stage) for part, stage in held[precision].items()})


def _arranged(compiled: CompiledVisionLanguageModel, precision: Precision) -> ExecutionPlan:
    exact = single(compiled)
    pixels = sample_pixels(compiled.preprocessing, PICTURES)
    front_end = exact.front_end(compiled)
    prompts = front_end.prompts(front_end.tokens(pixels))
    best, rate = exact, _rate(front_end, pixels)
    for tower in ("bf16", "f32"):
        for bridge in ("bf16", "f32"):
            other = ExecutionPlan(Stage("tower.xml", tower), Stage("bridge.xml", bridge), exact.language)
            front_end = other.front_end(compiled)
            near = cosine(front_end.prompts(front_end.tokens(pixels)).flatten(1), prompts.flatten(1))
            if other != exact and within_bound(near, precision) and (now := _rate(front_end, pixels)) > rate:
                best, rate = other, now
    if exact.language is None:
        return best
    language = load_language_model(compiled, exact.language)
    (logits, words), pace = teacher_forced_logits(language, prompts), _pace(language, prompts)
    chosen = exact.language
    for stage in _ways(compiled, precision):
        language = load_language_model(compiled, stage)
        near = cosine(teacher_forced_logits(language, prompts, words)[0], logits)
        if within_bound(near, precision) and (now := _pace(language, prompts)) > pace:
            chosen, pace = stage, now
    return ExecutionPlan(best.tower, best.bridge, chosen)


def _ways(compiled: CompiledVisionLanguageModel, precision: Precision) -> Iterator[Stage]:
    """bfloat16, and weights of eight bits."""
    yield Stage("language.xml", "bf16")
    model = library().Core().read_model(str(compiled.folder / "language.xml"))
    if not quantization.linear_layers(model):
        return  # all of few bits already

    def written(name: str, smaller: Callable[[Any], Any]) -> str:
        file = compiled.folder / name
        if not file.is_file():
            save(smaller(model), file)
        return name

    yield Stage(written("language-groups.xml", partial(quantization.quantize_grouped, lossless=False)))
    if precision == "fastest":
        int8 = written("language-int8.xml", quantization.quantize_per_channel)
        for group in (0, *quantization.group_sizes(model)):
            yield Stage(int8, "bf16", group)


@torch.inference_mode()
def teacher_forced_logits(language: Language, prompts: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a language model thinks behind each soft prompt (B, Q, D), word by word.

    Args:
        language: what reads them.
        prompts: of B pictures.
        words: (STEPS, B), which to read after one another; the likeliest by default.

    Returns:
        Logits (STEPS, B, V) less their mean, and the words.
    """
    logits, kv_cache = language.prefill(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool))
    thought, read = [], []
    for step in range(STEPS):
        thought.append(logits - logits.mean(-1, keepdim=True))
        read.append(logits.argmax(-1) if words is None else words[step])
        following = read[-1]
        if step == STEPS // 2:  # the rows change places, as beams do
            kv_cache.select(torch.arange(len(prompts)).flip(0))
            following = following.flip(0)
        logits = language.decode(following[:, None], kv_cache)
    return torch.stack(thought), torch.stack(read)


def cosine(one: Tensor, other: Tensor) -> float:
    """The least cosine between two sets of vectors (…, D)."""
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=-1).min())


def _same(what: str, one: Tensor, other: Tensor) -> None:
    apart, spread = float((one - other).abs().max()), float(other.std())
    if not apart <= TOLERANCE * spread:
        raise ModelError(f"the compiled {what} are off by {apart:.1e}, where they spread by {spread:.1e}")


def _rate(front_end: VisionFrontEnd, pixels: np.ndarray) -> float:
    """Pictures a second."""
    best = np.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        front_end.prompts(front_end.tokens(pixels))
        best = min(best, time.perf_counter() - began)
    return len(pixels) / best


def _pace(language: Language, prompts: Tensor) -> float:
    """Texts a second, each read once: the geometric mean of captions of several beams and of one answer alone."""
    seconds = []
    for some, beams in ((prompts, 3), (prompts[:1], 1)):
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            _, kv_cache = language.prefill(some, torch.ones(some.shape[:2], dtype=torch.bool))
            kv_cache.select(torch.arange(len(some)).repeat_interleave(beams))
            for _ in range(STEPS):
                language.decode(torch.zeros(beams * len(some), 1, dtype=torch.long), kv_cache)
            times.append((time.perf_counter() - began) / len(some))
        seconds.append(min(times))
    return float(np.prod(seconds) ** (-1 / len(seconds)))
