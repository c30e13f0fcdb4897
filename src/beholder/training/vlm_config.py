"""The JSON config of a vision-language model's fine-tuning: data, model, adapters, hyperparameters."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from beholder.errors import InvalidSetting
from beholder.training.clip_config import resolve_data, resolve_model
from beholder.training.config_file import AT_LEAST_1, MORE_THAN_0, NOT_BELOW_0, SHARE, check_numbers, read_config


@dataclass(frozen=True)
class VlmDataConfig:
    """Training data; in the file, paths are relative to it.

    Attributes:
        train: JSON lines with ``image`` and ``captions``, or ``question`` and ``answer``.
        evaluate: the same, for the validation loss; none by default.
        instruction: what the model is told to do for a caption; by default what `VisionLanguageModel.caption` tells it.
        brief: questions are asked as `VisionLanguageModel.answer` asks them, for a word or a phrase. False asks them as
            in a conversation, for answers of any length.
        longest: maximum number of tokens of a caption or an answer; the rest is cut off.
    """

    train: str
    evaluate: str | None = None
    instruction: str | None = None
    brief: bool = True
    longest: int = 256

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "longest")
        if self.instruction is not None and not self.instruction.strip():
            raise InvalidSetting("the instruction is empty")


@dataclass(frozen=True)
class VlmModelConfig:
    """The model to fine-tune.

    Attributes:
        from_pretrained: a name, a folder (relative to the config) or a hub id of a model that transformers'
            ``AutoModelForImageTextToText`` opens.
        name: of the result.
        licence: of the result's weights, for the model card.
    """

    from_pretrained: str
    name: str = ""
    licence: str = ""


@dataclass(frozen=True)
class LanguageLora:
    """LoRA adapters for the matrices of the language model (arXiv:2106.09685, section 4).

    Attributes:
        rank: of the adapters.
        alpha: they are scaled by ``alpha / rank``.
        dropout: of their inputs.
        targets: names of the linear layers that have adapters, such as ``q_proj``; by default all of the language
            model's layers (arXiv:2305.14314, section 4).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise InvalidSetting(f"dropout {self.dropout} must be a share between 0 and 1")
        if self.targets is not None and not self.targets:
            raise InvalidSetting("targets names no layer; leave it out for all of them")


@dataclass(frozen=True)
class VlmTrainingConfig:
    """Hyperparameters; the learning rate follows a linear warmup and half a cosine.

    Attributes:
        steps: number of them; or ``epochs``, how often each text is seen.
        batch: texts, each with its picture, in a step.
        chunk: texts per forward pass. Less than the batch takes less memory and changes nothing else (gradient
            accumulation). By default the batch.
        learning_rate: at its peak.
        projector: also train all weights between the vision tower and the language model (projector, connector, merger,
            or Q-Former).
        projector_lr_ratio: the projector's learning rate, as a share of the adapters'.
        min_lr_ratio: the last learning rate, as a share of the peak.
        warmup: share of the steps in which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm.
        precision: ``bfloat16`` computes in half the bits (autocast), and keeps frozen weights in it if the checkpoint
            does; trained weights stay ``float32``.
        recompute: gradient checkpointing: layers are computed again in the backward pass, for less memory.
        seed: of adapters, sampling and dropout.
        save_every: steps between checkpoints.
        keep: number of checkpoints kept.
        evaluate_every: steps between evaluations; 0 evaluates at the end only.
        report_every: steps between lines of the log.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 8
    chunk: int | None = None
    learning_rate: float = 2e-4
    projector: bool = False
    projector_lr_ratio: float = 0.1
    min_lr_ratio: float = 0.0
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    evaluate_every: int = 0
    report_every: int = 10

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InvalidSetting("needs either steps or epochs")
        check_numbers(self, MORE_THAN_0, "steps", "epochs", "learning_rate", "projector_lr_ratio", "max_grad_norm")
        check_numbers(self, AT_LEAST_1, "batch", "save_every", "keep", "report_every")
        if self.chunk is not None and not 1 <= self.chunk <= self.batch:
            raise InvalidSetting(f"chunk {self.chunk} must be between 1 and the batch's {self.batch}")
        check_numbers(self, SHARE, "min_lr_ratio", "warmup")
        check_numbers(self, NOT_BELOW_0, "weight_decay", "evaluate_every", "seed")


@dataclass(frozen=True)
class VlmConfig:
    """The whole config; ``about`` is a comment for people."""

    data: VlmDataConfig
    model: VlmModelConfig
    train: VlmTrainingConfig
    lora: LanguageLora = LanguageLora()
    about: str = ""


def read_vlm_config(path: Path, folder: Path | None = None) -> VlmConfig:
    """Read a file such as those in ``recipes/vlm``.

    Args:
        path: the file.
        folder: to which its paths are relative; by default its own folder.

    Raises:
        InvalidSetting: the file is missing, not valid JSON, or holds an unknown, missing, mistyped or invalid setting.
    """
    config = read_config(path, VlmConfig)
    folder = path.parent if folder is None else folder
    return replace(
        config,
        data=resolve_data(folder, config.data),
        model=replace(config.model, from_pretrained=resolve_model(folder, config.model.from_pretrained)),
    )
