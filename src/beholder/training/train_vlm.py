"""Fine-tunes a vision-language model with LoRA, from top to bottom: data, model, optimizer, loop, checkpoint, result.

    OUT/log.jsonl      every few steps: loss, learning rate, texts per second; and each evaluation
    OUT/broken.jsonl   pictures that could not be used
    OUT/checkpoints/   what is trained; from it the same call resumes, bit for bit on a CPU
    OUT/adapter/       the adapters of the last step, for peft
    OUT/model/         the model of the last step with the adapters merged, for `VisionLanguageModel.from_pretrained`

Shapes: B texts of a batch, T tokens of a text with its picture and prompt.
"""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting, NotFinite
from beholder.runtime.device import select_device
from beholder.runtime.pipeline import batches, map_ahead
from beholder.tasks.transformers_generation import TransformersGenerator
from beholder.training.checkpoints import load_newest, save_checkpoint
from beholder.training.config_file import flatten
from beholder.training.interruption import Interrupted, Interruption
from beholder.training.metrics_logger import MetricsLogger, Row
from beholder.training.optimization import adamw, cosine_schedule, set_learning_rate
from beholder.training.run_folder import Progress, check_resumable
from beholder.training.samplers import ShuffledBatchSampler, step_seed
from beholder.training.skipped_examples import SkippedExamples
from beholder.training.vlm_batches import AnswerBatch, BatchEncoder
from beholder.training.vlm_config import VlmConfig
from beholder.training.vlm_data import VlmData, VlmExample, read_vlm_data
from beholder.training.vlm_losses import answer_loss, first_answer
from beholder.training.vlm_model import (
    add_adapters,
    load_model,
    projector_names,
    recompute_activations,
    save_adapters,
    save_merged,
    stored_dtype,
    trained_parameters,
)
from beholder.weights.quiet_transformers import quiet_transformers

DURATION = ("train.steps", "train.epochs")
# Settings that may change when a training is resumed.
UNRELATED = {f"train.{name}" for name in ("save_every", "keep", "evaluate_every", "report_every", "recompute")}
PREFETCH = 2  # batches that are encoded ahead


