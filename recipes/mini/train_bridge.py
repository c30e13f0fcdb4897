"""Train mini's bridge: a two-layer Q-Former initialized from MiniLM between mini's image encoder and SmolLM2-135M.

    pip download --no-deps easy-vqa==1.0 && unzip easy_vqa-1.0-py3-none-any.whl -d easy-vqa
    python recipes/mini/train_bridge.py --photographs captions.jsonl --drawings easy-vqa --work runs/mini-bridge

On two cores with bfloat16, feature extraction takes six minutes, stage 1 five and stage 2 fifteen; without it, twice as
long. Then the global prompts are trained alone for sixteen minutes, at a higher learning rate, on photographs, drawings
and synthetic captions (`synthetic_captions`). Finally everything is trained jointly for fifty minutes, with more
questions and drawings. An interrupted run resumes.

--start continues from a trained bridge instead of running stages 1 and 2. --self-critical-steps adds a last stage of
self-critical training on sampled captions; the weights in the package were trained without it.

The log regularly reports the loss on the calibration photographs, once with their own images and once with those of
other photographs: a bridge that ignores the image has the same loss in both cases.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from beholder.models.bridge import Bridge
from beholder.models.global_token_encoder import GlobalTokenEncoder
from beholder.runtime.allocator import keep_freed_memory
from beholder.runtime.device import bfloat16_is_faster
from beholder.text.templates import SINGLE, fill_templates
from beholder.training.bridge_config import read_bridge_config
from beholder.training.bridge_stages import (
    StageConfig,
    patch_dropout,
    prompted_loss,
    run_stage,
    sample_images,
    stage_1_losses,
    stage_2_loss,
)
from beholder.weights import mini, mini_bridge
from class_prototypes import class_prototype_grids
from dataset import class_names, split
from frozen_features import grid_features, text_features
from initial_bridge import caption_pair, initial_bridge, question_pair
from locked_image_tuning import LockedImageConfig, LockedImageData, caption_moments, fit_caption_map
from photographs import Photograph, read_photographs
from questions import noun_odds, questions_from_captions
from self_critical import CiderReward, advantages, sample_captions, score_captions
from synthetic_captions import ImageTokenRegression, recombine_captions

sys.path.insert(0, str(Path(__file__).parent.parent / "easy_vqa"))
from drawings import Drawing, caption_of_drawing, read_easy_vqa

VIEWS = 6
FOLDS = 5  # out-of-fold caption tokens: the map has not been fitted on the photograph's captions
CAPTIONS = 3  # per photograph and step
QUESTIONS = 2  # per photograph; those with other answers than yes or no come first
DRAWINGS = 6  # per batch of stage 2
DRAWING_QUESTIONS = 4  # per drawing
DRAWINGS_WEIGHT = 0.1  # weight of their captions relative to those of photographs in the caption regression
CLASSES = 4  # class prototypes per batch of stage 2
CLASS_PROMPTS = ("{}", *SINGLE)
CLASS_SHIFT = 10.0
GLOBAL_PROMPTS_STAGE = StageConfig(
    steps=120, batch=10, learning_rate=1.5e-3, weight_decay=0.05, ema_decay=0.96, save_every=20
)
SYNTHETIC_CAPTIONS = 20  # synthetic captions per batch of that stage, half as many in the next
TOTAL_SYNTHETIC_CAPTIONS = 12_000  # synthetic captions in total
JOINT_STAGE = StageConfig(steps=250, batch=8, learning_rate=5e-4, weight_decay=0.1, ema_decay=0.98, save_every=20)
SAMPLED_CAPTIONS = 5  # captions sampled per photograph in the last stage
LONGEST = 20  # tokens of a sampled caption
SELF_CRITICAL_STAGE = StageConfig(
    steps=0, batch=8, learning_rate=1e-4, weight_decay=0.05, ema_decay=0.98, save_every=20
)
CELL_SHARE = 0.8  # share of the grid cells kept during training
STAGE_1_EVERY = 3  # steps of stage 2 between two steps of stage 1, which prevent forgetting
CONVERSATIONS = 0.3  # share of photographs whose questions form a conversation
EVALUATE_EVERY = 50  # steps between two evaluations on the calibration photographs

Texts = list[tuple[list[int], list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="JSON lines with image and captions")
    parser.add_argument("--drawings", type=Path, required=True, help="the unpacked wheel of easy-vqa 1.0")
    parser.add_argument("--work", type=Path, required=True, help="folder for features, checkpoints and results")
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent / "bridge" / "mini.json")
    parser.add_argument(
        "--start", type=Path, help="folder of a trained bridge to start from, instead of stages 1 and 2"
    )
    parser.add_argument("--steps-1", type=int, help="overrides the config; 0 skips stage 1")
    parser.add_argument("--steps-2", type=int, help="overrides the config")
    parser.add_argument(
        "--self-critical-steps", type=int, default=0, help="steps of a last stage of self-critical training"
    )
    parser.add_argument("--queries", type=int, help="overrides the config")
    parser.add_argument("--name", default="bridge", help="name of this training run below --work")
    options = parser.parse_args()
    keep_freed_memory()
    config = read_bridge_config(options.config)
    stage_1, stage_2 = config.stage_1, config.stage_2
    stage_1 = stage_1 if options.steps_1 is None else replace(stage_1, steps=options.steps_1)
    stage_2 = stage_2 if options.steps_2 is None else replace(stage_2, steps=options.steps_2)
    settings = config.bridge
    if options.queries:
        settings = replace(settings, qformer=replace(settings.qformer, queries=options.queries))
    run_folder = options.work / options.name
    run_folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    parts = split(read_photographs(options.photographs))
    photographs = parts["training"]
    drawings = read_easy_vqa(options.drawings, "train")
    tower = mini.image_tower().folded().eval()
    grids = {
        name: grid_features(tower, mini.PREPROCESSING, [p.path for p in parts[name]], VIEWS, options.work / "grid")
        for name in ("training", "calibration")
    }
    drawing_grids = grid_features(
        tower, mini.PREPROCESSING, [d.path for d in drawings], 1, options.work / "grid-drawings"
    )
    names = [name.split(" (")[0] for name in class_names()]
    tower, out_of_fold, captions = fit_sentence_tokens(photographs, grids["training"], drawings, drawing_grids)
    classifier = tower.tower.classifier
    if classifier is None:
        raise TypeError("the image tower came without its classifier")
    weight, bias = classifier.weight.detach(), classifier.bias.detach()
    image_features = {
        "training": [tokens(tower, grid, out_of_fold[row % FOLDS]) for row, grid in enumerate(grids["training"])],
        "calibration": [tokens(tower, grid) for grid in grids["calibration"]],
    }
    drawing_features = [tokens(tower, grid) for grid in drawing_grids]
    odds = noun_odds(photograph.captions for photograph in photographs)
    bridge = initial_bridge(settings)
    if options.start:
        bridge.load_state_dict(mini_bridge.load(options.start)[0].state_dict())
    dtype = torch.bfloat16 if bfloat16_is_faster(torch.device("cpu")) else torch.float32

    tokenizer = mini_bridge.tokenizer()

    def sample_cells(image: Tensor, generator: torch.Generator) -> Tensor:
        return patch_dropout(image, CELL_SHARE, generator, settings.global_tokens)[0]

    def stage_1_losses_of_batch(generator: torch.Generator) -> dict[str, Tensor]:
        chosen, image = sample_images(image_features["training"], stage_1.batch, generator)
        image = sample_cells(image, generator)
        which = [int(torch.randint(len(photographs[row].captions), (), generator=generator)) for row in chosen]
        tokens = tokenizer([photographs[row].captions[number] for row, number in zip(chosen, which, strict=True)])
        ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return stage_1_losses(bridge, image, ids, mask, torch.tensor(chosen), generator)

    if stage_1.steps and not options.start:
        run_stage(
            bridge,
            stage_1,
            stage_1_losses_of_batch,
            run_folder / "stage-1.pt",
            report(run_folder / "stage-1.jsonl", lambda: {}),
        )

    language, language_tokenizer = mini_bridge.language_model(dtype)

    def encoded(prompt: str, text: str) -> tuple[list[int], list[int]]:
        return language_tokenizer.encode(prompt).ids, [*language_tokenizer.encode(text).ids, mini_bridge.EOS_TOKEN_ID]

    def questions_of(
        captions: Sequence[str], odds: Mapping[str, float], questions: int, random: np.random.Generator
    ) -> Texts:
        candidates = questions_from_captions(captions, odds, random)
        kept = sorted(
            random.permutation(len(candidates)).tolist(), key=lambda number: candidates[number].kind == "yes/no"
        )[:questions]
        pairs = [question_pair(candidates[number].question, candidates[number].answer) for number in kept]
        if random.random() < CONVERSATIONS:
            return conversation(pairs)
        return [encoded(*pair) for pair in pairs]

    def captions_of(photograph: Photograph, count: int, random: np.random.Generator) -> Texts:
        chosen = random.permutation(len(photograph.captions))[:count]
        return [encoded(*caption_pair(photograph.captions[number])) for number in chosen]

    def texts_of_photographs(
        rows: list[int], captions: int, questions: int, random: np.random.Generator
    ) -> list[Texts]:
        return [
            captions_of(photographs[row], captions, random)
            + questions_of(photographs[row].captions, odds, questions, random)
            for row in rows
        ]

    def texts_of_drawing(drawing: Drawing, random: np.random.Generator) -> Texts:
        chosen = random.permutation(len(drawing.questions))[:DRAWING_QUESTIONS]
        pairs = [question_pair(*drawing.questions[number]) for number in chosen]
        return [encoded(*pair) for pair in [caption_pair(caption_of_drawing(drawing)), *pairs]]

    def texts_of_class(name: str) -> Texts:
        return [
            encoded(*caption_pair(f"a {name}")),
            encoded(*question_pair("What is in the picture?", name.lower())),
        ]

    def conversation(pairs: list[tuple[str, str]]) -> Texts:
        """Prefix each question with all previous questions and their answers."""
        before: list[int] = []
        turns = []
        for prompt, answer in pairs:
            question_ids, answer_ids = (
                language_tokenizer.encode(mini_bridge.PROMPTS.separator + prompt if before else prompt).ids,
                language_tokenizer.encode(answer).ids,
            )
            turns.append((before + question_ids, [*answer_ids, mini_bridge.EOS_TOKEN_ID]))
            before = before + question_ids + answer_ids
        return turns

    def synthetic_caption_loss(random: np.random.Generator, count: int) -> Tensor:
        """Loss of the global prompts alone."""
        sentences, tokens = sample_synthetic(random, count)
        global_tokens = torch.zeros(count, settings.global_tokens, image_features["training"][0].shape[2])
        global_tokens[:, 0, width:] = torch.from_numpy(tokens)
        texts = [
            [
                encoded(*caption_pair(sentence)),
                *questions_of([sentence], synthetic_odds, QUESTIONS, random),
            ]
            for sentence in sentences
        ]
        return prompted_loss(language, global_prompts(global_tokens), texts)

    def drawings_loss(
        count: int,
        random: np.random.Generator,
        generator: torch.Generator,
        prompts: Callable[[Tensor], Tensor] = bridge.soft_prompts,
    ) -> Tensor:
        chosen, image = sample_images(drawing_features, count, generator)
        texts = [texts_of_drawing(drawings[row], random) for row in chosen]
        return 0.4 * prompted_loss(language, prompts(sample_cells(image, generator)), texts)

    def auxiliary_losses(
        random: np.random.Generator, generator: torch.Generator, drawings: int = DRAWINGS
    ) -> dict[str, Tensor]:
        """Losses of drawings and of class prototypes, and occasionally of stage 1, which prevents forgetting."""
        losses = {"drawings": drawings_loss(drawings, random, generator)}
        shown, grid = class_prototype_grids(grids["training"], weight, bias, CLASSES, CLASS_SHIFT, generator)
        if shown:
            image = sample_cells(tower.add_global_tokens(grid), generator)
            called = [texts_of_class(names[number]) for number in shown]
            losses["classes"] = 0.2 * stage_2_loss(bridge, language, image, called, per_text=True)
        if random.random() < 1 / STAGE_1_EVERY:
            losses |= {name: 0.5 * loss for name, loss in stage_1_losses_of_batch(generator).items()}
        return losses

    def mixed_losses(
        generator: torch.Generator, batch: int, captions: int, questions: int, drawings: int, sentences: int
    ) -> dict[str, Tensor]:
        """Losses of photographs with their texts, of drawings and of synthetic captions."""
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        chosen, image = sample_images(image_features["training"], batch, generator)
        rows = texts_of_photographs(chosen, captions, questions, random)
        image = sample_cells(image, generator)
        losses = {"photographs": stage_2_loss(bridge, language, image, rows, per_text=True)}
        if sentences:
            losses["synthetic_captions"] = 0.3 * synthetic_caption_loss(random, sentences)
        return losses | auxiliary_losses(random, generator, drawings)

    stage_2_losses = partial(
        mixed_losses, batch=stage_2.batch, captions=CAPTIONS, questions=QUESTIONS, drawings=DRAWINGS, sentences=0
    )
    joint_losses = partial(
        mixed_losses,
        batch=JOINT_STAGE.batch,
        captions=2,
        questions=2 * QUESTIONS,
        drawings=2 * DRAWINGS,
        sentences=SYNTHETIC_CAPTIONS // 2,
    )

    width = tower.tower.settings.width
    global_tokens_of_views = [views[0, : settings.global_tokens, width:] for views in image_features["training"]]
    sentences = recombine_captions(
        [caption for one in photographs for caption in one.captions], TOTAL_SYNTHETIC_CAPTIONS, np.random.default_rng(0)
    )
    synthetic_odds = noun_odds([sentence] for sentence in sentences)
    sample_synthetic = synthetic_batches(sentences, captions, global_tokens_of_views)

    def global_prompts_losses(generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of the global prompts alone on photographs, drawings and synthetic captions."""
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        chosen, image = sample_images(image_features["training"], GLOBAL_PROMPTS_STAGE.batch, generator)
        rows = texts_of_photographs(chosen, CAPTIONS, QUESTIONS, random)
        return {
            "photographs": prompted_loss(language, global_prompts(image), rows),
            "drawings": drawings_loss(2 * DRAWINGS, random, generator, global_prompts),
            "synthetic_captions": 0.5 * synthetic_caption_loss(random, SYNTHETIC_CAPTIONS),
        }

    def global_prompts(image: Tensor) -> Tensor:
        if bridge.global_prompts is None:
            raise TypeError("the config has no global_prompts")
        return bridge.global_prompts(image)

    extra_metrics: dict[str, float] = {}
    reward = CiderReward([photograph.captions for photograph in photographs])
    prompt = language_tokenizer.encode(mini_bridge.PROMPTS.caption).ids

    def self_critical_losses(generator: torch.Generator) -> dict[str, Tensor]:
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        chosen, image = sample_images(image_features["training"], SELF_CRITICAL_STAGE.batch, generator)
        bridge.eval()  # no dropout: the sampled captions must be scored by the network that sampled them
        captions = sample_captions(
            bridge, language, image, prompt, SAMPLED_CAPTIONS, LONGEST, int(random.integers(2**31))
        )
        scores = score_captions(captions, chosen, language_tokenizer.decode, reward)
        rows = [[(prompt, [*ids, mini_bridge.EOS_TOKEN_ID][:LONGEST]) for ids in several] for several in captions]
        losses = {"self_critical": stage_2_loss(bridge, language, image, rows, weights=advantages(scores).flatten())}
        bridge.train()
        texts = texts_of_photographs(chosen, 1, QUESTIONS, random)
        image = sample_cells(image, generator)
        losses["photographs"] = 0.3 * stage_2_loss(bridge, language, image, texts, per_text=True)
        extra_metrics["cider"] = float(scores.mean())
        return losses | auxiliary_losses(random, generator)

    calibration_texts = [captions_of(photograph, 5, np.random.default_rng(0)) for photograph in parts["calibration"]]
    calibration_images = torch.from_numpy(
        np.stack([views[0] for views in image_features["calibration"]]).astype(np.float32)
    )

    @torch.no_grad()
    def evaluate(prompts: Callable[[Tensor], Tensor] = bridge.soft_prompts) -> dict[str, float]:
        bridge.eval()
        own, others = [], []
        for start in range(0, len(calibration_images), stage_2.batch):
            part = slice(start, start + stage_2.batch)
            own.append(float(prompted_loss(language, prompts(calibration_images[part]), calibration_texts[part])))
            others.append(
                float(prompted_loss(language, prompts(calibration_images.roll(1, 0)[part]), calibration_texts[part]))
            )
        bridge.train()
        return {"calibration": float(np.mean(own)), "calibration_mismatched": float(np.mean(others))}

    with sdpa_kernel(SDPBackend.MATH):  # the other backends' backward passes take twice as long on a CPU
        if not options.start:
            run_stage(
                bridge,
                stage_2,
                stage_2_losses,
                run_folder / "stage-2.pt",
                report(run_folder / "stage-2.jsonl", evaluate),
            )
        with training_global_prompts_only(bridge):
            evaluate_global_prompts = partial(evaluate, global_prompts)
            run_stage(
                bridge,
                GLOBAL_PROMPTS_STAGE,
                global_prompts_losses,
                run_folder / "global-prompts.pt",
                report(run_folder / "global-prompts.jsonl", evaluate_global_prompts),
            )
        run_stage(
            bridge, JOINT_STAGE, joint_losses, run_folder / "joint.pt", report(run_folder / "joint.jsonl", evaluate)
        )
        if options.self_critical_steps:
            mini_bridge.save(bridge, tower, run_folder / "before_self_critical")
            self_critical_stage = replace(SELF_CRITICAL_STAGE, steps=options.self_critical_steps)
            run_stage(
                bridge,
                self_critical_stage,
                self_critical_losses,
                run_folder / "self-critical.pt",
                report(run_folder / "self-critical.jsonl", evaluate, extra_metrics),
            )
    mini_bridge.save(bridge, tower, run_folder / "mini_bridge")


