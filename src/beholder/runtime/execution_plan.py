"""How the parts of a compiled vision-language model run with each precision: tuned once, then remembered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from beholder.pictures.transform import Preprocessing
from beholder.runtime import quantization
from beholder.runtime.autotune import Autotuner, Candidate, Workload, remember, remembered
from beholder.runtime.compiled_decoder import NETWORK, STEPS, cache_options, teacher_forced_logits
from beholder.runtime.compiled_language import CompiledLanguageModel
from beholder.runtime.decoding import Language
from beholder.runtime.engine import KERNELS, NetworkConfig, can_compile, openvino, save_network
from beholder.runtime.precision import Precision
from beholder.runtime.samples import sample_pixels
from beholder.runtime.vision_front_end import CompiledFrontEnd

IMAGES = 4


class CompiledParts(Protocol):
    """A compiled model with an image tower, a bridge or a connector, and perhaps a language model."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        ...

    @property
    def decoder(self) -> bool:
        """Whether the language model was compiled, too."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the pictures that the image tower reads."""
        ...

    def front_end(self, tower: NetworkConfig, bridge: NetworkConfig) -> CompiledFrontEnd:
        """Return the image tower and the bridge in these configurations."""
        ...

    def language_model(self, config: NetworkConfig) -> CompiledLanguageModel:
        """Return the compiled language model in this configuration."""
        ...


@dataclass(frozen=True)
class ExecutionPlan:
    """The configurations of a compiled model's networks; ``language`` is None if it was not compiled."""

    tower: NetworkConfig
    bridge: NetworkConfig
    language: NetworkConfig | None

    def front_end(self, compiled: CompiledParts) -> CompiledFrontEnd:
        """Return the image tower and the bridge."""
        return compiled.front_end(self.tower, self.bridge)

    def load_language_model(self, compiled: CompiledParts) -> CompiledLanguageModel | None:
        """Return the language model, if it was compiled."""
        return None if self.language is None else compiled.language_model(self.language)


def execution_plan(compiled: CompiledParts, precision: Precision) -> ExecutionPlan:
    """Return the fastest plan within a precision's bound on this processor; measured once, then remembered."""
    language_config = NetworkConfig(NETWORK) if compiled.decoder else None
    plan = ExecutionPlan(NetworkConfig("tower.xml"), NetworkConfig("bridge.xml"), language_config)
    if precision == "exact":
        return plan
    files = {part: compiled.folder / f"{part}-{precision}.json" for part in ("front-end", "language")}
    front_end = remembered(files["front-end"])
    language = remembered(files["language"]) if plan.language is not None else None
    if front_end is None or (plan.language is not None and language is None):
        exact = plan.front_end(compiled)
        pixels = sample_pixels(compiled.preprocessing, IMAGES)
        front_end = remember(_tune_front_end(compiled, precision, pixels), files["front-end"])
        if plan.language is not None:
            prompts = exact.prompts(exact.tokens(pixels))
            language = remember(_tune_language_model(compiled, precision, prompts), files["language"])
        shutil.rmtree(compiled.folder / KERNELS, ignore_errors=True)  # most of the candidates' kernels are not used
    tower, bridge = (NetworkConfig(**config) for config in front_end.config)
    return ExecutionPlan(tower, bridge, None if language is None else NetworkConfig(**language.config))


def _tune_front_end(compiled: CompiledParts, precision: Precision, pixels: np.ndarray) -> Autotuner:
    """Try bfloat16 for image tower and bridge, each alone and together."""

    def candidate(tower: str, bridge: str) -> Candidate:
        configs = NetworkConfig("tower.xml", tower), NetworkConfig("bridge.xml", bridge)

        def load() -> Workload:
            front_end = compiled.front_end(*configs)

            def prompts(count: int) -> np.ndarray:
                return front_end.prompts(front_end.tokens(pixels[:count])).flatten(1).numpy()

            def output() -> np.ndarray:  # of two shapes: kernels are generated for each
                return np.concatenate([prompts(1), prompts(len(pixels))])

            return Workload(output, [lambda: prompts(len(pixels))])

        return Candidate([asdict(config) for config in configs], load)

    tuner = Autotuner(candidate("f32", "f32"), precision)
    for tower, bridge in (("bf16", "bf16"), ("bf16", "f32"), ("f32", "bf16")):
        tuner.consider(candidate(tower, bridge))
    return tuner


def _tune_language_model(compiled: CompiledParts, precision: Precision, prompts: Tensor) -> Autotuner:
    """Try bfloat16 and weights of eight bits; timed are captions by beam search and one answer."""
    exact = compiled.language_model(NetworkConfig(NETWORK))
    _, ids = teacher_forced_logits(exact, prompts)

    def candidate(config: NetworkConfig) -> Candidate:
        def load() -> Workload:
            language = compiled.language_model(config)
            return Workload(
                lambda: teacher_forced_logits(language, prompts, ids)[0].numpy(),
                [partial(_generate, language, prompts, 3), partial(_generate, language, prompts[:1], 1)],
            )

        return Candidate(asdict(config), load)

    tuner = Autotuner(candidate(NetworkConfig(NETWORK)), precision)
    for config in _language_configs(compiled, precision):
        if config.precision == "f32" or _can_compile(compiled.folder, config):
            tuner.consider(candidate(config))
    return tuner


def _can_compile(folder: Path, config: NetworkConfig) -> bool:
    """Return whether a network compiles; only those that OpenVINO may die of are tried in a process of their own."""
    model = openvino().Core().read_model(str(folder / config.file))
    return not quantization.has_joint_projections(model) or can_compile(folder, config, **cache_options(config))


def _language_configs(compiled: CompiledParts, precision: Precision) -> Iterator[NetworkConfig]:
    yield NetworkConfig(NETWORK, "bf16")
    model = openvino().Core().read_model(str(compiled.folder / NETWORK))
    if not quantization.linear_layers(model):
        return  # quantized already

    def written(name: str, quantize: Callable[[Any], Any]) -> NetworkConfig:
        file = compiled.folder / name
        if not file.is_file():
            save_network(quantize(model), file)
        return NetworkConfig(name)

    yield written("language-groups.xml", partial(quantization.quantize_grouped, lossless=False))
    if precision == "fastest":
        int8 = written("language-int8.xml", quantization.quantize_per_channel)
        for size in (0, *quantization.group_sizes(model)):
            yield replace(int8, precision="bf16", group_size=size)


def _generate(language: Language, prompts: Tensor, num_beams: int) -> None:
    """Read prompts and decode a few tokens, as beam search does."""
    _, kv_cache = language.prefill(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool))
    kv_cache.select(torch.arange(len(prompts)).repeat_interleave(num_beams))
    for _ in range(STEPS):
        language.decode(torch.zeros(num_beams * len(prompts), 1, dtype=torch.long), kv_cache)
