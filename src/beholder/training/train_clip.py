"""Trains a dual encoder, from top to bottom: data, model, optimizer, loop, evaluation, checkpoint, result.

    OUT/log.jsonl      every few steps: loss, learning rate, pairs per second; and each evaluation
    OUT/broken.jsonl   examples that could not be used
    OUT/checkpoints/   from which the same call resumes, bit for bit on a CPU
    OUT/best/          the model of the best evaluation
    OUT/model/         the model of the last step

Shapes: B pairs over all processes, b of one of them, E the shared space.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from beholder.errors import InvalidSetting, NotFinite
from beholder.runtime.device import select_device
from beholder.training.checkpoints import load_newest, save_checkpoint
from beholder.training.clip_config import ClipConfig, TrainingConfig
from beholder.training.clip_data import TrainingData, read_data
from beholder.training.clip_model import EncodePairs, create_model, export_model, fixed_preprocessing
from beholder.training.compiler import check_compiler
from beholder.training.config_file import flatten
from beholder.training.data_loader import ImageTextBatch, load_batches
from beholder.training.distributed import (
    ProcessGroup,
    all_reduce_scalars,
    clip_grad_norm,
    full_tensor,
    no_sync,
    shard,
    shard_like,
)
from beholder.training.freezing import add_lora, freeze, recompute_activations
from beholder.training.gradient_cache import DualEncoderOutput, backward
from beholder.training.interruption import Interrupted, Interruption
from beholder.training.losses import LOSSES, duplicate_pairs
from beholder.training.metrics_logger import MetricsLogger, Row
from beholder.training.optimization import ExponentialMovingAverage, adamw, cosine_schedule, set_learning_rate
from beholder.training.run_folder import Progress, check_resumable
from beholder.training.samplers import BatchSampler, ShuffledBatchSampler
from beholder.training.shards import ShardBatchSampler
from beholder.training.skipped_examples import SkippedExamples
from beholder.training.validation import evaluate_model
from beholder.weights.native import save_dual_encoder

DURATION = ("train.steps", "train.epochs")
# Settings that may change when a training is resumed.
UNRELATED = [
    f"train.{name}" for name in ("save_every", "keep", "evaluate_every", "report_every", "parallel", "compile")
]


def pair_loss(output: DualEncoderOutput, batch: ImageTextBatch, train: TrainingConfig, group: ProcessGroup) -> Tensor:
    """Return the loss over the batches of all ranks together, or this rank's part of it."""
    image, text = group.all_gather(output.image), group.all_gather(output.text)
    duplicates = duplicate_pairs(group.all_gather(batch.image_keys), group.all_gather(batch.text_keys))
    valid = group.all_gather(batch.valid.int()).bool()
    rows = group.local_rows(len(batch)) if train.local_loss and group.world_size > 1 else None
    compute = LOSSES[train.loss].compute
    return compute(image, text, output.logit_scale, output.logit_bias, train.smoothing, duplicates, valid, rows)