def synthetic_batches(
    sentences: list[str], captions: np.ndarray, global_tokens_of_views: list[np.ndarray]
) -> Callable[[np.random.Generator, int], tuple[list[str], np.ndarray]]:
    """Return a sampler of synthetic captions with the global tokens (m, W) that an image of each would have.

    The regression is fitted on the embeddings (n, C, S) of the photographs' captions and on each photograph's global
    tokens (P, W).
    """
    vectors = text_features(mini.text_tower().eval(), mini.tokenizer(), sentences)
    regression = ImageTokenRegression.fit(
        captions, np.stack([tokens.sum(0, dtype=np.float32) for tokens in global_tokens_of_views])
    )

    def draw(random: np.random.Generator, count: int) -> tuple[list[str], np.ndarray]:
        chosen = random.permutation(len(sentences))[:count]
        return [sentences[number] for number in chosen], regression.tokens(vectors[chosen], random)

    return draw


def fit_sentence_tokens(
    photographs: list[Photograph], grids: list[np.ndarray], drawings: list[Drawing], drawing_grids: list[np.ndarray]
) -> tuple[GlobalTokenEncoder, list[nn.Linear], np.ndarray]:
    """Return the tower with its caption and class projections, out-of-fold caption projections and caption embeddings.

    Returns:
        The tower; for each fold of the photographs, a projection fitted without their captions; and the embeddings
        (n, C, S) of the captions. All projections are fitted on the drawings, of which there are enough.
    """
    tower = mini.image_tower().folded().eval()
    classifier = tower.classifier
    if classifier is None:
        raise TypeError("the image tower came without its classifier")
    text, tokenizer = mini.text_tower().eval(), mini.tokenizer()
    captions = np.stack([text_features(text, tokenizer, one.captions) for one in photographs])
    names = torch.from_numpy(text_features(text, tokenizer, fill_templates(CLASS_PROMPTS, class_names())))
    of_drawings = text_features(text, tokenizer, [caption_of_drawing(drawing) for drawing in drawings])
    others = caption_moments(pooled(drawing_grids), torch.from_numpy(of_drawings)[:, None]) * DRAWINGS_WEIGHT
    data = LockedImageData(
        pooled(grids),
        torch.from_numpy(captions),
        names.unflatten(0, (-1, len(CLASS_PROMPTS))),
        classifier.weight.detach(),
        classifier.bias.detach(),
    )
    settings = LockedImageConfig()
    fold = torch.arange(len(photographs)) % FOLDS
    out_of_fold = [
        fit_caption_map(data.subset((fold != number).nonzero()[:, 0]), settings, others) for number in range(FOLDS)
    ]
    class_embeddings = data.names.mean(1)
    tower = mini_bridge.with_sentence_tokens(
        tower, fit_caption_map(data, settings, others), class_embeddings - class_embeddings.mean(0)
    )
    return tower, out_of_fold, captions


