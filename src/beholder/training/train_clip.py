"""A dual encoder's training, from top to bottom: data, model, optimiser, loop, evaluation, checkpoint, result.

    OUT/log.jsonl      a line every so often: loss, learning rate, pairs a second; and each evaluation
    OUT/broken.jsonl   what could not be used
    OUT/checkpoints/   from which the same call goes on, bit for bit on a CPU
    OUT/best/          the model of the best evaluation
    OUT/model/         the model of the last step

Shapes: B pairs over all processes, b of one of them, E the shared space.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from beholder.errors import InvalidSetting, NotFinite
from beholder.evaluation.retrieval import recall
from beholder.models.bert import BertSettings
from beholder.models.dual_encoder import TwoTowers
from beholder.models.text_tower import TextTransformerSettings
from beholder.pictures.transform import Preprocessing
from beholder.runtime.device import select_device
from beholder.tasks.dual_encoder import DualEncoder
from beholder.text import clip_bpe
from beholder.text.tokenizer import Tokenizer, TokenizerSettings
from beholder.training.checkpoints import load_newest, save_checkpoint
from beholder.training.clip_config import ClipConfig, TrainingConfig, network_preprocessing, network_settings
from beholder.training.data_loader import ImageTextBatch, load_batches, normalised
from beholder.training.distributed import ProcessGroup, all_reduce_scalars, full_tensor, no_sync, shard, shard_like
from beholder.training.examples import Example, read_examples
from beholder.training.freezing import add_lora, freeze, initialise, merged, recompute_activations
from beholder.training.gradient_cache import DualEncoderOutput, backward
from beholder.training.interruption import Interrupted, Interruption
from beholder.training.losses import contrastive_loss, duplicate_pairs, sigmoid_loss
from beholder.training.metrics_logger import MetricsLogger, Row
from beholder.training.optimization import cosine_schedule, parameter_groups
from beholder.training.samplers import BatchSampler, ShuffledBatchSampler
from beholder.training.shards import ShardBatchSampler, is_shards, list_shards, read_shard
from beholder.training.skipped_examples import SkippedExamples
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import save_dual_encoder
from beholder.weights.table import build_empty, load_native_tensors

VOCABULARY_TEXTS = 200_000  # of shards, from which a vocabulary is learned
HARMLESS = [f"train.{name}" for name in ("save_every", "keep", "evaluate_every", "report_every", "parallel", "compile")]


@dataclass(frozen=True)
class TrainingData:
    """What is trained and judged on.

    Attributes:
        examples: in memory; empty where they come from shards.
        shards: addresses.
        judged: examples to evaluate on.
        steps: of the training.
    """

    examples: Sequence[Example]
    shards: Sequence[str]
    judged: Sequence[Example]
    steps: int


def read_data(config: ClipConfig) -> TrainingData:
    """All data but the pictures, looked at before anything heavy starts.

    Raises:
        InvalidSetting: there is none, too little, or only one class.
    """
    data, train = config.data, config.train
    examples: Sequence[Example] = ()
    shards: Sequence[str] = ()
    if is_shards(data.train):
        shards = list_shards(data.train)
        if train.steps is None:
            raise InvalidSetting("train.epochs: how many pictures are in shards is not known; give steps instead")
        steps = train.steps
    else:
        examples = read_examples(Path(data.train), data.columns, data.templates)
        if train.batch > len(examples):
            raise InvalidSetting(f"train.batch {train.batch} is more than the {len(examples)} pictures of {data.train}")
        steps = train.steps or math.ceil((train.epochs or 0) * len(examples) / train.batch)
    judged = read_examples(Path(data.evaluate), data.columns, data.templates) if data.evaluate else ()
    return TrainingData(examples, shards, judged, steps)


def summarize(config: ClipConfig, device: str | None = None) -> dict[str, Any]:
    """What would be trained on what: everything that can be wrong is looked at, and nothing is trained.

    Args:
        config: what and how.
        device: where; the fastest there is by default.

    Raises:
        InvalidSetting: the config or the data can't be, or torch can't compile what the config wants compiled.
    """
    if config.train.compile:
        check_compiler(select_device(device))
    data = read_data(config)
    network = begin(config, data).network
    freeze(network, config.freeze)
    if config.lora is not None:
        add_lora(network, config.lora)
    weights = list(network.parameters())
    return {
        "pictures": len(data.examples) if data.examples else f"in {len(data.shards)} shards",
        "pictures to evaluate on": len(data.judged),
        "steps": data.steps,
        "batch": config.train.batch,
        "parameters": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
        "vocabulary": network.settings.text.vocabulary,
        "embedding": network.settings.embedding,
    }


def begin(config: ClipConfig, data: TrainingData, learned: str | None = None) -> LoadedDualEncoder:
    """The model before training: loaded, or new with random weights and a vocabulary of its own.

    ``learned`` is the vocabulary that was learned when the training began, as JSON.
    """
    model = config.model
    if model.from_pretrained is not None:
        loaded = load_dual_encoder(model.from_pretrained)
        if config.train.loss == "sigmoid" and loaded.network.logit_bias is None:
            raise InvalidSetting(f"train.loss: {model.from_pretrained} has no bias for the sigmoid; use contrastive")
        # What training changes is no longer calibrated.
        return replace(
            loaded, calibration=None, name=model.name or loaded.name, licence=model.licence or loaded.licence
        )
    settings = network_settings(config, vocabulary=600, end_id=1)
    text = settings.text
    full = isinstance(text, TextTransformerSettings) and text.full_length
    tokenizer = _tokenizer(config, data, text, full, learned)
    settings = network_settings(config, tokenizer.backend.get_vocab_size(), tokenizer.settings.end_id)
    network = TwoTowers(settings).eval()
    initialise(network, config.train.loss == "sigmoid")
    preprocessing = network_preprocessing(config, settings.image)
    return LoadedDualEncoder(network, preprocessing, tokenizer, name=model.name, licence=model.licence)


def _tokenizer(
    config: ClipConfig,
    data: TrainingData,
    text: TextTransformerSettings | BertSettings,
    full: bool,
    learned: str | None,
) -> Tokenizer:
    padding: Any = "full" if full else "longest"
    if config.model.tokenizer is not None:
        known = load_dual_encoder(config.model.tokenizer).tokenizer
        return Tokenizer(known.backend, replace(known.settings, context_length=text.context_length, padding=padding))
    if learned is not None:
        return _with_marks(Backend.from_str(learned), text.context_length, padding)
    texts: Iterable[str] = (each for example in data.examples for each in example.texts)
    if data.shards:
        refuse: Callable[[str, str], None] = lambda *_: None  # noqa: E731
        found = (example for shard in data.shards for example in read_shard(shard, refuse) if example)
        texts = islice((each for example in found for each in example.texts), VOCABULARY_TEXTS)
    backend = clip_bpe.train_bpe(texts, config.model.vocabulary)
    return _with_marks(backend, text.context_length, padding)


def _with_marks(backend: Backend, context_length: int, padding: Any) -> Tokenizer:
    marks = backend.get_vocab()
    settings = TokenizerSettings(context_length, marks[clip_bpe.EOS_TOKEN], marks[clip_bpe.BOS_TOKEN], padding=padding)
    return Tokenizer(backend, settings)


class EncodePairs(nn.Module):
    """The network as one call: what the loss needs of some pairs."""

    def __init__(self, network: TwoTowers, preprocessing: Preprocessing, train: TrainingConfig, device: torch.device):
        super().__init__()
        self.network = network
        self.embed_image: Callable[..., Tensor] = network.embed_image
        self.embed_text: Callable[..., Tensor] = network.embed_text
        if train.compile:
            self.embed_image, self.embed_text = torch.compile(network.embed_image), torch.compile(network.embed_text)
        self.preprocessing = preprocessing
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=train.precision == "bfloat16")

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """uint8 (b, H, W, 3) and (b, T) → unit vectors (b, E) of each, inverse temperature, bias."""
        network = self.network
        with self.autocast():
            image = self.embed_image(normalised(pixels, self.preprocessing))
            text = self.embed_text(ids, mask)
        return image, text, network.logit_scale.exp(), network.logit_bias


def check_compiler(device: torch.device) -> None:
    """Whether torch can compile for a device: it needs a C++ compiler, which only a first attempt finds out.

    Raises:
        InvalidSetting: it can't.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InvalidSetting(
            f"train.compile: torch can't compile for {device} here ({reason}); install a C++ compiler, or leave it out"
        ) from error


