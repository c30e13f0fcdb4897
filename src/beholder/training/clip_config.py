"""The JSON config of a dual encoder's training: data, model, trained parameters, hyperparameters."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from beholder.errors import InvalidSetting
from beholder.models.bert import BertSettings
from beholder.models.dual_encoder import IMAGE_TOWERS, TEXT_TOWERS, TwoTowers, TwoTowersSettings
from beholder.models.layers import HeadSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.transform import Preprocessing
from beholder.text.templates import SINGLE
from beholder.training.augmentation import Augmentation
from beholder.training.config_file import (
    AT_LEAST_1,
    MORE_THAN_0,
    NOT_BELOW_0,
    SHARE,
    check_numbers,
    read_config,
    validate,
)
from beholder.training.distributed import Parallel
from beholder.training.examples import Columns
from beholder.training.freezing import Freezing, Lora
from beholder.training.losses import LOSSES, LossName
from beholder.weights.preprocessing import HALF
from beholder.weights.table import build_empty


@dataclass(frozen=True)
class DataConfig:
    """Training data; in the file, paths are relative to it.

    Attributes:
        train: JSON lines, CSV or TSV, a folder of classes, or webdataset shards.
        evaluate: JSON lines or CSV for retrieval recall; a folder of classes, or rows with a ``label``, for zero-shot
            accuracy; none by default.
        columns: of a table.
        templates: prompt templates for class names.
        shuffle: size of the shuffle buffer for shards, in examples.
    """

    train: str
    evaluate: str | None = None
    columns: Columns = Columns()  # noqa: RUF009 (frozen)
    templates: tuple[str, ...] = SINGLE
    shuffle: int = 2000

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "shuffle")


@dataclass(frozen=True)
class NetworkConfig:
    """A network to train from scratch: `TwoTowersSettings` without the vocabulary, which is the tokenizer's."""

    image: dict[str, Any]
    text: dict[str, Any]
    embedding: int = 512
    image_head: HeadSettings = HeadSettings()  # noqa: RUF009
    text_head: HeadSettings = HeadSettings()  # noqa: RUF009


