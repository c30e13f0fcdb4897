"""The two stages that train a bridge, on precomputed features of a frozen image tower.

Shapes: B images, N tokens of an image, Di their width, Q queries, T text tokens, L all tokens of a row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from beholder.training.checkpoints import load_checkpoint, replace_checkpoint
from beholder.training.interruption import Interrupted
from beholder.training.optimization import ExponentialMovingAverage, adamw, cosine_schedule, set_learning_rate

Pair = tuple[list[int], list[int]]  # ids of a prompt, and of the target that follows


@dataclass(frozen=True)
class StageConfig:
    """Hyperparameters of a stage; the learning rate follows a linear warmup and half a cosine.

    Attributes:
        steps: number of them; 0 skips the stage.
        batch: images per step.
        learning_rate: at its peak.
        min_lr_ratio: the last learning rate, as a share of the peak.
        warmup: share of the steps in which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm.
        ema_decay: of an exponential moving average of the weights, which then is the result; by default
            the weights of the last step are.
        save_every: steps between checkpoints.
        lr_scales: factors of the learning rate by a part of a parameter's name, such as ``cross_attention``.
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
    lr_scales: dict[str, float] = field(default_factory=dict)

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
        if any(multiplier <= 0 for multiplier in self.lr_scales.values()):
            raise InvalidSetting("lr_scales must each be more than 0; freeze a parameter instead of 0")


def run_stage(
    bridge: Bridge,
    settings: StageConfig,
    step_loss: Callable[[torch.Generator], dict[str, Tensor]],
    checkpoint: Path,
    report: Callable[[int, dict[str, float]], None],
    stopped: Callable[[], int] = lambda: 0,
) -> None:
    """Train the bridge's weights. After an interruption, the same call resumes from ``checkpoint``.

    Args:
        bridge: to train, but for the parameters that require no gradients.
        settings: hyperparameters.
        step_loss: samples a batch with the generator and returns its losses by name; their sum is minimized.
        checkpoint: a file, replaced every few steps; the previous state is kept next to it.
        report: called with the step and the losses.
        stopped: returns the number of a signal that asks to stop, or 0; called after every step.

    Raises:
        Interrupted: by ``stopped``; a checkpoint has been saved.
        ModelError: the checkpoint is damaged.
        NotFinite: the loss is not finite.
        WriteFailed: the checkpoint can't be written; the one before stays.
    """
    trained = {name: weight for name, weight in bridge.named_parameters() if weight.requires_grad}
    optimizer = adamw(trained.items(), settings.learning_rate, settings.weight_decay, 1e-8, settings.lr_scales)
    ema = None if settings.ema_decay is None else ExponentialMovingAverage(trained, settings.ema_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    done = 0
    saved = load_checkpoint(checkpoint)
    if saved is not None:
        done = saved["step"]
        bridge.load_state_dict(saved["bridge"])
        optimizer.load_state_dict(saved["optimizer"])
        if ema is not None:
            ema.load(saved["ema"], done)
        generator.set_state(saved["generator"])
        torch.set_rng_state(saved["dropout"])
    bridge.train()
    for step in range(done + 1, settings.steps + 1):
        share = cosine_schedule((step - 1) / settings.steps, settings.warmup, settings.min_lr_ratio)
        set_learning_rate(optimizer, settings.learning_rate * share)
        losses = step_loss(generator)
        loss = torch.stack(list(losses.values())).sum()
        if not loss.isfinite():
            raise NotFinite(f"step {step}: the loss is {float(loss.detach())}; a lower learning_rate may help")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), settings.max_grad_norm)
        optimizer.step()
        if ema is not None:
            ema.update(trained)
        report(step, {name: float(value.detach()) for name, value in losses.items()})
        number = stopped()
        last = step == settings.steps
        if number or last or step % settings.save_every == 0:
            state = {
                "step": step,
                "bridge": bridge.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema and ema.weights,
                "generator": generator.get_state(),
                "dropout": torch.get_rng_state(),
            }
            replace_checkpoint(checkpoint, state)
        if number and not last:
            raise Interrupted(
                f"stopped after step {step} of {settings.steps}; the same call resumes from there", number
            )
    if ema is not None:
        bridge.load_state_dict(ema.weights, strict=False)
    bridge.eval()