def train_vlm(
    config: VlmConfig,
    out: Path,
    report: Callable[[Row], None] = lambda _: None,
    *,
    device: str | None = None,
    tensorboard: bool = False,
) -> Path:
    """Fine-tune a vision-language model in one process. After an interruption, the same call resumes.

    Args:
        config: what to train, and how.
        out: the folder of all results.
        report: called with each line of the log.
        device: where to train; by default the fastest device available.
        tensorboard: write event files for TensorBoard, too, into ``out/tensorboard``.

    Returns:
        The folder of the model, for `VisionLanguageModel.from_pretrained`.

    Raises:
        InvalidSetting: the config is invalid, its model is of a kind that can't be fine-tuned, or ``out`` holds a
            training with another config.
        ModelNotFound: there is no such model.
        ModelError: the model can't be read, or the newest checkpoint is damaged; the message names the one before it.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint has been saved. A second Ctrl-C raises KeyboardInterrupt at once.
        NotFinite: the loss is not finite.
        WriteFailed: a checkpoint can't be written; earlier ones stay.
    """
    train = config.train

    # Data
    data = read_vlm_data(config)
    place = select_device(device)
    out.mkdir(parents=True, exist_ok=True)
    saved = load_newest(out / "checkpoints")
    if saved is not None:
        progress = Progress(saved["step"], saved["steps"])
        check_resumable(out, saved["config"], _settings(config, data), progress, data.steps, DURATION)
    skipped = SkippedExamples(out / "broken.jsonl")
    sampler = ShuffledBatchSampler(data.training, train.batch, train.seed)

    # Model
    loaded, folder = load_model(config)
    keeps_half = train.precision == "bfloat16" and stored_dtype(folder) == torch.bfloat16
    generator = TransformersGenerator(loaded, str(place), "fast" if keeps_half else "exact")
    if keeps_half:
        loaded.module.to(torch.bfloat16)
    torch.manual_seed(train.seed)
    adapted = add_adapters(loaded.module, config.lora, train.projector)
    if train.recompute:
        recompute_activations(loaded.module)
    encode = BatchEncoder(generator, config.data, skipped)
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=train.precision == "bfloat16")

    # Optimizer
    trained = trained_parameters(adapted)
    scales = {"modules_to_save": train.projector_lr_ratio}
    optimizer = adamw(trained.items(), train.learning_rate, train.weight_decay, lr_scales=scales)

    # Resume
    done = 0
    if saved is not None:
        done = saved["step"]
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(saved["weights"][name])
        optimizer.load_state_dict(saved["optimizer"])
    log = MetricsLogger(out / "log.jsonl", done, out / "tensorboard" if tensorboard else None)

    def write(row: Row) -> None:
        log.write(row)
        report(row)

    def checkpoint(step: int) -> None:
        state = {
            "step": step,
            "steps": data.steps,
            "config": _settings(config, data),
            "weights": {name: weight.detach() for name, weight in trained.items()},
            "optimizer": optimizer.state_dict(),
        }
        save_checkpoint(out / "checkpoints", step, state, train.keep)

    def evaluate(step: int) -> None:
        if not data.validation:
            return
        adapted.eval()
        with autocast:
            own = validation_loss(adapted, encode, data.validation, train.chunk or train.batch)
            other = validation_loss(adapted, encode, exchange_pictures(data.validation), train.chunk or train.batch)
        adapted.train()
        write({"step": step, "validation_loss": own, "exchanged_loss": other})

    # Loop
    def encode_step(examples: list[VlmExample]) -> list[AnswerBatch]:
        parts = (encode(part) for part in batches(examples, train.chunk or train.batch))
        return [part for part in parts if part is not None]

    def samples() -> Iterator[list[VlmExample]]:
        state = {"position": done * train.batch}
        for _, (batch, _) in zip(range(done, data.steps), sampler.batches(state), strict=False):
            yield [sample.example for sample in batch]

    stream: Any = map_ahead(encode_step, samples(), PREFETCH, threads=1)
    started, reported, texts = time.monotonic(), time.monotonic(), 0
    adapted.train()
    with Interruption() as interruption, closing(stream), quiet_transformers():
        for step, parts in enumerate(stream, start=done + 1):
            targets = sum(part.targets for part in parts)
            if not targets:
                raise InvalidSetting(
                    f"none of the {train.batch} pictures of a batch can be used; {skipped.path} lists the reasons"
                )
            share = cosine_schedule((step - 1) / data.steps, train.warmup, train.min_lr_ratio)
            set_learning_rate(optimizer, train.learning_rate * share)
            optimizer.zero_grad()
            torch.manual_seed(step_seed(train.seed, step))  # dropout
            step_loss = torch.zeros((), device=place)
            for part in parts:
                with autocast:
                    loss = forward_loss(adapted, part) / targets
                loss.backward()
                step_loss += loss.detach()
            norm = nn.utils.clip_grad_norm_(trained.values(), train.max_grad_norm)
            optimizer.step()
            texts += sum(len(part.labels) for part in parts)

            stopped, last = bool(interruption.number), step == data.steps
            saving = stopped or last or step % train.save_every == 0
            reporting = last or step % train.report_every == 0
            if (saving or reporting) and not (math.isfinite(float(step_loss)) and math.isfinite(float(norm))):
                raise NotFinite(
                    f"step {step}: the loss is {float(step_loss)} and its gradient {float(norm)}; a lower "
                    f"learning_rate or more warmup may help. {out / 'checkpoints'} holds the state before"
                )
            if reporting:
                now = time.monotonic()
                row = {
                    "step": step,
                    "steps": data.steps,
                    "loss": float(step_loss),
                    "rate": train.learning_rate * share,
                    "gradient": float(norm),
                    "broken": len(skipped.names),
                    "pairs_per_second": round(texts / max(now - reported, 1e-9), 1),
                    "seconds_left": round((now - started) / (step - done) * (data.steps - step)),
                }
                write(row)
                reported, texts = now, 0
            if last or (train.evaluate_every and step % train.evaluate_every == 0):
                evaluate(step)
            if saving:
                checkpoint(step)
            if stopped and not last:
                log.close()
                raise Interrupted(
                    f"stopped after step {step} of {data.steps}; the same call resumes from there", interruption.number
                )

    # Result
    save_adapters(adapted, config.model.from_pretrained, out / "adapter")
    save_merged(adapted, config, folder, out / "model")
    log.close()
    return out / "model"


