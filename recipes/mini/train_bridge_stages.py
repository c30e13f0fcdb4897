"""Train mini's bridge on a collection of captioned, labeled and questioned photographs, one command a stage.

    python recipes/mini/train_bridge_stages.py STAGE --collection FOLDER --drawings easy-vqa --work runs/mini-bridge

| STAGE | what it does |
|---|---|
| features | caches the image encoder's features of all photographs and drawings, and fits the caption token |
| global | trains the global prompts alone, with the language model |
| stage-1 | trains the Q-Former by contrast, matching and generation |
| stage-2 | joins both and trains everything with the language model |
| save | writes the bridge as it stands, in the format of the package |

A stage starts from those before it that have run, and resumes where it was interrupted. ``save`` takes the moving
average of the last checkpoint, so a long stage 2 can be evaluated at any time. WORK/NAME.jsonl holds the losses of each
stage (`plot_training.py`), among them, every so many steps, those on the calibration photographs: a caption's loss with
its own image and with another's, and how often a question about people is answered correctly.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from beholder.models.bridge import Bridge
from beholder.models.global_token_encoder import GlobalTokenEncoder
from beholder.models.language_model import CausalLanguageModel
from beholder.runtime.allocator import keep_freed_memory
from beholder.runtime.device import bfloat16_is_faster
from beholder.text.templates import fill_templates
from beholder.training.bridge_config import BridgeConfig, read_bridge_config
from beholder.training.bridge_losses import itc_loss, pair_similarity
from beholder.training.bridge_stages import (
    Pair,
    StageConfig,
    patch_dropout,
    prompted_loss,
    run_stage,
    stage_1_losses,
    stage_1_metrics,
)
from beholder.training.checkpoints import load_checkpoint
from beholder.training.interruption import Interruption
from beholder.weights import mini, mini_bridge
from block_features import block_features, cells
from bridge_texts import balanced_weights, texts_of
from collection import Collection
from dataset import class_names
from frozen_features import text_features
from initial_bridge import caption_pair, initial_bridge, question_pair
from locked_image_tuning import LockedImageConfig, LockedImageData, caption_moments, fit_caption_map
from people import QUESTIONS_YES_NO, names_nobody, names_people
from photographs import Photograph
from questions import noun_odds
from train_bridge import (
    CELL_SHARE,
    CLASS_PROMPTS,
    DRAWINGS_WEIGHT,
    caption_of_drawing,
    read_easy_vqa,
    training_global_prompts_only,
)

STAGES = ("features", "global", "stage-1", "stage-2", "save")
MIRRORED = 0.5  # share of the images whose features are mirrored
CAPTIONS = 2  # captions per photograph and step, and those that the caption token is fitted on
QUESTIONS = 2
OWN_QUESTIONS = 6  # of those that came with a photograph
CAPTION_WEIGHT = 2.0  # of a caption's loss, relative to that of an answer
CHUNKS = 3  # parts of a batch by length, or most of what the language model computes is padding
DRAWINGS = 2  # drawings per batch
DRAWING_QUESTIONS = 4
LABELED = 0.2  # share of a batch with a label or questions of its own
FROM_STAGE_1 = ("cross_attention", "image_norm")  # what stage 2 takes from it
EVALUATE_EVERY = 100
HELD_OUT = 96  # calibration photographs per evaluation


class TrainingData:
    """The photographs of a collection with their cached features, ready for a training step."""

    def __init__(self, options: argparse.Namespace):
        work: Path = options.work
        parts = Collection(options.collection, work).parts
        self.training, self.calibration = parts["training"], parts["calibration"]
        self.drawings = read_easy_vqa(options.drawings, "train")[: options.most_drawings]
        encoder = mini.image_tower().folded().eval().requires_grad_(False)
        features = partial(block_features, encoder, mini.PREPROCESSING)
        cached = features([one.path for one in self.training + self.calibration], options.features or work)
        self.features = [cached[number] for number in range(len(cached))]
        drawn = features([drawing.path for drawing in self.drawings], work / "drawings")
        self.drawn = [drawn[number] for number in range(len(drawn))]
        self.common = noun_odds(one.captions for one in self.training if one.captions)
        self.captioned = np.array([number for number, one in enumerate(self.training) if one.captions])
        self.labeled = np.array([number for number, one in enumerate(self.training) if not one.captions])
        self.caption_weights = balanced_weights([self.training[number] for number in self.captioned])
        self.label_weights = balanced_sources([self.training[number] for number in self.labeled])
        self.tower = self._tower(encoder, work / "caption_token.pt")

    def tokens(self, features: Sequence[np.ndarray], mirrored: Tensor | None = None) -> Tensor:
        """Return the image tokens (B, 2 + N, D), of ``mirrored`` (B,) ones from right to left."""
        block_inputs = torch.from_numpy(np.stack(features).astype(np.float32))
        if mirrored is not None:
            block_inputs = torch.where(mirrored[:, None, None, None], block_inputs.flip(-1), block_inputs)
        with torch.no_grad():
            return self.tower.add_global_tokens(cells(self.tower.tower, block_inputs))

    def augmented_tokens(self, features: Sequence[np.ndarray], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return image tokens of randomly mirrored images without some cells (B, M, D), and their indices (M,)."""
        mirrored = torch.rand(len(features), generator=generator) < MIRRORED
        return patch_dropout(self.tokens(features, mirrored), CELL_SHARE, generator, whole=2)

    def sample(self, count: int, random: np.random.Generator) -> list[int]:
        """Sample photographs, a share of them labeled, and of the captioned as many without people as with them."""
        labeled = random.binomial(count, LABELED)
        rows = random.choice(self.captioned, count - labeled, replace=False, p=self.caption_weights)
        return [*rows.tolist(), *random.choice(self.labeled, labeled, replace=False, p=self.label_weights).tolist()]

    def _tower(self, encoder: torch.nn.Module, file: Path) -> GlobalTokenEncoder:
        """Return the encoder with its global tokens; the caption's is fitted once and kept in a file."""
        caption = torch.nn.Linear(encoder.classifier.in_features, mini.text_tower().embedding.embedding_dim)
        if not file.is_file():
            torch.save(self._fit_global_tokens(encoder), file)
        fitted = torch.load(file)
        caption.load_state_dict(fitted["caption"])
        return mini_bridge.with_sentence_tokens(encoder, caption, fitted["names"])

    def _fit_global_tokens(self, encoder: torch.nn.Module) -> dict[str, object]:
        text, tokenizer = mini.text_tower().eval(), mini.tokenizer()

        def embed(sentences: list[str]) -> np.ndarray:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_faster(torch.device("cpu"))):
                order = np.argsort([len(sentence) for sentence in sentences])
                found = text_features(text, tokenizer, [sentences[number] for number in order])
            return found[np.argsort(order)]

        sentences = [" ".join(self.training[row].captions[:CAPTIONS]) for row in self.captioned]
        captions = torch.from_numpy(embed(sentences))[:, None]
        names = torch.from_numpy(embed(fill_templates(CLASS_PROMPTS, class_names()))).unflatten(
            0, (-1, len(CLASS_PROMPTS))
        )
        of_drawings = torch.from_numpy(embed([caption_of_drawing(drawing) for drawing in self.drawings]))[:, None]

        def pooled(features: Sequence[np.ndarray]) -> Tensor:
            with torch.inference_mode():
                parts = [
                    cells(encoder, torch.from_numpy(np.stack(features[start : start + 64]).astype(np.float32))).mean(1)
                    for start in range(0, len(features), 64)
                ]
            return torch.cat(parts)[:, None].clone()

        data = LockedImageData(
            pooled([self.features[row] for row in self.captioned]),
            captions,
            names,
            encoder.classifier.weight.detach(),
            encoder.classifier.bias.detach(),
        )
        moments = caption_moments(pooled(self.drawn), of_drawings) * DRAWINGS_WEIGHT
        classes = names.mean(1)
        fitted = fit_caption_map(data, LockedImageConfig(), moments)
        return {"caption": fitted.state_dict(), "names": classes - classes.mean(0)}