def sample_images(features: Sequence[np.ndarray], count: int, generator: torch.Generator) -> tuple[list[int], Tensor]:
    """Sample distinct images, and a view of each, of their features (V, N, Di): their rows, and (count, N, Di)."""
    chosen = torch.randperm(len(features), generator=generator)[:count].tolist()
    views = torch.randint(len(features[0]), (count,), generator=generator).tolist()
    image = np.stack([features[row][view] for row, view in zip(chosen, views, strict=True)])
    return chosen, torch.from_numpy(image.astype(np.float32))


def patch_dropout(image: Tensor, share: float, generator: torch.Generator, whole: int = 0) -> tuple[Tensor, Tensor]:
    """Keep the same random ``share`` of image tokens (B, N, Di) in every row (arXiv:2212.00794).

    The first ``whole`` of them, which represent the whole image, are always kept and not counted.

    Returns:
        The kept tokens (B, M, Di) and their indices (M,).
    """
    parts = image.shape[1] - whole
    chosen = torch.randperm(parts, generator=generator)[: round(share * parts)]
    kept = torch.cat([torch.arange(whole), chosen + whole])
    return image[:, kept], kept


def stage_1_losses(
    bridge: Bridge,
    image: Tensor,
    ids: Tensor,
    mask: Tensor,
    pictures: Tensor,
    generator: torch.Generator,
    kept: Tensor | None = None,
) -> dict[str, Tensor]:
    """Contrastive, matching and generation losses of a batch.

    Args:
        bridge: with the heads of stage 1.
        image: frozen image tokens (B, N, Di).
        ids: a text of each (B, T), whose first token represents the whole.
        mask: (B, T).
        pictures: (B,), equal for the same image, whose other texts are not negatives.
        generator: samples the hard negatives.
        kept: (N,), indices of the image tokens if some were dropped (`patch_dropout`).
    """
    scale = bridge.logit_scale.clamp(max=math.log(100))  # type: ignore[union-attr]
    cache = bridge.cross_attention_cache(image, kept)
    similarity = pair_similarity(bridge.image_features(cache), bridge.text_features(ids, mask))
    same = pictures[:, None] == pictures[None, :]
    text = hard_negatives(similarity, scale, same, generator)
    other = hard_negatives(similarity.T, scale, same, generator)
    own = torch.arange(len(image), device=image.device)
    logits = bridge.match(
        cache.select(torch.cat([own, own, other])),
        torch.cat([ids, ids[text], ids]),
        torch.cat([mask, mask[text], mask]),
    )
    fits = torch.arange(len(logits), device=logits.device) < len(image)
    targets = ids.masked_fill(~mask, IGNORED)[:, 1:]
    return {
        "contrast": itc_loss(similarity, scale, same),
        "matching": itm_loss(logits, fits),
        "generation": language_modeling_loss(
            bridge.generation_logits(cache, ids, mask)[:, :-1], targets, smoothing=0.1
        ),
    }


@torch.no_grad()
def stage_1_metrics(bridge: Bridge, image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, float]:
    """Return how well each objective of stage 1 has been learned, on pairs of images and texts held out.

    Args:
        bridge: in evaluation mode, with the heads of stage 1.
        image: frozen image tokens (B, N, Di) of different images.
        ids, mask: a text of each (B, T).

    Returns:
        ``contrast_accuracy``: share of texts whose own image is the most similar of all; by chance 1 / B.
        ``matching_accuracy``: share of own pairs, and of pairs with the most similar other text, that the matching
        head tells apart from the other kind; by chance 0.5.
        ``generation``: cross-entropy of a token, and ``generation_exchanged`` with the next image in place of its own.
        ``query_similarity``: mean cosine of two queries' outputs for the same image, 1 if the queries have collapsed.
        ``image_similarity``: mean cosine of a query's outputs for two images, 1 if the queries ignore the image.
    """
    count = len(image)
    cache = bridge.cross_attention_cache(image)
    queries = bridge.queries(cache).float()
    similarity = pair_similarity(bridge.image_features(cache), bridge.text_features(ids, mask))
    own = torch.arange(count, device=image.device)
    hardest = similarity.masked_fill(torch.eye(count, dtype=torch.bool, device=image.device), -2).argmax(1)
    matched = [
        (bridge.match(cache, ids[rows], mask[rows]).argmax(-1) == int(rows is own)).float().mean()
        for rows in (own, hardest)
    ]
    targets = ids.masked_fill(~mask, IGNORED)[:, 1:]
    exchanged = cache.select(own.roll(1))
    generation, without = (
        language_modeling_loss(bridge.generation_logits(each, ids, mask)[:, :-1].float(), targets)
        for each in (cache, exchanged)
    )
    return {
        "contrast_accuracy": float((similarity.argmax(0) == own).float().mean()),
        "matching_accuracy": float(sum(matched) / 2),
        "generation": float(generation),
        "generation_exchanged": float(without),
        "query_similarity": _mean_cosine(queries),
        "image_similarity": _mean_cosine(queries.transpose(0, 1)),
    }


