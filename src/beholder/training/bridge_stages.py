"""The two stages that train a bridge on features of a frozen picture tower, kept beforehand.

Shapes: B pictures, N tokens of a picture, Di their width, Q queries, T text tokens, L all of a row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from beholder.errors import InvalidSetting, NotFinite
from beholder.models.bridge import Bridge
from beholder.models.language_model import CausalLanguageModel, EncoderDecoderLanguageModel, LanguageModel
from beholder.training.bridge_losses import (
    IGNORED,
    hard_negatives,
    itc_loss,
    itm_loss,
    language_modeling_loss,
    pair_similarity,
    text_loss,
)
from beholder.training.checkpoints import write_checkpoint
from beholder.training.interruption import Interrupted
from beholder.training.optimization import cosine_schedule

Pair = tuple[list[int], list[int]]  # tokens of a prompt and of the answer to it


@dataclass(frozen=True)
class StageConfig:
    """How a stage is trained; the learning rate warms up and then falls along half a cosine.

    Attributes:
        batch: pictures of a step.
        min_lr_ratio: where the learning rate ends, as a share of its peak.
        warmup: share of the steps in which it rises.
        max_grad_norm: largest norm of the gradient.
        ema_decay: share of the averaged weights that a step leaves as they are; the stage ends with the averages.
            Without it, with the weights of the last step.
        save_every: steps between two checkpoints.
    """

    steps: int
    batch: int = 32
    learning_rate: float = 5e-4
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.05
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("save_every", 1), ("weight_decay", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InvalidSetting(f"{name} {getattr(self, name)} must be at least {least}")
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise InvalidSetting(
                f"learning_rate {self.learning_rate} and max_grad_norm {self.max_grad_norm} must be more than 0"
            )
        if not all(0 <= share <= 1 for share in (self.min_lr_ratio, self.warmup, self.ema_decay or 0)):
            raise InvalidSetting("min_lr_ratio, warmup and ema_decay must be shares between 0 and 1")


def run_stage(
    bridge: Bridge,
    settings: StageConfig,
    step_loss: Callable[[torch.Generator], dict[str, Tensor]],
    checkpoint: Path,
    report: Callable[[int, dict[str, float]], None],
    stopped: Callable[[], int] = lambda: 0,
) -> None:
    """Trains the bridge's weights; interrupted, it goes on from ``checkpoint``.

    Args:
        bridge: what is trained; what it does not require gradients for stays.
        settings: the schedule.
        step_loss: one batch's losses by name, drawn with the generator; their sum is minimised.
        checkpoint: a file, replaced as a whole every so often.
        report: called with the step and the losses.
        stopped: the number of a signal that asks to stop, or 0; asked behind every step.

    Raises:
        Interrupted: it was asked to stop; what was learned is in the checkpoint.
        NotFinite: the loss is no number any more.
        WriteFailed: the checkpoint can't be written; the one before stays.
    """
    trained = [(name, weight) for name, weight in bridge.named_parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for _, w in trained if w.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [w for _, w in trained if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    averages = None
    if settings.ema_decay is not None:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(settings.ema_decay)
        averages = torch.optim.swa_utils.AveragedModel(bridge, multi_avg_fn=average)
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        bridge.load_state_dict(saved["bridge"])
        optimizer.load_state_dict(saved["optimizer"])
        if averages is not None:
            averages.load_state_dict(saved["averages"])
        generator.set_state(saved["generator"])
        torch.set_rng_state(saved["dropout"])
        done = saved["step"]
    bridge.train()
    for step in range(done, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * cosine_schedule(
                step / settings.steps, settings.warmup, settings.min_lr_ratio
            )
        losses = step_loss(generator)
        lost = torch.stack(list(losses.values())).sum()
        if not lost.isfinite():
            raise NotFinite(f"step {step + 1}: the loss is {float(lost.detach())}; a lower learning_rate may help")
        optimizer.zero_grad()
        lost.backward()
        torch.nn.utils.clip_grad_norm_([weight for _, weight in trained], settings.max_grad_norm)
        optimizer.step()
        if averages is not None:
            averages.update_parameters(bridge)
        report(step + 1, {name: float(loss.detach()) for name, loss in losses.items()})
        number = stopped()
        last = step + 1 == settings.steps
        if number or last or (step + 1) % settings.save_every == 0:
            state = {
                "bridge": bridge.state_dict(),
                "optimizer": optimizer.state_dict(),
                "averages": None if averages is None else averages.state_dict(),
                "generator": generator.get_state(),
                "dropout": torch.get_rng_state(),
                "step": step + 1,
            }
            write_checkpoint(checkpoint, state)
        if number and not last:
            raise Interrupted(
                f"stopped behind step {step + 1} of {settings.steps}; the same call goes on from there", number
            )
    if averages is not None:
        bridge.load_state_dict(averages.module.state_dict())
    bridge.eval()


def sample_images(features: Sequence[np.ndarray], count: int, generator: torch.Generator) -> tuple[list[int], Tensor]:
    """Different pictures among features (V, N, Di) of each, a view of every one: their rows, and (count, N, Di)."""
    chosen = torch.randperm(len(features), generator=generator)[:count].tolist()
    views = torch.randint(len(features[0]), (count,), generator=generator).tolist()
    image = np.stack([features[row][view] for row, view in zip(chosen, views, strict=True)])
    return chosen, torch.from_numpy(image.astype(np.float32))


def patch_dropout(image: Tensor, share: float, generator: torch.Generator, whole: int = 0) -> Tensor:
    """Of picture tokens (B, N, Di) the same random ``share`` of every row: a bridge should not lean on any of them.

    The first ``whole`` of them, which stand for the whole picture, stay where they are and are not counted.
    """
    parts = image.shape[1] - whole
    kept = torch.randperm(parts, generator=generator)[: round(share * parts)]
    return torch.cat([image[:, :whole], image[:, whole:][:, kept]], 1)


def stage_1_losses(
    bridge: Bridge, image: Tensor, ids: Tensor, mask: Tensor, pictures: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Contrast, matching and generation of one batch.

    Args:
        bridge: with the heads of stage 1.
        image: frozen picture tokens (B, N, Di).
        ids: a text of each (B, T), its first token standing for the whole.
        mask: (B, T).
        pictures: (B,), which picture each is, so that another text of the same one is no negative.
        generator: draws the hard negatives.
    """
    scale = bridge.logit_scale.clamp(max=math.log(100))  # type: ignore[union-attr]
    similarity = pair_similarity(bridge.image_features(image), bridge.text_features(ids, mask))
    same = pictures[:, None] == pictures[None, :]
    text = hard_negatives(similarity, scale, same, generator)
    other = hard_negatives(similarity.T, scale, same, generator)
    logits = bridge.match(
        torch.cat([image, image, image[other]]), torch.cat([ids, ids[text], ids]), torch.cat([mask, mask[text], mask])
    )
    fits = torch.arange(len(logits), device=logits.device) < len(image)
    targets = ids.masked_fill(~mask, IGNORED)[:, 1:]
    return {
        "contrast": itc_loss(similarity, scale, same),
        "matching": itm_loss(logits, fits),
        "generation": language_modeling_loss(
            bridge.generation_logits(image, ids, mask)[:, :-1], targets, smoothing=0.1
        ),
    }