def balanced_sources(photographs: Sequence[Photograph]) -> np.ndarray:
    """Return the probability (n,) of each photograph: in proportion to the square root of its source's size."""
    sources = [one.source for one in photographs]
    weights = np.array([sources.count(source) ** -0.5 for source in sources])
    return weights / weights.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--collection", type=Path, required=True, help="folder with captions.jsonl and others")
    parser.add_argument("--drawings", type=Path, required=True, help="the unpacked wheel of easy-vqa 1.0")
    parser.add_argument("--work", type=Path, required=True, help="folder for features, checkpoints and results")
    parser.add_argument("--features", type=Path, help="folder of the photographs' cached features; WORK by default")
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent / "bridge" / "mini_collection.json")
    parser.add_argument("--start", type=Path, help="a bridge whose global prompts `global` or `stage-2` starts from")
    parser.add_argument("--most-drawings", type=int, default=1500)
    parser.add_argument("--steps", type=int, help="overrides the config's steps of this stage")
    parser.add_argument(
        "--contrast-only", action="store_true", help="leave matching and generation out of stage 1, nearly all its cost"
    )
    parser.add_argument("--compile", action="store_true", help="compile the language model's layers: needs a compiler")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    config = read_bridge_config(options.config)
    data = TrainingData(options)
    if options.stage == "features":
        return
    bridge = initial_bridge(config.bridge)
    with Interruption() as interruption, sdpa_kernel(SDPBackend.MATH):  # the others' backward pass is slower on a CPU
        {
            "global": train_global_prompts,
            "stage-1": train_stage_1,
            "stage-2": train_stage_2,
            "save": save,
        }[options.stage](bridge, data, config, options, lambda: interruption.number)