def _mean_cosine(vectors: Tensor) -> float:
    """Return the mean cosine of two different vectors of a group: (groups, n, D)."""
    normalized = torch.nn.functional.normalize(vectors, dim=-1)
    count = vectors.shape[1]
    total = normalized.sum(1).square().sum(-1)  # of all pairs, a vector's with itself included
    return float(((total - count) / (count * (count - 1))).mean()) if count > 1 else 1.0


def pack(rows: Sequence[Sequence[Pair]], queries: int) -> tuple[Tensor, ...]:
    """Pack the texts of an image into one row: each attends to the image and to itself, as if it were alone.

    Args:
        rows: the texts of each image, each a prompt of at least one token and a target.
        queries: number of soft prompts before them.

    Returns:
        ids (B, T), targets (B, T), attention mask (B, 1, L, L), positions (B, L) and the index of the text that each
        target belongs to (B, T), with L = queries + T.
    """
    longest = max(sum(len(prompt) + len(answer) - 1 for prompt, answer in row) for row in rows)
    length = queries + longest
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORED)
    text_of = torch.full((len(rows), length), -1)
    text_of[:, :queries] = 0  # the image
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
    """Language-modeling loss of the targets after the image's soft prompts (arXiv:2301.12597, section 3.3).

    A causal model reads image, prompt and target. The encoder of an encoder-decoder model reads image and prompt, and
    its decoder predicts the target.

    Args:
        bridge: with the layer to the language model.
        language: frozen.
        image: image tokens (B, N, Di).
        rows: the texts of each image, each a prompt of at least one token and a target.
        per_text: average over texts, so that long ones do not outweigh short answers; otherwise over tokens.
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
    """`stage_2_loss` after given soft prompts (B, Q, D)."""
    by_text = per_text or weights is not None
    if isinstance(language, EncoderDecoderLanguageModel):
        return _encoder_decoder_loss(language, prompts, rows, by_text, weights)
    if not isinstance(language, CausalLanguageModel):
        raise InvalidSetting(f"{type(language).__name__} is neither a causal nor an encoder-decoder model")
    packed = pack(rows, prompts.shape[1])
    ids, targets, allowed, positions, owner = (tensor.to(prompts.device) for tensor in packed)
    embeddings = language.embed(ids)
    hidden = language.hidden_states(torch.cat([prompts.to(embeddings.dtype), embeddings], 1), allowed, positions)
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
    prompt_mask = torch.zeros(len(pairs), longest, dtype=torch.bool)
    targets = torch.full((len(pairs), max(len(answer) for _, (_, answer) in pairs)), IGNORED)
    for number, (_, (prompt, answer)) in enumerate(pairs):
        ids[number, : len(prompt)], prompt_mask[number, : len(prompt)] = torch.tensor(prompt), True
        targets[number, : len(answer)] = torch.tensor(answer)
    ids, prompt_mask, targets = (tensor.to(prompts.device) for tensor in (ids, prompt_mask, targets))
    embeddings = language.embed(ids)
    image = prompts[[row for row, _ in pairs]].to(embeddings.dtype)
    mask = torch.cat([torch.ones(image.shape[:2], dtype=torch.bool, device=prompts.device), prompt_mask], 1)
    logits = language.loss_logits(torch.cat([image, embeddings], 1), mask, targets).float()
    learned = targets != IGNORED
    return text_loss(logits[learned], targets[learned], learned.nonzero()[:, 0] if by_text else None, weights)