@dataclass(frozen=True)
class ModelConfig:
    """The model to train: a pretrained one, or a new network.

    Attributes:
        from_pretrained: a name, a folder (relative to the config) or a hub id.
        network: the architecture of a new network.
        tokenizer: of a new network: the model whose tokenizer it uses. Without it, a vocabulary is trained on the
            captions.
        vocabulary: size of a trained vocabulary.
        preprocessing: of a new network; by default images are center-cropped and scaled to -1..1.
        name: of the result.
        licence: of the result's weights, for the model card.
    """

    from_pretrained: str | None = None
    network: NetworkConfig | None = None
    tokenizer: str | None = None
    vocabulary: int = 8192
    preprocessing: Preprocessing | None = None
    name: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if (self.from_pretrained is None) == (self.network is None):
            raise InvalidSetting("needs either from_pretrained, to continue from a model, or network, for a new one")
        if self.from_pretrained is not None and (self.tokenizer or self.preprocessing):
            raise InvalidSetting("from_pretrained brings its tokenizer and preprocessing; leave them out")
        if self.vocabulary < 600:
            raise InvalidSetting(f"vocabulary {self.vocabulary}: at least 600, since single bytes take 514")


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters; the learning rate follows a linear warmup and half a cosine.

    Attributes:
        steps: number of them; or ``epochs``, how often each image is seen (not for shards).
        batch: pairs in the loss of a step, over all processes.
        chunk: pairs per forward pass. Less than the batch takes less memory and about a third more time, and changes
            nothing else (gradient caching). By default the batch.
        loss: CLIP's cross-entropy, or SigLIP's sigmoid.
        smoothing: label smoothing of the cross-entropy.
        learning_rate: at its peak.
        min_lr_ratio: the last learning rate, as a share of the peak.
        warmup: share of the steps in which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm.
        max_logit_scale: upper limit of the inverse temperature.
        ema_decay: of an exponential moving average of the weights, which then is the result.
        precision: ``bfloat16`` computes in half the bits (autocast); weights stay ``float32``.
        recompute: gradient checkpointing: layers are computed again in the backward pass, for less memory.
        compile: the towers are compiled by ``torch.compile``: the first steps take minutes, on a GPU all others a
            quarter less (``benchmarks/gpu.py``). It needs a C++ compiler.
        parallel: in several processes, ``ddp`` or, for a model that fits no single device, ``fsdp``.
        local_loss: in several processes, each compares its own pairs with all others; otherwise each computes the whole
            loss.
        seed: of weights, sampling and augmentation.
        save_every: steps between checkpoints.
        keep: number of checkpoints kept.
        evaluate_every: steps between evaluations; 0 evaluates at the end only.
        report_every: steps between lines of the log.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 256
    chunk: int | None = None
    loss: LossName = "contrastive"
    smoothing: float = 0.0
    learning_rate: float = 5e-4
    min_lr_ratio: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.2
    max_grad_norm: float = 1.0
    max_logit_scale: float = 100.0
    ema_decay: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    compile: bool = False
    parallel: Parallel = "ddp"
    local_loss: bool = True
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    evaluate_every: int = 0
    report_every: int = 10

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InvalidSetting("needs either steps or epochs")
        check_numbers(self, MORE_THAN_0, "steps", "epochs", "learning_rate", "max_grad_norm")
        if self.batch < 2:
            raise InvalidSetting(f"batch {self.batch}: at least 2, or a pair has no negatives")
        if self.chunk is not None and not 1 <= self.chunk <= self.batch:
            raise InvalidSetting(f"chunk {self.chunk} must be between 1 and the batch's {self.batch}")
        check_numbers(self, SHARE, "min_lr_ratio", "warmup", "smoothing", "ema_decay")
        check_numbers(self, AT_LEAST_1, "save_every", "keep", "report_every")
        check_numbers(self, NOT_BELOW_0, "weight_decay", "evaluate_every", "seed")
        if self.max_logit_scale <= 1:
            raise InvalidSetting(f"max_logit_scale {self.max_logit_scale} must be more than 1")
        if self.compile and self.parallel == "fsdp":
            raise InvalidSetting("compile: not with parallel fsdp, which divides the weights that would be compiled")
        if self.smoothing and not LOSSES[self.loss].smooths_labels:
            raise InvalidSetting(f"smoothing belongs to the contrastive loss; the {self.loss} has none")


@dataclass(frozen=True)
class ClipConfig:
    """The whole config; ``about`` is a comment for people."""

    data: DataConfig
    model: ModelConfig
    train: TrainingConfig
    about: str = ""
    freeze: Freezing = Freezing()  # noqa: RUF009
    lora: Lora | None = None
    augment: Augmentation = Augmentation()  # noqa: RUF009


def read_clip_config(path: Path, folder: Path | None = None) -> ClipConfig:
    """Read a file such as those in ``recipes/clip``.

    Args:
        path: the file.
        folder: to which its paths are relative; by default its own folder.

    Raises:
        InvalidSetting: the file is missing, not valid JSON, or holds an unknown, missing, mistyped or invalid setting.
    """
    config = read_config(path, ClipConfig)
    data, model = config.data, config.model
    folder = path.parent if folder is None else folder
    config = replace(
        config,
        data=resolve_data(folder, data),
        model=replace(
            model,
            from_pretrained=model.from_pretrained and resolve_model(folder, model.from_pretrained),
            tokenizer=model.tokenizer and resolve_model(folder, model.tokenizer),
        ),
    )
    if config.model.network is not None:
        if config.freeze != Freezing() or config.lora is not None:
            raise InvalidSetting(f"{path}: freeze and lora need a pretrained model (model.from_pretrained)")
        settings = network_settings(config, config.model.vocabulary, end_id=1, name=str(path))
        network_preprocessing(config, settings.image, name=str(path))
    return config


def resolve_address(folder: Path, address: str) -> str:
    """Return an address in a config: a path relative to a folder; anything with a protocol as it is."""
    return address if "://" in address else str(folder / Path(address).expanduser())