Stopped = Callable[[], int]


def train_global_prompts(
    bridge: Bridge, data: TrainingData, config: BridgeConfig, options: argparse.Namespace, stopped: Stopped
) -> None:
    """Train the global prompts alone, on the same texts as stage 2."""
    if options.start:
        load_global_prompts(bridge, options.start)
    prompts = bridge.global_prompts
    if prompts is None:
        raise TypeError("the config has no global_prompts")
    texts = Stage2Step(bridge, data, config)
    if options.compile:
        compile_layers(texts.language)
    settings = with_steps(config.stage_2, options)
    with training_global_prompts_only(bridge):
        losses = partial(texts.losses, prompts=lambda image, kept: prompts(image), batch=settings.batch)
        report = logger(options.work / "global.jsonl", partial(texts.control, prompts))
        run_stage(bridge, settings, losses, options.work / "global.pt", report, stopped)


def train_stage_1(
    bridge: Bridge, data: TrainingData, config: BridgeConfig, options: argparse.Namespace, stopped: Stopped
) -> None:
    """Train the Q-Former with its three heads."""
    settings = with_steps(config.stage_1, options)
    step = Stage1Step(bridge, data, settings.batch, options.contrast_only)
    report = logger(options.work / "stage-1.jsonl", step.control)
    run_stage(bridge, settings, step.losses, options.work / "stage-1.pt", report, stopped)


def train_stage_2(
    bridge: Bridge, data: TrainingData, config: BridgeConfig, options: argparse.Namespace, stopped: Stopped
) -> None:
    """Train everything with the language model."""
    load_stages(bridge, options.work)
    if options.start:
        load_global_prompts(bridge, options.start)
    settings = with_steps(config.stage_2, options)
    texts, first = Stage2Step(bridge, data, config), Stage1Step(bridge, data, config.stage_1.batch)
    if options.compile:
        compile_layers(texts.language)
    losses = partial(texts.losses, prompts=bridge.soft_prompts, batch=settings.batch)

    def control() -> dict[str, float]:
        return texts.control(bridge.soft_prompts) | first.control()

    report = logger(options.work / "stage-2.jsonl", control)
    run_stage(bridge, settings, losses, options.work / "stage-2.pt", report, stopped)


def save(
    bridge: Bridge, data: TrainingData, config: BridgeConfig, options: argparse.Namespace, stopped: Stopped
) -> None:
    """Write the moving average of the last checkpoint."""
    load_stages(bridge, options.work)
    load_averaged(bridge, options.work / "stage-2.pt")
    mini_bridge.save(bridge, data.tower, options.work / "mini_bridge")


def load_global_prompts(bridge: Bridge, folder: Path) -> None:
    """Load the global prompts of a trained bridge."""
    begun = mini_bridge.load(folder)[0].state_dict()
    state = {name: begun[name] for name in bridge.state_dict() if name.startswith("global_prompts.")}
    bridge.load_state_dict(state, strict=False)


