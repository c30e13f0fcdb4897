"""Train the heads of `mini` on captioned photographs, on top of frozen encoders.

    python recipes/mini/train_heads.py --photographs captions.jsonl

On two cores, feature extraction takes a few minutes (features are cached in runs/mini, so that an interrupted run
resumes) and training about one minute. heads.safetensors, beholder.json and calibration.safetensors are written into
the package (src/beholder/weights/mini_heads); benchmarks/mini.py then measures the figures of the model card.

The photographs are JSON lines with image, captions (five each) and source. Those of source "coco" and the first 191
others, ordered by the hash of their file name, are the test set; the next 60 are held out to calibrate `match`.
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
from locked_image_tuning import LockedImageConfig, TrainedHeads, head_settings, train_heads


@torch.no_grad()
def calibrate(heads: TrainedHeads, data, calibration_rows, training_rows) -> Calibration:
    """Calibrate `match` on held-out photographs: their captions, and the class names of what they show.

    A class name counts as matching if the image encoder's classifier assigns it at least 0.8, and as not matching below
    0.001. The background consists of 256 captions of training photographs and 256 class names.
    """
    generator = np.random.default_rng(0)

    def texts(features):
        return F.normalize(heads.text(features), dim=-1).numpy()

    images = F.normalize(heads.image(data.images[calibration_rows, 0]), dim=-1).numpy()
    names = texts(data.names[:, 0])
    captions = texts(data.captions[calibration_rows].flatten(0, 1))
    owner = np.arange(len(calibration_rows)).repeat(data.captions.shape[1])
    of_caption = owner[None, :] == np.arange(len(calibration_rows))[:, None]

    probabilities = data.class_probabilities(data.images[calibration_rows, 0]).numpy()
    named = np.flatnonzero((probabilities > 0.8).any(axis=0))
    of_name = probabilities[:, named] > 0.8
    certain = of_name | (probabilities[:, named] < 0.001)

    background = texts(data.captions[training_rows].flatten(0, 1))
    background = np.concatenate(
        [generator.choice(background, 256, replace=False), generator.choice(names, 256, replace=False)]
    )
    fits = np.concatenate([of_caption, of_name], axis=1)
    known = np.concatenate([np.ones_like(of_caption), certain], axis=1)
    return fit_calibration(images, np.concatenate([captions, names[named]]), fits, background, known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="JSON lines with image and captions")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="folder where features are cached")
    parser.add_argument("--out", type=Path, default=mini.HEADS, help="output folder of the heads")
    options = parser.parse_args()

    data, rows = load_features(options.photographs, options.work)
    print(f"{', '.join(f'{len(rows[part])} {part}' for part in SPLIT)}, {len(class_names())} class names")
    settings = LockedImageConfig()

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
