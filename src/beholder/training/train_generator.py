"""Trains an image generator, from top to bottom: data, networks, optimizer, loop, evaluation, checkpoint, result.

    OUT/log.jsonl      every few steps: losses, learning rate, pictures per second; and each evaluation
    OUT/broken.jsonl   pictures that could not be used
    OUT/embeddings/    the pictures and their embeddings, computed once
    OUT/checkpoints/   from which the same call resumes, bit for bit on a CPU
    OUT/drawn/         what each evaluation drew of the captions
    OUT/best/          the model of the best evaluation
    OUT/model/         the model of the last step

All that is random in a step follows from the seed and the step's number. Shapes: B batch, S side of a picture, E the
shared space.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from beholder.errors import NotFinite
from beholder.evaluation.retrieval import recall
from beholder.files import atomic_file
from beholder.models.rectified_flow import interpolate, logit_normal_times
from beholder.models.unclip import Unclip
from beholder.pictures.drawn import contact_sheet, to_pictures
from beholder.runtime.allocator import keep_freed_memory
from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder
from beholder.runtime.device import select_device
from beholder.tasks.dual_encoder import DualEncoder
from beholder.training.checkpoints import load_newest, save_checkpoint
from beholder.training.compiler import check_compiler
from beholder.training.config_file import flatten
from beholder.training.examples import Example, read_examples
from beholder.training.flow_losses import flow_matching_loss
from beholder.training.generator_config import GeneratorConfig, GeneratorTrainingConfig, network_settings
from beholder.training.generator_data import GeneratorData, prepare_data
from beholder.training.interruption import Interrupted, Interruption
from beholder.training.metrics_logger import MetricsLogger, Row
from beholder.training.optimization import ExponentialMovingAverage, adamw, cosine_schedule, muon, set_learning_rate
from beholder.training.run_folder import Progress, check_resumable
from beholder.training.samplers import step_seed
from beholder.training.skipped_examples import SkippedExamples
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native_generator import MINI, LoadedImageGenerator, save_image_generator

TEMPLATES = ("{}",)  # of class names
DURATION = ("train.steps",)
UNRELATED = {
    f"train.{name}" for name in ("save_every", "keep", "evaluate_every", "evaluate_on", "report_every", "compile")
}
EVALUATION_STEPS = 25
EVALUATION_GUIDANCE = 3.0
PRIOR_GUIDANCE = 2.0
EVALUATION_BATCH = 20
COLUMNS = 10  # of the sheet that an evaluation draws


def train_generator(
    config: GeneratorConfig,
    out: Path,
    report: Callable[[Row], None] = lambda _: None,
    *,
    device: str | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train an image generator in one process. After an interruption, the same call resumes; more steps continue.

    Args:
        config: what to train, and how.
        out: the folder of all results.
        report: called with each line of the log.
        device: where to train; by default the fastest device available.
        tensorboard: write event files for TensorBoard, too, into ``out/tensorboard``.

    Returns:
        The folder of the model, for `ImageGenerator.from_pretrained`.

    Raises:
        InvalidSetting: the config is invalid, ``out`` holds a training with another one, or torch can't compile what
            the config wants compiled.
        ModelError: the newest checkpoint is damaged; the message names the one before it.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint has been saved. A second Ctrl-C raises KeyboardInterrupt at once.
        NotFinite: the loss is not finite.
        WriteFailed: a checkpoint can't be written; earlier ones stay.
    """
    train = config.train
    place = select_device(device)
    keep_freed_memory()
    if train.compile:
        check_compiler(place)

    # Data
    examples, validation = read_data(config)
    out.mkdir(parents=True, exist_ok=True)
    saved = load_newest(out / "checkpoints")
    if saved is not None:
        progress = Progress(saved["step"], saved["steps"])
        check_resumable(out, saved["config"], _settings(config, examples), progress, train.steps, DURATION)
    encoder = DualEncoder.from_pretrained(config.model.encoder)
    embedding = encoder.network.settings.embedding
    settings = network_settings(config, embedding)
    skipped = SkippedExamples(out / "broken.jsonl")
    size = settings.decoder.image_size
    data = prepare_data(examples, encoder, size, out / "embeddings", skipped, report)

    # Networks
    torch.manual_seed(train.seed)
    network = Unclip(settings)
    network.images.fit(torch.from_numpy(data.images))
    network.sentences.fit(torch.from_numpy(data.sentences))
    network.to(place)
    if train.compile:
        network.decoder.compile()

    # Optimizer
    trained = dict(network.named_parameters())
    optimizers = build_optimizers(trained, train)
    ema = ExponentialMovingAverage(trained, train.ema_decay, warmup=True)

    # Resume
    done, best = 0, -math.inf
    if saved is not None:
        done, best = saved["step"], saved["best"]
        network.load_state_dict(saved["weights"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        ema.load(saved["ema"], done)
    log = MetricsLogger(out / "log.jsonl", done, out / "tensorboard" if tensorboard else None)

    def write(row: Row) -> None:
        log.write(row)
        report(row)

    def averaged() -> Unclip:
        result = deepcopy(network).eval()
        result.load_state_dict({**network.state_dict(), **ema.weights})
        return result

    def save(result: Unclip, folder: Path) -> None:
        source = MINI if config.model.encoder == MINI else loaded_encoder(encoder)
        save_image_generator(LoadedImageGenerator(result, source, config.model.name, config.model.licence), folder)

    def checkpoint(step: int) -> None:
        state = {
            "step": step,
            "steps": train.steps,
            "best": best,
            "config": _settings(config, examples),
            "weights": network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "ema": ema.weights,
        }
        save_checkpoint(out / "checkpoints", step, state, train.keep)

    def evaluate(step: int) -> None:
        nonlocal best
        if not validation:
            return
        captions = [example.texts[0] for example in validation[: train.evaluate_on]]
        result = averaged()
        with torch.autocast(place.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
            pictures = draw_captions(result, encoder, captions, place, train.seed)
        (out / "drawn").mkdir(exist_ok=True)
        with atomic_file(out / "drawn" / f"step-{step:08d}.png") as scratch:
            contact_sheet(pictures, COLUMNS).save(scratch)
        found = recall(encoder.embed_images(pictures), encoder.embed_texts(captions), np.arange(len(captions)))
        write({"step": step, **found})
        if found["image_to_text@1"] > best:
            best = found["image_to_text@1"]
            save(result, out / "best")

    # Loop
    started, reported, pictures = time.monotonic(), time.monotonic(), 0
    network.train()
    with Interruption() as interruption:
        for step in range(done + 1, train.steps + 1):
            only_map = step <= train.map_steps
            rate = learning_rate(step, train)
            for optimizer in optimizers:
                set_learning_rate(optimizer, rate)
                optimizer.zero_grad()
            torch.manual_seed(step_seed(train.seed, step))  # dropout
            generator = torch.Generator().manual_seed(step_seed(train.seed, step))
            with torch.autocast(place.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
                decoder_loss = decoder_step(network, data, train, generator, place, only_map=only_map)
                prior_loss = prior_step(network, data, train, generator, place)
            (decoder_loss + prior_loss).backward()
            # The two networks share no weights, so neither's gradient should make the other's smaller.
            norm = nn.utils.clip_grad_norm_(network.decoder.parameters(), train.max_grad_norm)
            nn.utils.clip_grad_norm_(network.prior.parameters(), train.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
            ema.update(trained)
            pictures += train.batch

            stopped, last = bool(interruption.number), step == train.steps
            saving = stopped or last or step % train.save_every == 0
            if saving or step % train.report_every == 0:
                losses = {
                    "map" if only_map else "decoder": float(decoder_loss.detach()),
                    "prior": float(prior_loss.detach()),
                }
                if not (math.isfinite(sum(losses.values())) and math.isfinite(float(norm))):
                    raise NotFinite(
                        f"step {step}: the losses are {losses} and the decoder's gradient {float(norm)}; a lower "
                        f"learning_rate or more warmup may help. {out / 'checkpoints'} holds the state before"
                    )
            if step % train.report_every == 0 or last:
                now = time.monotonic()
                row = {
                    "step": step,
                    "steps": train.steps,
                    "loss": sum(losses.values()),
                    **losses,
                    "rate": rate,
                    "gradient": float(norm),
                    "broken": len(skipped.names),
                    "pairs_per_second": round(pictures / max(now - reported, 1e-9), 1),
                    "seconds_left": round((now - started) / (step - done) * (train.steps - step)),
                }
                write(row)
                reported, pictures = now, 0
            if last or (train.evaluate_every and step % train.evaluate_every == 0 and not only_map):
                evaluate(step)
            if saving:
                checkpoint(step)
            if stopped and not last:
                log.close()
                raise Interrupted(
                    f"stopped after step {step} of {train.steps}; the same call resumes from there", interruption.number
                )

    # Result
    save(averaged(), out / "model")
    log.close()
    return out / "model"


def loaded_encoder(encoder: DualEncoder) -> LoadedDualEncoder:
    """Return a dual encoder as it can be saved."""
    loaded = encoder.loaded
    return loaded.loaded if isinstance(loaded, CompiledDualEncoder) else loaded


def build_optimizers(
    trained: Mapping[str, nn.Parameter], train: GeneratorTrainingConfig
) -> list[torch.optim.Optimizer]:
    """Return AdamW for all weights, or for those that Muon does not train, and Muon."""
    hidden = {name for name, weight in trained.items() if train.muon_lr_scale and is_hidden_matrix(name, weight)}
    others = [(name, weight) for name, weight in trained.items() if name not in hidden]
    optimizers: list[torch.optim.Optimizer] = [adamw(others, train.learning_rate, train.weight_decay)]
    if hidden:
        matrices = [trained[name] for name in sorted(hidden)]
        optimizers.append(muon(matrices, train.learning_rate, train.weight_decay, train.muon_lr_scale))
    return optimizers


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether a parameter of `Unclip` is a matrix between hidden layers of the decoder, for which Muon is made."""
    inside = name.startswith(("decoder.blocks.", "decoder.hourglass."))
    return inside and weight.ndim == 2 and ".modulation." not in name


def learning_rate(step: int, train: GeneratorTrainingConfig) -> float:
    """Return the rate of a step: the schedule runs once over the steps of the map and once over all others."""
    first, last = (0, train.map_steps) if step <= train.map_steps else (train.map_steps, train.steps)
    progress = (step - 1 - first) / (last - first)
    return train.learning_rate * cosine_schedule(progress, train.warmup, train.min_lr_ratio)


def decoder_step(
    network: Unclip,
    data: GeneratorData,
    train: GeneratorTrainingConfig,
    generator: torch.Generator,
    place: torch.device,
    *,
    only_map: bool = False,
) -> Tensor:
    """Return the decoder's loss on a batch of pictures, or that of its map alone."""
    rows = torch.randint(len(data), (train.batch,), generator=generator).numpy()
    pixels = torch.from_numpy(data.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    images = network.images(torch.from_numpy(data.images[rows]).to(place))
    strength = train.embedding_noise * torch.rand(train.batch, 1, generator=generator)
    images = images + (strength * torch.randn(images.shape, generator=generator)).to(place)
    if only_map and network.decoder.map is not None:
        return nn.functional.mse_loss(network.decoder.map.picture(images).float(), pixels.to(place))
    return _flow_step(network.decoder, pixels, images, train, generator, place)


def prior_step(
    network: Unclip,
    data: GeneratorData,
    train: GeneratorTrainingConfig,
    generator: torch.Generator,
    place: torch.device,
) -> Tensor:
    """Return the prior's loss on a batch of captions and their pictures' embeddings."""
    rows = torch.randint(len(data), (train.prior_batch,), generator=generator).tolist()
    draws = torch.rand(train.prior_batch, generator=generator).tolist()
    texts = [data.captions[row][int(draw * len(data.captions[row]))] for row, draw in zip(rows, draws, strict=True)]
    images = network.images(torch.from_numpy(data.images[rows]).to(place)).cpu()
    sentences = network.sentences(torch.from_numpy(data.sentences[texts]).to(place))
    return _flow_step(network.prior, images, sentences, train, generator, place)


def _flow_step(
    predict: nn.Module,
    data: Tensor,
    condition: Tensor,
    train: GeneratorTrainingConfig,
    generator: torch.Generator,
    place: torch.device,
) -> Tensor:
    times = logit_normal_times(len(data), train.time_mean, train.time_std, generator)
    noise = torch.randn(data.shape, generator=generator)
    dropped = torch.rand(len(data), generator=generator) < train.condition_dropout
    data, times, noise, dropped = (part.to(place) for part in (data, times, noise, dropped))
    sample = interpolate(data, noise, times)
    return flow_matching_loss(predict(sample, times, condition, dropped).float(), data, sample, times)


@torch.inference_mode()
def draw_captions(
    network: Unclip, encoder: DualEncoder, captions: Sequence[str], place: torch.device, seed: int
) -> list[Image.Image]:
    """Draw a picture of each caption."""
    settings = network.settings.decoder
    sentences = torch.from_numpy(encoder.embed_texts(list(captions))).to(place)
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Image.Image] = []
    for part in sentences.split(EVALUATION_BATCH):
        start = torch.randn(part.shape, generator=generator).to(place)
        noise = torch.randn(len(part), 3, settings.image_size, settings.image_size, generator=generator).to(place)
        images = network.imagine(part, start, EVALUATION_STEPS, PRIOR_GUIDANCE)
        drawn += to_pictures(network.draw(images, noise, EVALUATION_STEPS, EVALUATION_GUIDANCE))
    return drawn


def read_data(config: GeneratorConfig) -> tuple[list[Example], list[Example]]:
    """Return the examples to train on, and those whose captions are drawn in an evaluation.

    Raises:
        InvalidSetting: there are none, or a file can't be read.
    """
    examples = read_examples(Path(config.data.train), config.data.columns, TEMPLATES)
    validation: list[Example] = []
    if config.data.evaluate:
        validation = read_examples(Path(config.data.evaluate), config.data.columns, TEMPLATES)
    return examples, validation


def _settings(config: GeneratorConfig, examples: Sequence[Example]) -> dict[str, Any]:
    """Return what must not change when a training is resumed, by dotted names."""
    settings = {name: value for name, value in flatten(config).items() if name not in UNRELATED}
    return {"number of pictures": len(examples), **settings}


def summarize(config: GeneratorConfig, device: str | None = None) -> dict[str, Any]:
    """Check a config and its data, without training, and return what would be trained.

    Args:
        config: what to train, and how.
        device: where to train; by default the fastest device available.

    Raises:
        InvalidSetting: the config or the data is invalid, or torch can't compile what the config wants compiled.
    """
    if config.train.compile:
        check_compiler(select_device(device))
    examples, validation = read_data(config)
    embedding = DualEncoder.from_pretrained(config.model.encoder).network.settings.embedding
    network = Unclip(network_settings(config, embedding))
    return {
        "pictures": len(examples),
        "captions to draw": len(validation),
        "steps": config.train.steps,
        "batch": config.train.batch,
        "decoder": sum(weight.numel() for weight in network.decoder.parameters()),
        "prior": sum(weight.numel() for weight in network.prior.parameters()),
        "embedding": embedding,
    }