def load_stages(bridge: Bridge, work: Path) -> None:
    """Load what stage 1 taught cross-attention, and the global prompts that were trained alone.

    The rest of the Q-Former starts anew: contrast compares a caption with its closest query, so that each query learns
    to be the whole caption, and all become alike.
    """
    first = load_checkpoint(work / "stage-1.pt")
    if first is not None:
        begun = {name: weight for name, weight in first["bridge"].items() if any(part in name for part in FROM_STAGE_1)}
        bridge.load_state_dict(begun, strict=False)
    load_averaged(bridge, work / "global.pt")


def load_averaged(bridge: Bridge, file: Path) -> None:
    """Load the averaged weights of a checkpoint; weights that it did not train stay as they are."""
    saved = load_checkpoint(file)
    if saved is not None:
        bridge.load_state_dict(saved["ema"], strict=False)


def compile_layers(language: CausalLanguageModel) -> None:
    """Compile the layers of the language model, which are all alike: once, for batches of any size."""
    for layer in language.module.base_model.layers:
        layer.compile(dynamic=True)


def with_steps(settings: StageConfig, options: argparse.Namespace) -> StageConfig:
    return settings if options.steps is None else replace(settings, steps=options.steps)


class Stage1Step:
    """Stage 1 on the captioned photographs."""

    def __init__(self, bridge: Bridge, data: TrainingData, batch: int, contrast_only: bool = False):
        self.bridge, self.data, self.batch, self.contrast_only = bridge, data, batch, contrast_only
        self.tokenizer = mini_bridge.tokenizer()
        held_out = [
            (photograph, number)
            for number, photograph in enumerate(data.calibration, start=len(data.training))
            if photograph.captions
        ][:HELD_OUT]
        self.image = data.tokens([data.features[number] for _, number in held_out])
        self.ids, self.mask = self.tokens([photograph.captions[0] for photograph, _ in held_out])

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(captions)
        return torch.from_numpy(tokens.ids)[:, :40], torch.from_numpy(tokens.mask)[:, :40]

    def losses(self, generator: torch.Generator) -> dict[str, Tensor]:
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        rows = random.choice(self.data.captioned, self.batch, replace=False).tolist()
        image, kept = self.data.augmented_tokens([self.data.features[row] for row in rows], generator)
        captions = [str(random.choice(self.data.training[row].captions)) for row in rows]
        ids, mask = self.tokens(captions)
        with autocast():
            if self.contrast_only:
                cache = self.bridge.cross_attention_cache(image, kept)
                similarity = pair_similarity(self.bridge.image_features(cache), self.bridge.text_features(ids, mask))
                scale = self.bridge.logit_scale.clamp(max=math.log(100))
                return {"contrast": itc_loss(similarity, scale, torch.eye(len(rows), dtype=torch.bool))}
            return stage_1_losses(self.bridge, image, ids, mask, torch.tensor(rows), generator, kept)

    def control(self) -> dict[str, float]:
        self.bridge.eval()
        with autocast():
            metrics = stage_1_metrics(self.bridge, self.image, self.ids, self.mask)
        self.bridge.train()
        return metrics