def forward_loss(network: Any, batch: AnswerBatch) -> Tensor:
    """Return the loss of all answers of a batch, summed over their tokens.

    Args:
        network: of transformers, or peft's around it.
        batch: on any device.
    """
    place = next(network.parameters()).device
    labels = batch.labels.to(place)
    options = {}
    if "logits_to_keep" in inspect.signature(network.get_base_model().forward).parameters:
        options["logits_to_keep"] = labels.shape[1] - first_answer(labels) + 1  # the vocabulary is large
    inputs = {name: value.to(place) for name, value in batch.inputs.items()}
    return answer_loss(network(**inputs, **options).logits, labels)


@torch.no_grad()
def validation_loss(network: Any, encode: BatchEncoder, examples: Sequence[VlmExample], size: int) -> float:
    """Return the mean loss of all tokens of the examples' texts.

    Args:
        network: peft's, in evaluation mode.
        encode: encodes examples.
        examples: those to evaluate on.
        size: of the batches.

    Raises:
        InvalidSetting: none of the pictures can be used.
    """
    total, targets = 0.0, 0
    for part in batches(examples, size):
        batch = encode(part)
        if batch is not None:
            total += float(forward_loss(network, batch))
            targets += batch.targets
    if not targets:
        raise InvalidSetting("data.evaluate: none of its pictures can be used")
    return total / targets


def exchange_pictures(examples: Sequence[VlmExample]) -> list[VlmExample]:
    """Return the same texts, each with the picture that follows its own."""
    paths = list(dict.fromkeys(each.path for each in examples))
    following = dict(zip(paths, [*paths[1:], *paths[:1]], strict=True))
    return [replace(each, path=following[each.path]) for each in examples]


def _settings(config: VlmConfig, data: VlmData) -> dict[str, Any]:
    """Return what must not change when a training is resumed, by dotted names."""
    settings = {name: value for name, value in flatten(config).items() if name not in UNRELATED}
    return {"number of texts": len(data.training), **settings}


def summarize(config: VlmConfig, device: str | None = None) -> dict[str, Any]:
    """Check a config and its data, without training, and return what would be trained.

    Args:
        config: what to train, and how.
        device: where to train; by default the fastest device available.

    Raises:
        InvalidSetting: the config or the data is invalid, or the model is of a kind that can't be fine-tuned.
        ModelNotFound: there is no such model.
        ModelError: the model can't be read.
    """
    select_device(device)
    data = read_vlm_data(config)
    loaded, _ = load_model(config)
    generator = TransformersGenerator(loaded, "cpu")
    reasons: dict[str, str] = {}
    batch = None
    for example in data.training:
        batch = BatchEncoder(generator, config.data, reasons.__setitem__)([example])
        if batch is not None:
            break
    if batch is None:
        name, reason = next(iter(reasons.items()))
        raise InvalidSetting(f"{config.data.train}: none of its pictures can be used; {name}: {reason}")
    parameters = sum(weight.numel() for weight in loaded.module.parameters())
    adapted = add_adapters(loaded.module, config.lora, config.train.projector)
    return {
        "model": loaded.model_type,
        "pictures": len({each.path for each in data.training}),
        "captions": sum(each.question is None for each in data.training),
        "questions": sum(each.question is not None for each in data.training),
        "texts to evaluate on": len(data.validation),
        "steps": data.steps,
        "batch": config.train.batch,
        "tokens of the first text": f"{batch.labels.shape[1]}, of which {batch.targets} are learned",
        "parameters": parameters,
        "trained": sum(weight.numel() for weight in trained_parameters(adapted).values()),
        "projector": ", ".join(projector_names(loaded.module)) if config.train.projector else "frozen",
    }
