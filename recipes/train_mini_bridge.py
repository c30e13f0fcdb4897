"""Trains mini's bridge: the grid of its image tower, a two-layer Q-Former begun from MiniLM, SmolLM2-135M behind.

    pip download --no-deps easy-vqa==1.0 && unzip easy_vqa-1.0-py3-none-any.whl -d easy-vqa
    python recipes/train_mini_bridge.py --photographs captions.jsonl --drawings easy-vqa --work runs/mini-bridge

On two cores the features take five minutes, stage 1 five and stage 2 an hour. Interrupted, it goes on where it stopped.
The log holds, every so often, the loss on the photographs kept for calibration, once with their own pictures and once
with the pictures exchanged: a bridge that does not look at the picture has the same loss in both.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from beholder.training.bridge import draw_pictures, run_stage, stage_1_losses, stage_2_loss
from beholder.training.bridge_config import read_bridge_config
from beholder.training.easy_vqa import read_easy_vqa
from beholder.training.frozen_features import grid_features
from beholder.training.photographs import Photograph, read_photographs
from beholder.training.questions import named, questions_from_captions
from beholder.weights import mini, mini_bridge
from mini_data import split

VIEWS = 6
QUESTIONS = 3  # of each; the few that are not answered by yes or no come first
DRAWINGS = 5  # of a batch of stage 2
DRAWING_QUESTIONS = 5  # of each
CONVERSATIONS = 0.3  # share of photographs whose questions follow each other
LOOK_EVERY = 100  # steps between two looks at the calibration photographs

Texts = list[tuple[list[int], list[int]]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photographs", type=Path, required=True, help="JSON lines with image and captions")
    options.add_argument("--drawings", type=Path, required=True, help="the unpacked wheel of easy-vqa 1.0")
    options.add_argument("--work", type=Path, required=True, help="features, checkpoints, logs and the result")
    options.add_argument("--config", type=Path, default=Path(__file__).parent / "bridge" / "mini.json")
    options.add_argument("--steps-1", type=int, help="other than the config's; 0 leaves stage 1 out")
    options.add_argument("--steps-2", type=int, help="other than the config's")
    options.add_argument("--queries", type=int, help="other than the config's")
    options.add_argument("--name", default="bridge", help="of this training, below --work")
    given = options.parse_args()
    config = read_bridge_config(given.config)
    stage_1, stage_2 = config.stage_1, config.stage_2
    stage_1 = stage_1 if given.steps_1 is None else replace(stage_1, steps=given.steps_1)
    stage_2 = stage_2 if given.steps_2 is None else replace(stage_2, steps=given.steps_2)
    settings = config.bridge
    if given.queries:
        settings = replace(settings, qformer=replace(settings.qformer, queries=given.queries))
    place = given.work / given.name
    place.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    parts = split(read_photographs(given.photographs))
    drawings = read_easy_vqa(given.drawings, "train")
    tower = mini.image_tower().folded().eval()
    seen = {
        name: grid_features(tower, mini.PREPROCESSING, [p.path for p in parts[name]], VIEWS, given.work / "grid")
        for name in ("training", "calibration")
    }
    drawn = grid_features(tower, mini.PREPROCESSING, [d.path for d in drawings], 1, given.work / "grid-drawings")
    del tower
    photographs = parts["training"]
    frequencies = Counter(noun for photograph in photographs for noun in named(photograph.captions))
    bridge = mini_bridge.begin(settings)

    if stage_1.steps:
        tokenizer = mini_bridge.tokenizer()

        def first(generator: torch.Generator) -> dict[str, Tensor]:
            chosen, image = draw_pictures(seen["training"], stage_1.batch, generator)
            which = torch.randint(5, (stage_1.batch,), generator=generator).tolist()
            tokens = tokenizer([photographs[row].captions[number] for row, number in zip(chosen, which, strict=True)])
            ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
            with torch.autocast("cpu", torch.bfloat16):
                return stage_1_losses(bridge, image, ids, mask, torch.tensor(chosen), generator)

        run_stage(bridge, stage_1, first, place / "stage-1.pt", report(place / "stage-1.jsonl", lambda: {}))

    language, words = mini_bridge.language_model(torch.bfloat16)

    def encoded(prompt: str, text: str) -> tuple[list[int], list[int]]:
        return words.encode(prompt).ids, [*words.encode(text).ids, mini_bridge.END]

    def texts_of(photograph: Photograph, questions: int, random: np.random.Generator) -> Texts:
        asked = questions_from_captions(photograph.captions, frequencies, random)
        kept = sorted(random.permutation(len(asked)).tolist(), key=lambda number: asked[number].kind == "yes/no")[
            :questions
        ]
        texts = [encoded(*mini_bridge.caption_pair(caption)) for caption in photograph.captions]
        pairs = [mini_bridge.question_pair(asked[number].question, asked[number].answer) for number in kept]
        if random.random() < CONVERSATIONS:
            return texts + conversation(pairs)
        return texts + [encoded(*pair) for pair in pairs]

    def conversation(pairs: list[tuple[str, str]]) -> Texts:
        """Each question after all before it with their answers."""
        before: list[int] = []
        turns = []
        for prompt, answer in pairs:
            asked, said = (
                words.encode(mini_bridge.PROMPTS.between + prompt if before else prompt).ids,
                words.encode(answer).ids,
            )
            turns.append((before + asked, [*said, mini_bridge.END]))
            before = before + asked + said
        return turns

    def second(generator: torch.Generator) -> dict[str, Tensor]:
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        chosen, image = draw_pictures(seen["training"], stage_2.batch, generator)
        rows = [texts_of(photographs[row], QUESTIONS, random) for row in chosen]
        chosen, shapes = draw_pictures(drawn, DRAWINGS, generator)
        asked = [random.permutation(len(drawings[row].questions))[:DRAWING_QUESTIONS] for row in chosen]
        pairs = [
            [encoded(*mini_bridge.question_pair(*drawings[row].questions[number])) for number in numbers]
            for row, numbers in zip(chosen, asked, strict=True)
        ]
        return {
            "photographs": stage_2_loss(bridge, language, image, rows, per_text=True),
            "drawings": 0.3 * stage_2_loss(bridge, language, shapes, pairs),
        }

    checked = [texts_of(photograph, 0, np.random.default_rng(0)) for photograph in parts["calibration"]]
    whole = torch.from_numpy(np.stack([views[0] for views in seen["calibration"]]).astype(np.float32))

    @torch.no_grad()
    def control() -> dict[str, float]:
        bridge.eval()
        own, others = [], []
        for start in range(0, len(whole), stage_2.batch):
            rows = checked[start : start + stage_2.batch]
            own.append(float(stage_2_loss(bridge, language, whole[start : start + stage_2.batch], rows)))
            others.append(float(stage_2_loss(bridge, language, whole.roll(1, 0)[start : start + stage_2.batch], rows)))
        bridge.train()
        return {"calibration": float(np.mean(own)), "exchanged": float(np.mean(others))}

    run_stage(bridge, stage_2, second, place / "stage-2.pt", report(place / "stage-2.jsonl", control))
    mini_bridge.save(bridge, place / "mini_bridge")


def report(file: Path, control: Callable[[], dict[str, float]]) -> Callable[[int, dict[str, float]], None]:
    """Writes each step's losses as a JSON line and, every so often, also those of the control."""
    log = file.open("a", encoding="utf-8")
    began = time.monotonic()

    def line(step: int, losses: dict[str, float]) -> None:
        if step % LOOK_EVERY == 0:
            losses |= control()
        log.write(json.dumps({"step": step, "seconds": round(time.monotonic() - began, 1), **losses}) + "\n")
        log.flush()

    return line


if __name__ == "__main__":
    main()