def pooled(grids: list[np.ndarray]) -> Tensor:
    """Return the pooled features (n, V, D) of grids (V, N, D)."""
    return torch.from_numpy(np.stack([grid.mean(1, dtype=np.float32) for grid in grids]))


@torch.no_grad()
def tokens(tower: GlobalTokenEncoder, grid: np.ndarray, caption: nn.Linear | None = None) -> np.ndarray:
    """Return the views of a grid (V, N, D) with their global tokens, in half precision."""
    return tower.add_global_tokens(torch.from_numpy(grid.astype(np.float32)), caption).numpy().astype(np.float16)


@contextmanager
def training_global_prompts_only(bridge: Bridge) -> Iterator[None]:
    """Freeze everything but the global prompts within this context."""
    learned = {name for name, weight in bridge.named_parameters() if weight.requires_grad}
    for name, weight in bridge.named_parameters():
        weight.requires_grad_(name.startswith("global_prompts."))
    yield
    for name, weight in bridge.named_parameters():
        weight.requires_grad_(name in learned)


def report(
    file: Path, evaluate: Callable[[], dict[str, float]], extra_metrics: dict[str, float] | None = None
) -> Callable[[int, dict[str, float]], None]:
    """Write each step's losses as a JSON line, with other metrics and, regularly, the control losses."""
    log = file.open("a", encoding="utf-8")
    start = time.monotonic()

    def line(step: int, losses: dict[str, float]) -> None:
        if step % EVALUATE_EVERY == 0:
            losses |= evaluate()
        seconds = round(time.monotonic() - start, 1)
        log.write(json.dumps({"step": step, "seconds": seconds, **losses, **(extra_metrics or {})}) + "\n")
        log.flush()

    return line


if __name__ == "__main__":
    main()
