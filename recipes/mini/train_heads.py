"""Trains the heads of `mini` on photographs with captions, over towers that stay frozen.

    python recipes/mini/train_heads.py --photographs captions.jsonl

Expect, on two cores: some minutes for the features (kept in runs/mini, so that an interrupted run goes on), then about
a minute for the heads. It writes heads.safetensors, beholder.json and calibration.safetensors into the package
(src/beholder/weights/mini_heads), and the model card's figures come from benchmarks/mini.py afterwards.

The photographs: JSON lines with image, captions (five each) and source. Those of source "coco" and the first 191
others by the hash of their file name are never seen in training; nor are the next 60, on which `match` is fitted.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from beholder.evaluation.calibration import fit_calibration
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.weights import mini
from beholder.weights.calibration import Calibration
from dataset import PREPROCESSING, SPLIT, class_names, load_features
from locked_image_tuning import LockedImageSettings, TrainedHeads, head_settings, train_heads


@torch.no_grad()
def calibrate(heads: TrainedHeads, data, held_back, training) -> Calibration:
    """`match`, on photographs kept out of the heads' training: their captions, and the names of what is on them.

    A name counts as fitting where the image tower's own classifier gives it 0.8 or more, and as not fitting below
    0.001. The background: captions of training photographs and class names, 256 of each.
    """
    generator = np.random.default_rng(0)

    def texts(features):
        return F.normalize(heads.text(features), dim=-1).numpy()

    images = F.normalize(heads.image(data.images[held_back, 0]), dim=-1).numpy()
    names = texts(data.names[:, 0])
    captions = texts(data.captions[held_back].flatten(0, 1))
    owner = np.arange(len(held_back)).repeat(data.captions.shape[1])
    of_caption = owner[None, :] == np.arange(len(held_back))[:, None]

    opinion = data.opinion(data.images[held_back, 0]).numpy()
    named = np.flatnonzero((opinion > 0.8).any(axis=0))
    of_name = opinion[:, named] > 0.8
    certain = of_name | (opinion[:, named] < 0.001)

    background = texts(data.captions[training].flatten(0, 1))
    background = np.concatenate(
        [generator.choice(background, 256, replace=False), generator.choice(names, 256, replace=False)]
    )
    fits = np.concatenate([of_caption, of_name], axis=1)
    known = np.concatenate([np.ones_like(of_caption), certain], axis=1)
    return fit_calibration(images, np.concatenate([captions, names[named]]), fits, background, known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="JSON lines with image and captions")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="where features are kept")
    parser.add_argument("--out", type=Path, default=mini.HEADS, help="where the heads go")
    options = parser.parse_args()

    data, rows = load_features(options.photographs, options.work)
    print(f"{', '.join(f'{len(rows[part])} {part}' for part in SPLIT)}, {len(class_names())} class names")
    settings = LockedImageSettings()

    def report(step: int, loss: float) -> None:
        if step % 50 == 0 or step == settings.steps - 1:
            print(json.dumps({"step": step, "loss": round(loss, 4)}), flush=True)

    heads = train_heads(data.subset(rows["training"]), settings, report)
    calibration = calibrate(heads, data, rows["calibration"], rows["training"])

    image_head, text_head = head_settings(settings)
    network = TwoTowersSettings(
        image=EfficientNetLiteSettings(classes=0),
        text=mini.text_tower().settings,
        embedding=2 * settings.part,
        image_head=image_head,
        text_head=text_head,
    )
    tensors = {f"image_head.{name}": tensor for name, tensor in heads.image.state_dict().items()}
    tensors |= {f"text_head.{name}": tensor for name, tensor in heads.text.state_dict().items()}
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    tensors["logit_scale"] = torch.tensor(heads.scale).log()

    from safetensors.torch import save_file

    options.out.mkdir(parents=True, exist_ok=True)
    aside = options.out / ".heads.safetensors"
    save_file(tensors, aside)
    aside.replace(options.out / "heads.safetensors")
    calibration.save(options.out)
    config = {
        "format": "beholder heads",
        "version": 1,
        "name": "mini",
        "network": network.to_dict(),
        "preprocessing": asdict(PREPROCESSING),
        "training": asdict(settings),
    }
    (options.out / "beholder.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{options.out}: {sum(file.stat().st_size for file in options.out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
