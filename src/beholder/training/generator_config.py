"""The JSON config of an image generator's training: data, encoder, networks, hyperparameters."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from beholder.errors import InvalidSetting
from beholder.models.diffusion_transformer import DiffusionTransformerSettings
from beholder.models.prior import PriorSettings
from beholder.models.unclip import UnclipSettings
from beholder.training.clip_config import resolve_data, resolve_model
from beholder.training.config_file import (
    AT_LEAST_1,
    MORE_THAN_0,
    NOT_BELOW_0,
    SHARE,
    check_numbers,
    read_config,
    validate,
)
from beholder.training.examples import Columns


@dataclass(frozen=True)
class GeneratorDataConfig:
    """Training data; in the file, paths are relative to it.

    Attributes:
        train: JSON lines or CSV of pictures and their captions.
        evaluate: JSON lines or CSV; pictures are drawn of its captions.
        columns: of a table.
    """

    train: str
    evaluate: str | None = None
    columns: Columns = Columns()  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class GeneratorModelConfig:
    """What is trained.

    Attributes:
        encoder: the dual encoder whose embeddings drive the generator: a name, a folder (relative to the config) or a
            hub id. It stays as it is.
        decoder: settings of `DiffusionTransformerSettings` other than ``embedding``.
        prior: settings of `PriorSettings` other than ``embedding``.
        name: of the result.
        licence: of the result's weights, for the model card.
    """

    encoder: str = "mini"
    decoder: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    licence: str = ""


@dataclass(frozen=True)
class GeneratorTrainingConfig:
    """Hyperparameters; the learning rate follows a linear warmup and half a cosine.

    Attributes:
        steps: number of them.
        batch: pictures in a step of the decoder.
        prior_batch: pairs of caption and picture in a step of the prior.
        map_steps: the first steps, in which the decoder learns only its map, by regression: they are many times faster
            than the others, which start with a decoder that knows roughly what an embedding looks like.
        learning_rate: at its peak.
        muon_lr_scale: the matrices of the decoder's blocks learn by Muon (arXiv:2502.16982), at this multiple of the
            learning rate; 0 leaves them to AdamW, as all other weights.
        min_lr_ratio: the last learning rate, as a share of the peak.
        warmup: share of the steps in which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm.
        ema_decay: of an exponential moving average of the weights, which is the result; it is less in the first steps.
        condition_dropout: share of the examples whose condition is left out, for classifier-free guidance.
        embedding_noise: most noise in the embeddings that the decoder draws, as a share of their own deviation, so that
            it copes with what the prior makes.
        time_mean: of the logit of the times.
        time_std: of the logit of the times.
        precision: ``bfloat16`` computes in half the bits (autocast); weights stay ``float32``.
        compile: the decoder is compiled by ``torch.compile``: the first steps take minutes, all others a fifth less. It
            needs a C++ compiler.
        seed: of weights, sampling and noise.
        save_every: steps between checkpoints.
        keep: number of checkpoints kept.
        evaluate_every: steps between evaluations; 0 evaluates at the end only.
        evaluate_on: most captions that are drawn in an evaluation.
        report_every: steps between lines of the log.
    """

    steps: int
    batch: int = 64
    prior_batch: int = 256
    map_steps: int = 0
    learning_rate: float = 5e-4
    muon_lr_scale: float = 0.0
    min_lr_ratio: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    condition_dropout: float = 0.1
    embedding_noise: float = 0.3
    time_mean: float = -0.4
    time_std: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    evaluate_every: int = 0
    evaluate_on: int = 100
    report_every: int = 10

    def __post_init__(self) -> None:
        check_numbers(
            self, AT_LEAST_1, "steps", "batch", "prior_batch", "save_every", "keep", "evaluate_on", "report_every"
        )
        check_numbers(self, MORE_THAN_0, "learning_rate", "max_grad_norm", "time_std")
        check_numbers(self, SHARE, "min_lr_ratio", "warmup", "ema_decay", "condition_dropout")
        check_numbers(self, NOT_BELOW_0, "map_steps", "muon_lr_scale")
        check_numbers(self, NOT_BELOW_0, "weight_decay", "embedding_noise", "evaluate_every", "seed")
        if self.map_steps >= self.steps:
            raise InvalidSetting(f"map_steps {self.map_steps} must be below steps {self.steps}")


@dataclass(frozen=True)
class GeneratorConfig:
    """The whole config; ``about`` is a comment for people."""

    data: GeneratorDataConfig
    train: GeneratorTrainingConfig
    model: GeneratorModelConfig = GeneratorModelConfig()
    about: str = ""


def read_generator_config(path: Path, folder: Path | None = None) -> GeneratorConfig:
    """Read a file such as those in ``recipes/emoji_generator``.

    Args:
        path: the file.
        folder: to which its paths are relative; by default its own folder.

    Raises:
        InvalidSetting: the file is missing, not valid JSON, or holds an unknown, missing, mistyped or invalid setting.
    """
    config = read_config(path, GeneratorConfig)
    folder = path.parent if folder is None else folder
    config = replace(
        config,
        data=resolve_data(folder, config.data),
        model=replace(config.model, encoder=resolve_model(folder, config.model.encoder)),
    )
    network_settings(config, embedding=1, name=str(path))
    return config


def network_settings(config: GeneratorConfig, embedding: int, name: str = "model") -> UnclipSettings:
    """Return the complete settings of the networks, once the size of the shared space is known.

    Raises:
        InvalidSetting: a setting is unknown or invalid.
    """
    for part, given in (("decoder", config.model.decoder), ("prior", config.model.prior)):
        if "embedding" in given:
            raise InvalidSetting(f"{name}: model.{part}.embedding follows from the encoder")
    size = {"embedding": embedding}
    if config.train.map_steps and not config.model.decoder.get("map_channels"):
        raise InvalidSetting(f"{name}: train.map_steps needs a decoder with a map (model.decoder.map_channels)")
    return UnclipSettings(
        validate(config.model.decoder | size, DiffusionTransformerSettings, name, "model.decoder"),
        validate(config.model.prior | size, PriorSettings, name, "model.prior"),
    )