def train_clip(
    config: ClipConfig,
    out: Path,
    report: Callable[[Row], None] = lambda _: None,
    *,
    device: str | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train a dual encoder. After an interruption, the same call resumes; a finished training can be given more steps.

    Args:
        config: what to train, and how.
        out: the folder of all results.
        report: called on the main process with each line of the log.
        device: where to train; by default the fastest device available.
        tensorboard: write event files for TensorBoard, too, into ``out/tensorboard``.

    Returns:
        The folder of the model, for `DualEncoder.from_pretrained`.

    Raises:
        InvalidSetting: the config is invalid, or ``out`` holds a training with another one.
        ModelError: the newest checkpoint is damaged; the message names the one before it.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint has been saved. A second Ctrl-C raises KeyboardInterrupt at once.
        NotFinite: the loss is not finite.
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
            _check_resumable(saved, config, data, group, out)
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

    # Data: every rank samples its own part of each batch.
    skipped = SkippedExamples(out / ("broken.jsonl" if group.is_main_process else f"broken-{group.rank}.jsonl"))
    sampler: BatchSampler
    if data.shards:
        shuffle = config.data.shuffle
        sampler = ShardBatchSampler(
            data.shards, train.batch, train.seed, shuffle, skipped, group.rank, group.world_size
        )
    else:
        sampler = ShuffledBatchSampler(data.examples, train.batch, train.seed, group.rank, group.world_size)

    # Model: in evaluation mode, since only batch normalization would behave differently while training, and its
    # statistics would depend on how a batch is divided.
    torch.manual_seed(train.seed)
    loaded = create_model(config, data, None if saved is None else saved["tokenizer"])
    preprocessing = fixed_preprocessing(loaded)
    network = loaded.network.to(group.device, torch.float32).eval()
    freeze(network, config.freeze)
    if config.lora is not None:
        add_lora(network, config.lora)
    unsharded = deepcopy(network) if group.is_main_process else None  # to evaluate and save from
    if train.recompute:
        recompute_activations(network)
    blocks = [*network.image.blocks, *network.text.blocks]
    model = shard(EncodePairs(network, preprocessing, train, group.device), blocks, group, train.parallel)

    # Optimizer
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    optimizer = adamw(trained.items(), train.learning_rate, train.weight_decay)
    ema = None if train.ema_decay is None else ExponentialMovingAverage(trained, train.ema_decay)

    # Resume
    done, best, sampler_state = 0, -math.inf, None
    if saved is not None:
        done, best, sampler_state = saved["step"], saved["best"], saved["data"][group.rank]
        set_state_dict(
            model,
            optimizer,
            model_state_dict=saved["weights"],
            optim_state_dict=saved["optimizer"],
            options=StateDictOptions(full_state_dict=True, strict=False),  # frozen weights are in no checkpoint
        )
        if ema is not None:
            ema.load({name: shard_like(saved["ema"][name], weight) for name, weight in trained.items()}, done)
    log = None
    if group.is_main_process:
        log = MetricsLogger(out / "log.jsonl", done, out / "tensorboard" if tensorboard else None)

    def write(row: Row) -> None:
        if log is not None:
            log.write(row)
            report(row)

    def encode(part: ImageTextBatch) -> DualEncoderOutput:
        return DualEncoderOutput(*model(part.pixels, part.ids, part.mask))

    def full_weights() -> dict[str, Tensor]:
        return {name: full_tensor(weight) for name, weight in (ema.weights if ema else trained).items()}

    def checkpoint(step: int) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights, optimizer_state = get_state_dict(model, optimizer, options=options)
        state = {
            "step": step,
            "steps": data.steps,
            "best": best,
            "data": group.all_gather_object(sampler_state),
            "config": _settings(config, data),
            "tokenizer": loaded.tokenizer.backend.to_str(),
            "weights": weights,
            "optimizer": optimizer_state,
            "ema": ema and {name: full_tensor(weight).cpu() for name, weight in ema.weights.items()},
        }
        if group.is_main_process:
            save_checkpoint(out / "checkpoints", step, state, train.keep)
        group.barrier()

    def evaluate(step: int) -> None:
        nonlocal best
        if not data.validation:
            return
        weights = full_weights()
        if unsharded is not None:
            current = export_model(loaded, unsharded, weights)
            metrics, score = evaluate_model(current, data.validation, config.data.templates, group.device)
            write({"step": step, **metrics})
            if score > best:
                best = score
                save_dual_encoder(export_model(loaded, unsharded, weights), out / "best")
        group.barrier()

    # Loop
    chunk = math.ceil((train.chunk or train.batch) / group.world_size)
    stream = load_batches(sampler, sampler_state, preprocessing, config.augment, loaded.tokenizer, skipped)
    started, reported, pairs = time.monotonic(), time.monotonic(), 0
    with Interruption() as interruption, closing(stream) as batches:
        for step in range(done + 1, data.steps + 1):
            batch, sampler_state = next(batches)
            batch = batch.to(group.device)
            share = cosine_schedule((step - 1) / data.steps, train.warmup, train.min_lr_ratio)
            set_learning_rate(optimizer, train.learning_rate * share)
            optimizer.zero_grad()
            batch_loss = backward(
                encode,
                batch.split(chunk),
                lambda output, batch=batch: pair_loss(output, batch, train, group),  # type: ignore[misc]
                partial(no_sync, model) if group.world_size > 1 else lambda _: nullcontext(),
            )
            if train.parallel == "fsdp":
                all_reduce_scalars(model, group)
            norm = clip_grad_norm(list(trained.values()), train.max_grad_norm)
            optimizer.step()
            with torch.no_grad():
                network.logit_scale.clamp_(0, math.log(train.max_logit_scale))
            if ema is not None:
                ema.update(trained)
            pairs += train.batch

            stopped = group.any(bool(interruption.number))
            last = step == data.steps
            saving = stopped or last or step % train.save_every == 0
            if saving or step % train.report_every == 0:
                loss = float(group.mean(batch_loss))
                if not (math.isfinite(loss) and math.isfinite(float(norm))):
                    raise NotFinite(
                        f"step {step}: the loss is {loss} and its gradient {float(norm)}; a lower learning_rate or "
                        f"more warmup may help. {out / 'checkpoints'} holds the state before"
                    )
            if step % train.report_every == 0 or last:
                now = time.monotonic()
                row = {
                    "step": step,
                    "steps": data.steps,
                    "loss": loss,
                    "rate": optimizer.param_groups[0]["lr"],
                    "gradient": float(norm),
                    "scale": float(network.logit_scale.detach().exp()),
                    "broken": len(skipped.names),
                    "pairs_per_second": round(pairs / max(now - reported, 1e-9), 1),
                    "seconds_left": round((now - started) / (step - done) * (data.steps - step)),
                }
                write(row)
                reported, pairs = now, 0
            if last or (train.evaluate_every and step % train.evaluate_every == 0):
                evaluate(step)
            if saving:
                checkpoint(step)
            if stopped and not last:
                raise Interrupted(
                    f"stopped after step {step} of {data.steps}; the same call resumes from there", interruption.number
                )

    # Result
    weights = full_weights()
    if unsharded is not None:
        save_dual_encoder(export_model(loaded, unsharded, weights), out / "model")
    if log is not None:
        log.close()
    group.barrier()
    return out / "model"


def _settings(config: ClipConfig, data: TrainingData) -> dict[str, Any]:
    """Return what must not change when a training is resumed, by dotted names."""
    unrelated = {f"train.{name}" for name in UNRELATED}
    settings = {name: value for name, value in flatten(config).items() if name not in unrelated}
    return {"number of pictures": len(data.examples), "number of shards": len(data.shards), **settings}


def _check_resumable(
    saved: dict[str, Any], config: ClipConfig, data: TrainingData, group: ProcessGroup, out: Path
) -> None:
    progress = Progress(saved["step"], saved.get("steps"))
    check_resumable(out, saved["config"], _settings(config, data), progress, data.steps, DURATION)
    if "position" in saved["data"][0]:
        saved["data"] = saved["data"][:1] * group.world_size  # the same on every rank, however many there are
    elif len(saved["data"]) != group.world_size:
        raise InvalidSetting(f"{out}: on shards, resume with as many processes as before: {len(saved['data'])}")


def summarize(config: ClipConfig, device: str | None = None) -> dict[str, Any]:
    """Check a config and its data, without training, and return what would be trained.

    Args:
        config: what to train, and how.
        device: where to train; by default the fastest device available.

    Raises:
        InvalidSetting: the config or the data is invalid, or torch can't compile what the config wants compiled.
    """
    if config.train.compile:
        check_compiler(select_device(device))
    data = read_data(config)
    network = create_model(config, data).network
    freeze(network, config.freeze)
    if config.lora is not None:
        add_lora(network, config.lora)
    weights = list(network.parameters())
    return {
        "pictures": len(data.examples) if data.examples else f"in {len(data.shards)} shards",
        "pictures to evaluate on": len(data.validation),
        "steps": data.steps,
        "batch": config.train.batch,
        "parameters": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
        "vocabulary": network.settings.text.vocabulary,
        "embedding": network.settings.embedding,
    }