def pair_loss(embedded: DualEncoderOutput, batch: ImageTextBatch, train: TrainingConfig, group: ProcessGroup) -> Tensor:
    """The loss over the batches of all ranks together, or this rank's part of it."""
    image, text = group.all_gather(embedded.image), group.all_gather(embedded.text)
    same = duplicate_pairs(group.all_gather(batch.pictures), group.all_gather(batch.texts))
    there = group.all_gather(batch.there.int()).bool()
    rows = group.local_rows(len(batch)) if train.local_loss and group.world_size > 1 else None
    if train.loss == "contrastive":
        return contrastive_loss(image, text, embedded.scale, train.smoothing, same, there, rows)
    if embedded.bias is None:
        raise InvalidSetting("train.loss: the sigmoid needs a network with a bias")
    return sigmoid_loss(image, text, embedded.scale, embedded.bias, same, there, rows)


def micro_batches(batch: ImageTextBatch, size: int) -> list[ImageTextBatch]:
    """A batch in pieces of at most ``size`` pairs."""
    pieces = [vars(batch)[name].split(size) for name in vars(batch)]
    return [ImageTextBatch(*piece) for piece in zip(*pieces, strict=True)]


def train_clip(
    config: ClipConfig,
    out: Path,
    report: Callable[[Row], None] = lambda _: None,
    *,
    device: str | None = None,
    tensorboard: bool = False,
) -> Path:
    """Trains a dual encoder; interrupted, the same call goes on where it stopped.

    Args:
        config: what and how.
        out: the folder of all that comes of it.
        report: called on the first process with each line of the log.
        device: where; the fastest there is by default.
        tensorboard: also writes for TensorBoard, into ``out/tensorboard``.

    Returns:
        The folder of the model, for `DualEncoder.from_pretrained`.

    Raises:
        InvalidSetting: the config can't be, or ``out`` holds the training of another one.
        Interrupted: SIGTERM or Ctrl-C came; what was learned is in a checkpoint.
        NotFinite: the loss is no number any more.
        WriteFailed: a checkpoint can't be written; earlier ones stay.
    """
    group = ProcessGroup.initialize(device)
    try:
        if config.train.compile:
            check_compiler(group.device)
        data = read_data(config)
        out.mkdir(parents=True, exist_ok=True)
        saved = load_newest(out / "checkpoints")
        if saved is not None:
            _check_same(saved, _written(config, data), group, out)
        return _train(config, data, out, report, group, saved, tensorboard)
    finally:
        group.destroy()