class Stage2Step:
    """Stage 2: the texts of photographs and drawings after soft prompts."""

    def __init__(self, bridge: Bridge, data: TrainingData, config: BridgeConfig):
        self.bridge, self.data = bridge, data
        half = torch.bfloat16 if bfloat16_is_faster(torch.device("cpu")) else torch.float32
        self.language, self.words = mini_bridge.language_model(half)
        held_out = list(enumerate(data.calibration, start=len(data.training)))
        captioned = [(number, one) for number, one in held_out if one.captions][:HELD_OUT]
        self.held_out = [data.features[number] for number, _ in captioned]
        self.captions = [[self.encoded(caption_pair(one.captions[0]))] for _, one in captioned]
        known = [(number, one) for number, one in captioned if names_people(one.captions) or names_nobody(one.captions)]
        self.people_images = [data.features[number] for number, _ in known]
        self.people = [names_people(one.captions) for _, one in known]
        self.caption_prompt = self.words.encode(mini_bridge.PROMPTS.caption).ids

    def encoded(self, pair: tuple[str, str]) -> tuple[list[int], list[int]]:
        prompt, text = pair
        return self.words.encode(prompt).ids, [*self.words.encode(text).ids, mini_bridge.EOS_TOKEN_ID]

    def losses(
        self, generator: torch.Generator, prompts: Callable[[Tensor, Tensor], Tensor], batch: int
    ) -> dict[str, Tensor]:
        data = self.data
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        rows = data.sample(batch, random)
        texts = [
            texts_of(one, data.common, random, CAPTIONS, OWN_QUESTIONS if one.questions else QUESTIONS)
            for one in (data.training[row] for row in rows)
        ]
        kept = [number for number, those in enumerate(texts) if those]
        drawn = random.choice(len(data.drawings), DRAWINGS, replace=False).tolist()
        features = [data.features[rows[number]] for number in kept] + [data.drawn[row] for row in drawn]
        pairs = [texts[number] for number in kept]
        for row in drawn:
            drawing = data.drawings[row]
            asked = random.permutation(len(drawing.questions))[:DRAWING_QUESTIONS]
            pairs.append([question_pair(*drawing.questions[number]) for number in asked])
        encoded = [[self.encoded(pair) for pair in those] for those in pairs]
        image, remaining = data.augmented_tokens(features, generator)
        with autocast():
            soft_prompts = prompts(image, remaining)
        return {"language": self.weighted_loss(soft_prompts, encoded)}

    def weighted_loss(self, soft_prompts: Tensor, rows: Sequence[Sequence[Pair]]) -> Tensor:
        """Return the mean loss of the texts, captions weighted; images whose texts are alike in length go together."""
        lengths = [sum(len(prompt) + len(text) for prompt, text in row) for row in rows]
        total, weighted = soft_prompts.new_zeros((), dtype=torch.float32), 0.0
        for chunk in np.array_split(np.argsort(lengths), CHUNKS):
            texts = [pair for number in chunk for pair in rows[number]]
            weights = [CAPTION_WEIGHT if prompt == self.caption_prompt else 1.0 for prompt, _ in texts]
            tokens = [len(text) for _, text in texts]
            per_token = torch.tensor([weight / count for weight, count in zip(weights, tokens, strict=True)])
            loss = prompted_loss(
                self.language, soft_prompts[chunk.tolist()], [rows[number] for number in chunk], weights=per_token
            )
            total, weighted = total + loss * sum(tokens), weighted + sum(weights)
        return total / weighted

    @torch.no_grad()
    def control(self, prompts: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the loss of held-out captions, with their own images and others', and accuracy about people."""
        self.bridge.eval()
        own, exchanged = [], []
        for start in range(0, len(self.held_out), 16):
            with autocast():
                soft_prompts = prompts(self.data.tokens(self.held_out[start : start + 16]))
            texts = self.captions[start : start + 16]
            own.append(float(prompted_loss(self.language, soft_prompts, texts)))
            exchanged.append(float(prompted_loss(self.language, soft_prompts.roll(1, 0), texts)))
        found = {"captions": float(np.mean(own)), "exchanged": float(np.mean(exchanged))}
        right: dict[bool, list[bool]] = {True: [], False: []}
        with autocast():
            soft_prompts = prompts(self.data.tokens(self.people_images))
        for prompt, somebody in zip(soft_prompts, self.people, strict=True):
            yes, no = (
                float(
                    prompted_loss(
                        self.language,
                        prompt[None],
                        [[self.encoded(question_pair(QUESTIONS_YES_NO[0], answer))]],
                    )
                )
                for answer in ("yes", "no")
            )
            right[somebody].append((yes < no) == somebody)
        self.bridge.train()
        return found | {"somebody_right": float(np.mean(right[True])), "nobody_right": float(np.mean(right[False]))}


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_faster(torch.device("cpu")))


def logger(file: Path, control: Callable[[], dict[str, float]]) -> Callable[[int, dict[str, float]], None]:
    """Write each step's losses as a JSON line and, every so many steps, the metrics of the calibration photographs."""
    log = file.open("a", encoding="utf-8")
    start = time.monotonic()

    def line(step: int, losses: dict[str, float]) -> None:
        metrics = control() if step == 1 or step % EVALUATE_EVERY == 0 else {}
        row = {"step": step, "seconds": round(time.monotonic() - start, 1), **losses, **metrics}
        log.write(json.dumps({name: round(value, 4) for name, value in row.items()}) + "\n")
        log.flush()

    return line


if __name__ == "__main__":
    main()