def resolve_data(folder: Path, data: Any) -> Any:
    """Return the ``data`` of a config with its ``train`` and ``evaluate`` resolved."""
    return replace(
        data,
        train=resolve_address(folder, data.train),
        evaluate=data.evaluate and resolve_address(folder, data.evaluate),
    )


def resolve_model(folder: Path, name: str) -> str:
    """Return a model's name in a config: a folder or a file in that folder, or the name as it is."""
    return str(folder / name) if name not in ("", "mini") and (folder / name).exists() else name


def network_settings(
    config: ClipConfig, vocabulary: int, end_id: int, name: str = "model.network"
) -> TwoTowersSettings:
    """Return the complete settings of a new network, once its tokenizer is known.

    Raises:
        InvalidSetting: a tower is unknown, one of its settings is invalid, or its sizes do not fit together.
    """
    network = config.model.network
    if network is None:
        raise InvalidSetting(f"{name}: there is no network in the config")
    towers: dict[str, Any] = {}
    for tower, given, known in (("image", network.image, IMAGE_TOWERS), ("text", network.text, TEXT_TOWERS)):
        values = dict(given)
        kind = values.pop("kind", None)
        if kind not in known:
            raise InvalidSetting(f"{name}: model.network.{tower}.kind {kind!r} is none of {', '.join(known)}")
        if kind in ("efficientnet", "efficientnet_lite"):
            raise InvalidSetting(
                f"{name}: model.network.image: convolutional networks with batch normalization are not trained from "
                "scratch here; use kind vit"
            )
        if tower == "text":
            if "vocabulary" in values or "end_id" in values:
                raise InvalidSetting(f"{name}: model.network.text: vocabulary and end_id follow from the tokenizer")
            values |= {"vocabulary": vocabulary}
            values |= {"end_id": end_id, "pooling": values.get("pooling", "end")} if kind == "transformer" else {}
        if kind == "naflex":
            raise InvalidSetting(f"{name}: model.network.image: a NaFlex network is not trained here; use kind vit")
        towers[tower] = validate(values, known[kind][0], name, f"model.network.{tower}")
    settings = TwoTowersSettings(
        towers["image"],
        towers["text"],
        network.embedding,
        network.image_head,
        network.text_head,
        logit_bias=LOSSES[config.train.loss].needs_bias,
    )
    _check_sizes(settings, name)
    return settings


def _check_sizes(settings: TwoTowersSettings, name: str) -> None:
    image, text = settings.image, settings.text
    if not isinstance(image, VisionSettings) or not isinstance(text, TextTransformerSettings | BertSettings):
        raise InvalidSetting(f"{name}: model.network: only transformers are trained from scratch")
    sizes: dict[str, int] = {"embedding": settings.embedding, "text.context_length": text.context_length}
    for tower, values in (("image", image), ("text", text)):
        sizes |= {f"{tower}.{size}": getattr(values, size) for size in ("width", "layers", "heads", "mlp_width")}
    wrong = [f"{size} {value}" for size, value in sizes.items() if value < 1]
    if wrong:
        raise InvalidSetting(f"{name}: model.network: {', '.join(wrong)} must be at least 1")
    try:
        build_empty(TwoTowers, settings)
    except InvalidSetting as error:
        raise InvalidSetting(f"{name}: model.network: {error}") from error


def network_preprocessing(config: ClipConfig, image: Any, name: str = "model.network") -> Preprocessing:
    """Return the preprocessing of a new network.

    Raises:
        InvalidSetting: the config's image size is not the network's.
    """
    given = config.model.preprocessing
    if given is None:
        return Preprocessing(image.image_height, image.image_width, mean=HALF, std=HALF)
    if (given.height, given.width) != (image.image_height, image.image_width):
        raise InvalidSetting(
            f"{name}: model.preprocessing makes pictures of {given.height}×{given.width} and the network takes "
            f"{image.image_height}×{image.image_width}"
        )
    return given