def _train(
    config: ClipConfig,
    data: TrainingData,
    out: Path,
    report: Callable[[Row], None],
    group: ProcessGroup,
    saved: dict[str, Any] | None,
    tensorboard: bool,
) -> Path:
    train = config.train

    # Data: every rank draws its own part of each batch.
    broken = SkippedExamples(out / ("broken.jsonl" if group.is_main_process else f"broken-{group.rank}.jsonl"))
    order: BatchSampler
    if data.shards:
        shuffle = config.data.shuffle
        order = ShardBatchSampler(data.shards, train.batch, train.seed, shuffle, broken, group.rank, group.world_size)
    else:
        order = ShuffledBatchSampler(data.examples, train.batch, train.seed, group.rank, group.world_size)

    # Model: it stays as in use, since nothing in it behaves otherwise while training but batch normalisation, whose
    # statistics would depend on how a batch is divided.
    torch.manual_seed(train.seed)
    loaded = begin(config, data, None if saved is None else saved["tokenizer"])
    network = loaded.network.to(group.device, torch.float32).eval()
    freeze(network, config.freeze)
    if config.lora is not None:
        add_lora(network, config.lora)
    spare = deepcopy(network) if group.is_main_process else None  # to evaluate and save from
    if train.recompute:
        recompute_activations(network)
    blocks = [*network.image.blocks, *network.text.blocks]
    model = shard(EncodePairs(network, loaded.preprocessing, train, group.device), blocks, group, train.parallel)

    # Optimiser
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    groups = parameter_groups(trained.items(), train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
    averages = None if train.ema_decay is None else {name: weight.detach().clone() for name, weight in trained.items()}

    # Where an interrupted training stopped
    done, best, seen = 0, -math.inf, None
    if saved is not None:
        done, best, seen = saved["step"], saved["best"], saved["data"][group.rank]
        _restore(saved, trained, optimizer, averages)
    log = (
        MetricsLogger(out / "log.jsonl", done, out / "tensorboard" if tensorboard else None)
        if group.is_main_process
        else None
    )

    def say(row: Row) -> None:
        if log is not None:
            log.write(row)
            report(row)

    def embed(part: ImageTextBatch) -> DualEncoderOutput:
        return DualEncoderOutput(*model(part.pixels, part.ids, part.mask))

    def weights() -> dict[str, Tensor]:
        return {name: full_tensor(weight) for name, weight in (averages or trained).items()}

    def checkpoint(step: int) -> None:
        state = {
            "step": step,
            "best": best,
            "data": group.all_gather_object(seen),
            "config": _written(config, data),
            "tokenizer": loaded.tokenizer.backend.to_str(),
            "weights": {name: full_tensor(weight).cpu() for name, weight in trained.items()},
            "averages": averages and {name: full_tensor(weight).cpu() for name, weight in averages.items()},
            "optimizer": {
                name: {part: full_tensor(value).cpu() for part, value in optimizer.state[weight].items()}
                for name, weight in trained.items()
            },
        }
        if group.is_main_process:
            save_checkpoint(out / "checkpoints", step, state, train.keep)
        group.barrier()

    def evaluate(step: int) -> None:
        nonlocal best
        if not data.judged:
            return
        learned = weights()
        if spare is not None:
            figures, score = judge(finished(loaded, spare, learned), data.judged, config.data.templates, group.device)
            say({"step": step, **figures})
            if score > best:
                best = score
                save_dual_encoder(finished(loaded, spare, learned), out / "best")
        group.barrier()

    # Loop
    chunk = math.ceil((train.chunk or train.batch) / group.world_size)
    stream = load_batches(order, seen, loaded.preprocessing, config.augment, loaded.tokenizer, broken)
    began, reported, pairs = time.monotonic(), time.monotonic(), 0
    with Interruption() as interruption, closing(stream) as batches:
        for step in range(done + 1, data.steps + 1):
            batch, seen = next(batches)
            batch = batch.to(group.device)
            for param_group in optimizer.param_groups:
                param_group["lr"] = train.learning_rate * cosine_schedule(
                    (step - 1) / data.steps, train.warmup, train.min_lr_ratio
                )
            optimizer.zero_grad()
            lost = backward(
                embed,
                micro_batches(batch, chunk),
                lambda embedded, batch=batch: pair_loss(embedded, batch, train, group),  # type: ignore[misc]
                partial(no_sync, model) if group.world_size > 1 else lambda _: nullcontext(),
            )
            if train.parallel == "fsdp":
                all_reduce_scalars(model, group)
            norm = clip_grad_norm(list(trained.values()), train.max_grad_norm)
            optimizer.step()
            with torch.no_grad():
                network.logit_scale.clamp_(0, math.log(train.max_logit_scale))
                if averages is not None and train.ema_decay is not None:
                    torch._foreach_lerp_(list(averages.values()), list(trained.values()), 1 - train.ema_decay)
            pairs += train.batch

            stopped = group.any(bool(interruption.number))
            last = step == data.steps
            saving = stopped or last or step % train.save_every == 0
            if saving or step % train.report_every == 0:
                loss = float(group.mean(lost))
                if not (math.isfinite(loss) and math.isfinite(float(norm))):
                    raise NotFinite(
                        f"step {step}: the loss is {loss} and its gradient {float(norm)}; a lower learning_rate or "
                        f"more warmup may help. {out / 'checkpoints'} holds what was learned before"
                    )
            if step % train.report_every == 0 or last:
                now = time.monotonic()
                row = {
                    "step": step,
                    "steps": data.steps,
                    "loss": loss,
                    "rate": optimizer.param_groups[0]["lr"],
                    "gradient": float(norm),
                }
                row |= {"scale": float(network.logit_scale.detach().exp()), "broken": len(broken.names)}
                row |= {"pairs_per_second": round(pairs / max(now - reported, 1e-9), 1)}
                left = (now - began) / (step - done) * (data.steps - step)
                say({**row, "seconds_left": round(left)})
                reported, pairs = now, 0
            if last or (train.evaluate_every and step % train.evaluate_every == 0):
                evaluate(step)
            if saving:
                checkpoint(step)
            if stopped and not last:
                raise Interrupted(
                    f"stopped behind step {step} of {data.steps}; the same call goes on from there", interruption.number
                )

    # Result
    learned = weights()
    if spare is not None:
        save_dual_encoder(finished(loaded, spare, learned), out / "model")
    if log is not None:
        log.close()
    group.barrier()
    return out / "model"


def clip_grad_norm(weights: Sequence[Tensor], most: float) -> Tensor:
    """Scales the gradients down together to a norm of at most ``most``; gives the norm before."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([full_tensor(each) for each in torch._foreach_norm(gradients)]))
    factor = (most / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:  # a number and a divided tensor do not mix in one call
        gradient.mul_(factor)
    return norm


def finished(loaded: LoadedDualEncoder, spare: TwoTowers, learned: dict[str, Tensor]) -> LoadedDualEncoder:
    """The model with learned weights, additions of low rank merged into their matrices."""
    spare.load_state_dict(learned, strict=False)
    network = load_native_tensors(build_empty(TwoTowers, loaded.network.settings), merged(spare))
    return replace(loaded, network=network)


def judge(
    loaded: LoadedDualEncoder, examples: Sequence[Example], templates: Sequence[str], device: torch.device
) -> tuple[dict[str, float], float]:
    """Accuracy without training where there are classes, recall otherwise; and the number that should be high."""
    encoder = DualEncoder(loaded, str(device))
    texts: dict[str, list[str]] = {}  # of each picture: a CSV file has a line for each caption
    labels: dict[str, str] = {}
    for example in examples:
        texts.setdefault(str(example.picture), []).extend(example.texts)
        labels[str(example.picture)] = example.label
    there = {each.name: each.embedding for each in encoder.stream_images(texts) if each.embedding is not None}
    if not there:
        raise InvalidSetting("data.evaluate: not one of its pictures can be read")
    images = np.stack(list(there.values()))
    if labels[next(iter(there))]:
        names = sorted(set(labels.values()))
        guessed = (images @ encoder.embed_labels(names, templates).T).argmax(axis=1)
        right = float(np.mean([names[guess] == labels[path] for guess, path in zip(guessed, there, strict=True)]))
        return {"accuracy": right}, right
    owner = np.array([row for row, path in enumerate(there) for _ in texts[path]])
    figures = recall(images, encoder.embed_texts([text for path in there for text in texts[path]]), owner)
    return figures, (figures["text_to_image@1"] + figures["image_to_text@1"]) / 2


def _restore(
    saved: dict[str, Any],
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    averages: dict[str, Tensor] | None,
) -> None:
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(shard_like(saved["weights"][name], weight))
            optimizer.state[weight] = {
                part: shard_like(value, weight) if value.ndim else value.to(weight.device)
                for part, value in saved["optimizer"][name].items()
            }
            if averages is not None:
                averages[name].copy_(shard_like(saved["averages"][name], weight))


def _written(config: ClipConfig, data: TrainingData) -> dict[str, Any]:
    """What must not change while a training is resumed, by dotted names."""
    flat: dict[str, Any] = {"number of pictures": len(data.examples), "number of shards": len(data.shards)}
    for part, value in asdict(replace(config, about="")).items():
        for name, each in value.items() if isinstance(value, dict) else [("", value)]:
            flat[f"{part}.{name}".rstrip(".")] = each
    return {name: value for name, value in flat.items() if name not in HARMLESS}


def _check_same(saved: dict[str, Any], written: dict[str, Any], group: ProcessGroup, out: Path) -> None:
    before = saved["config"]
    changed = sorted(name for name in {*before, *written} if before.get(name) != written.get(name))
    if changed:
        raise InvalidSetting(
            f"{out}: holds a training with another {', '.join(changed)}; name another folder, or remove this one to "
            "begin anew"
        )
    if "position" in saved["data"][0]:
        saved["data"] = saved["data"][:1] * group.world_size  # the same for all, however many there are
    elif len(saved["data"]) != group.world_size:
        raise InvalidSetting(f"{out}: on shards, go on with as many processes as before: {len(saved['data'])}")
