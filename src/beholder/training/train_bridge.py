"""Trains a bridge between two frozen models, from top to bottom: texts, models, features, two stages, result.

    OUT/config.json                    the settings, which a resumed training must repeat
    OUT/stage-1.jsonl, stage-2.jsonl   losses every few steps, and the validation loss
    OUT/stage-1.pt, stage-2.pt         checkpoints from which the same call resumes; the ones before them beside them
    OUT/broken.jsonl                   images that could not be used
    OUT/features/                      the frozen tower's features of each image, computed once
    OUT/model/                         the result, for `VisionLanguageModel.from_pretrained`

Shapes: B images, V views of each, N tokens of an image, Di their width.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beholder import files
from beholder.errors import InvalidSetting
from beholder.models.bridge import Bridge
from beholder.runtime.device import select_device
from beholder.training.bridge_config import BridgeConfig
from beholder.training.bridge_data import read_bridge_data, tokenize_texts
from beholder.training.bridge_features import FeatureFiles, compute_features
from beholder.training.bridge_parts import check_sizes, load_language_model, load_text_encoder, load_vision_tower
from beholder.training.bridge_stages import Pair, StageConfig, run_stage, sample_images, stage_1_losses, stage_2_loss
from beholder.training.checkpoints import load_checkpoint
from beholder.training.config_file import flatten
from beholder.training.interruption import Interruption
from beholder.training.metrics_logger import MetricsLogger, Row
from beholder.training.run_folder import Progress, check_resumable
from beholder.training.skipped_examples import SkippedExamples
from beholder.weights import mini_bridge
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.native_vision_language import save_vision_language

REPORT_EVERY = 10


def train_bridge(
    config: BridgeConfig,
    out: Path,
    report: Callable[[Row], None] = lambda _: None,
    *,
    device: str | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train a bridge in one process. After an interruption, the same call resumes; stage 2 can be given more steps.

    Args:
        config: what to train, and how; it must name data.
        out: the folder of all results.
        report: called with each line of the log.
        device: where to train; by default the fastest device available.
        tensorboard: write event files for TensorBoard, too, into ``out/tensorboard``.

    Returns:
        The folder of the model, for `VisionLanguageModel.from_pretrained`.

    Raises:
        InvalidSetting: the config is invalid, its sizes do not fit the frozen models, or ``out`` holds a training with
            another one.
        ModelError: a checkpoint is damaged; the message says how to resume from the one before.
        Interrupted: SIGTERM or Ctrl-C; a checkpoint has been saved. A second Ctrl-C raises KeyboardInterrupt at once.
    """
    # Texts
    data, training, validation = read_bridge_data(config)
    place = select_device(device)
    out.mkdir(parents=True, exist_ok=True)
    _check_resumable(config, out)

    # The frozen models, and the bridge between them
    tower, preprocessing = load_vision_tower(config.vision)
    language, language_tokenizer = load_language_model(config)
    tokenizer, text_encoder = load_text_encoder(config)
    check_sizes(config, tower, preprocessing, language, tokenizer, text_encoder)
    torch.manual_seed(config.stage_1.seed)
    bridge = Bridge(config.bridge)
    if config.initialize_from_text and text_encoder is not None:
        mini_bridge.initialize_from_bert(bridge, text_encoder)
    bridge.to(place)
    language.to(place)

    # Features of every view, computed once
    skipped = SkippedExamples(out / "broken.jsonl")
    paths = list(dict.fromkeys(each.path for each in (*training, *validation)))
    usable = compute_features(tower, preprocessing, paths, data.views, out / "features", place, skipped, report)
    training = [each for each in training if each.path in usable]
    validation = [each for each in validation if each.path in usable]
    captioned = [each for each in training if each.captions]
    features = FeatureFiles([usable[each.path] for each in training])
    captioned_features = FeatureFiles([usable[each.path] for each in captioned])
    validation_features = FeatureFiles([usable[each.path] for each in validation])
    if not training or (config.stage_1.steps and len(captioned) < 2):
        raise InvalidSetting(
            f"{data.train}: too few pictures with texts could be used; {skipped.path} names the others"
        )

    prompts = config.prompts or mini_bridge.PROMPTS
    pairs = [tokenize_texts(each, prompts, language_tokenizer, language, data) for each in training]
    validation_pairs = [
        tokenize_texts(each, prompts, language_tokenizer, language, data)[: data.texts] for each in validation
    ]
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=config.precision == "bfloat16")

    def stage_1(generator: torch.Generator) -> dict[str, Tensor]:
        rows, image = sample_images(captioned_features, config.stage_1.batch, generator)
        tokens = tokenizer([_sample_text(captioned[row].captions, generator) for row in rows])
        ids, mask = torch.from_numpy(tokens.ids).to(place), torch.from_numpy(tokens.mask).to(place)
        with autocast:
            return stage_1_losses(bridge, image.to(place), ids, mask, torch.tensor(rows, device=place), generator)

    def stage_2(generator: torch.Generator) -> dict[str, Tensor]:
        rows, image = sample_images(features, config.stage_2.batch, generator)
        texts = [_sample_pairs(pairs[row], data.texts, generator) for row in rows]
        with autocast:
            return {"language": stage_2_loss(bridge, language, image.to(place), texts, per_text=True)}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        """Return the validation loss with each image's own texts (``kept_back``) and another's (``exchanged``)."""
        bridge.eval()
        losses: dict[str, list[float]] = {"kept_back": [], "exchanged": []}
        for start in range(0, len(validation), config.stage_2.batch):
            rows = range(start, min(start + config.stage_2.batch, len(validation)))
            for name, shift in (("kept_back", 0), ("exchanged", 1)):
                image = np.stack([validation_features[(row + shift) % len(validation)][0] for row in rows])
                texts = [validation_pairs[row] for row in rows]
                tokens = torch.from_numpy(image.astype(np.float32)).to(place)
                with autocast:
                    losses[name].append(float(stage_2_loss(bridge, language, tokens, texts, per_text=True)))
        bridge.train()
        return {name: float(np.mean(values)) for name, values in losses.items()}

    # The two stages
    with Interruption() as interruption:
        for number, (settings, losses) in enumerate(((config.stage_1, stage_1), (config.stage_2, stage_2)), start=1):
            if not settings.steps:
                continue
            checkpoint = out / f"stage-{number}.pt"
            saved = load_checkpoint(checkpoint)
            done = 0 if saved is None else saved["step"]
            board = out / "tensorboard" / f"stage-{number}" if tensorboard else None
            log = MetricsLogger(out / f"stage-{number}.jsonl", done, board)
            validate = evaluate if number == 2 and validation else None
            line = _line_writer(log, report, number, settings, done, validate, data.evaluate_every)
            run_stage(bridge, settings, losses, checkpoint, line, lambda: interruption.number)
            log.close()

    # Result
    loaded = LoadedVisionLanguage(
        tower.cpu(),
        preprocessing,
        bridge.cpu(),
        language.cpu(),
        language_tokenizer,
        tokenizer,
        prompts,
        config.name,
        config.licence,
    )
    save_vision_language(loaded, out / "model")
    return out / "model"