def pack(rows: Sequence[Sequence[Pair]], queries: int) -> tuple[Tensor, ...]:
    """Several texts of one picture in one row: each sees the picture and itself, as if it stood alone behind it.

    Args:
        rows: for each picture its texts, each a prompt of at least one token and an answer.
        queries: soft prompts in front.

    Returns:
        ids (B, T), targets (B, T), allowed (B, 1, L, L), positions (B, L) and the number of the text that each target
        belongs to (B, T), with L = queries + T.
    """
    longest = max(sum(len(prompt) + len(answer) - 1 for prompt, answer in row) for row in rows)
    length = queries + longest
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORED)
    text_of = torch.full((len(rows), length), -1)
    text_of[:, :queries] = 0  # the picture
    positions = torch.arange(length).repeat(len(rows), 1)
    owner = torch.zeros(len(rows), longest, dtype=torch.long)
    count = 0
    for number, row in enumerate(rows):
        start = 0
        for place, (prompt, answer) in enumerate(row):
            both = torch.tensor(prompt + answer)
            end = start + len(both) - 1
            ids[number, start:end] = both[:-1]
            targets[number, start + len(prompt) - 1 : end] = both[len(prompt) :]
            owner[number, start:end] = count
            count += 1
            text_of[number, queries + start : queries + end] = place + 1
            positions[number, queries + start : queries + end] = torch.arange(queries, queries + end - start)
            start = end
    same = text_of[:, :, None] == text_of[:, None, :]
    allowed = (same | (text_of[:, None, :] == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    return ids, targets, allowed[:, None], positions, owner


def stage_2_loss(
    bridge: Bridge,
    language: LanguageModel,
    image: Tensor,
    rows: Sequence[Sequence[Pair]],
    *,
    per_text: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Language-modelling loss of the answers behind the picture's soft prompts (arXiv:2301.12597, section 3.3).

    A causal model reads picture, prompt and answer in one go. An encoder-decoder's encoder reads picture and prompt,
    and its decoder learns the answer (``prefix_split`` makes such a pair of a caption).

    Args:
        bridge: with the layer to the language model.
        language: frozen.
        image: picture tokens (B, N, Di).
        rows: for each picture its texts, each a prompt of at least one token and an answer.
        per_text: every text counts the same, so that short answers are not drowned by long ones; otherwise every word.
        weights: of each text, row by row; a negative one makes a text less likely.
    """
    return prompted_loss(language, bridge.soft_prompts(image), rows, per_text=per_text, weights=weights)


def prompted_loss(
    language: LanguageModel,
    prompts: Tensor,
    rows: Sequence[Sequence[Pair]],
    *,
    per_text: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """`stage_2_loss` behind soft prompts (B, Q, D) that are there already."""
    by_text = per_text or weights is not None
    if isinstance(language, EncoderDecoderLanguageModel):
        return _encoder_decoder_loss(language, prompts, rows, by_text, weights)
    if not isinstance(language, CausalLanguageModel):
        raise InvalidSetting(f"{type(language).__name__} is neither a causal nor an encoder-decoder model")
    packed = pack(rows, prompts.shape[1])
    ids, targets, allowed, positions, owner = (tensor.to(prompts.device) for tensor in packed)
    words = language.embed(ids)
    hidden = language.hidden_states(torch.cat([prompts.to(words.dtype), words], 1), allowed, positions)
    learned = targets != IGNORED
    logits = language.lm_head(hidden[:, prompts.shape[1] :][learned]).float()
    return text_loss(logits, targets[learned], owner[learned] if by_text else None, weights)


def _encoder_decoder_loss(
    language: EncoderDecoderLanguageModel,
    prompts: Tensor,
    rows: Sequence[Sequence[Pair]],
    by_text: bool,
    weights: Tensor | None,
) -> Tensor:
    pairs = [(row, pair) for row, several in enumerate(rows) for pair in several]
    longest = max(len(prompt) for _, (prompt, _) in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    there = torch.zeros(len(pairs), longest, dtype=torch.bool)
    targets = torch.full((len(pairs), max(len(answer) for _, (_, answer) in pairs)), IGNORED)
    for number, (_, (prompt, answer)) in enumerate(pairs):
        ids[number, : len(prompt)], there[number, : len(prompt)] = torch.tensor(prompt), True
        targets[number, : len(answer)] = torch.tensor(answer)
    ids, there, targets = (tensor.to(prompts.device) for tensor in (ids, there, targets))
    words = language.embed(ids)
    seen = prompts[[row for row, _ in pairs]].to(words.dtype)
    mask = torch.cat([torch.ones(seen.shape[:2], dtype=torch.bool, device=prompts.device), there], 1)
    logits = language.loss_logits(torch.cat([seen, words], 1), mask, targets).float()
    learned = targets != IGNORED
    return text_loss(logits[learned], targets[learned], learned.nonzero()[:, 0] if by_text else None, weights)


def prefix_split(ids: list[int], generator: torch.Generator) -> Pair:
    """A text of at least two tokens cut at a random place: what the encoder reads, and what the decoder writes."""
    place = int(torch.randint(1, len(ids), (1,), generator=generator))
    return ids[:place], ids[place:]