def _sample_text(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (1,), generator=generator))]


def _sample_pairs(pairs: Sequence[Pair], count: int, generator: torch.Generator) -> list[Pair]:
    return [pairs[place] for place in torch.randperm(len(pairs), generator=generator)[:count].tolist()]


def _line_writer(
    log: MetricsLogger,
    report: Callable[[Row], None],
    stage: int,
    settings: StageConfig,
    done: int,
    evaluate: Callable[[], dict[str, float]] | None,
    evaluate_every: int,
) -> Callable[[int, dict[str, float]], None]:
    """Return a function that logs the losses every few steps and, less often, the validation loss."""
    started = time.monotonic()

    def write(step: int, losses: dict[str, float]) -> None:
        last = step == settings.steps
        evaluating = evaluate is not None and (last or step % evaluate_every == 0)
        if not (evaluating or last or step % REPORT_EVERY == 0):
            return
        left = (time.monotonic() - started) / (step - done) * (settings.steps - step)
        row: Row = {"stage": stage, "step": step, "steps": settings.steps, "loss": sum(losses.values()), **losses}
        row["seconds_left"] = round(left)
        if evaluating and evaluate is not None:
            row |= evaluate()
        log.write(row)
        report(row)

    return write


def _check_resumable(config: BridgeConfig, out: Path) -> None:
    """Refuse a folder that holds the training of another config, but for more steps after it has finished.

    Raises:
        InvalidSetting: it does.
    """
    settings = flatten(config)
    file = out / "config.json"
    if file.exists():
        before: dict[str, Any] = {}
        with suppress(ValueError):
            before = json.loads(file.read_text("utf-8"))
        stage = 2 if config.stage_2.steps and (out / "stage-2.pt").exists() else 1
        saved = load_checkpoint(out / f"stage-{stage}.pt")
        steps = f"stage_{stage}.steps"
        progress = None if saved is None else Progress(saved["step"], before.get(steps))
        check_resumable(out, before, settings, progress, settings[steps], [steps])
    files.write_text(file, json.dumps(settings, indent=2) + "\n")


def summarize(config: BridgeConfig, device: str | None = None) -> dict[str, Any]:
    """Check a config and its data, without training, and return what would be trained.

    Args:
        config: what to train, and how.
        device: where to train; by default the fastest device available.

    Raises:
        InvalidSetting: the config or the data is invalid, or the device can't be used.
    """
    select_device(device)
    data, training, validation = read_bridge_data(config)
    tower, preprocessing = load_vision_tower(config.vision)
    language, language_tokenizer = load_language_model(config)
    tokenizer, text_encoder = load_text_encoder(config)
    check_sizes(config, tower, preprocessing, language, tokenizer, text_encoder)
    bridge = Bridge(config.bridge)
    if text_encoder is not None:
        mini_bridge.initialize_from_bert(bridge, text_encoder)
    for each in training:
        tokenize_texts(each, config.prompts or mini_bridge.PROMPTS, language_tokenizer, language, data)
    return {
        "pictures": len(training),
        "captions": sum(len(each.captions) for each in training),
        "questions": sum(len(each.questions) for each in training),
        "pictures to evaluate on": len(validation),
        "steps": f"{config.stage_1.steps} and {config.stage_2.steps}",
        "picture tower": sum(weight.numel() for weight in tower.parameters()),
        "bridge": sum(weight.numel() for weight in bridge.parameters()),
        "language model": sum(weight.numel() for weight in language.parameters()),
    }
