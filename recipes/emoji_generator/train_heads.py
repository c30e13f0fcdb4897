"""Train heads of `mini` on drawings of emoji and their names: the dual encoder in front of the generator.

    python recipes/emoji_generator/train_heads.py --data runs/emoji-drawings --out runs/emoji-encoder

Both towers stay as they are; their features are computed once. Texts of one sign are no negatives of each other. If
the folder has wordings that were set aside, `match` is calibrated on them and the drawings of their signs, and the last
line printed says how often one is nearest to a drawing of its own sign. The judge of `benchmarks/emoji_generator.py` is
trained by the same command on the drawings of other vendors.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from beholder import DualEncoder
from beholder.evaluation.calibration import fit_calibration
from beholder.models.dual_encoder import TwoTowers
from beholder.models.layers import Head, HeadSettings
from beholder.training.optimization import adamw, cosine_schedule, set_learning_rate
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import save_dual_encoder

EMBEDDING = 256
IMAGE_HEAD = HeadSettings("mlp", bias=True, hidden=768, input_normalization="hellinger")
TEXT_HEAD = HeadSettings("mlp", bias=True, hidden=768, input_normalization="l2")
BACKGROUND = 256  # training texts of the calibration
BATCH, LEARNING_RATE, WARMUP, WEIGHT_DECAY = 512, 1e-3, 0.05, 0.2
NOISE = 0.3  # of a feature, as a share of its deviation over the data
REFERENCE = "google-16"  # whose drawings the wordings are compared with

Rows = list[dict[str, Any]]


def read_rows(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def features(encoder: DualEncoder, data: Path, rows: Rows, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pooled features of the pictures (n, 1280) and of the texts (m, 384)."""
    paths = [str(data / row["image"]) for row in rows]
    images = [picture.embedding for picture in encoder.stream_images(paths, features=True)]
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            tokens = encoder.loaded.tokenizer(texts[start : start + 64])
            ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
            found.append(encoder.network.text(ids, mask).pooled.float().numpy())
    return np.stack(images), np.concatenate(found)  # type: ignore[arg-type]


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in both directions (n, n), with all rows of the same label as positives."""
    logits = scale.exp() * images @ texts.T
    positives = (labels[:, None] == labels).float()
    positives = positives / positives.sum(1, keepdim=True)
    return -(positives * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum(1).mean() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that emoji_generator_data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dual encoder")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    rows = read_rows(options.data / "train.jsonl")
    wordings_file = options.data / "wordings.jsonl"
    aside = read_rows(wordings_file) if wordings_file.is_file() else []
    texts = sorted({caption for row in rows + aside for caption in row["captions"]})
    places = {text: place for place, text in enumerate(texts)}
    encoder = DualEncoder.from_pretrained("mini", precision="fast")
    cache = options.data / "features.npz"
    if not cache.is_file():
        image_features, text_features = features(encoder, options.data, rows, texts)
        np.savez(cache, images=image_features, texts=text_features)
    cached = np.load(cache)
    pictures, sentences = torch.from_numpy(cached["images"]), torch.from_numpy(cached["texts"])

    torch.manual_seed(0)
    image_head = Head(IMAGE_HEAD, pictures.shape[1], EMBEDDING)
    text_head = Head(TEXT_HEAD, sentences.shape[1], EMBEDDING)
    scale = torch.nn.Parameter(torch.tensor(3.0))
    named = [*image_head.named_parameters("image"), *text_head.named_parameters("text"), ("scale", scale)]
    optimizer = adamw(named, LEARNING_RATE, WEIGHT_DECAY)
    signs = {label: number for number, label in enumerate(sorted({row["label"] for row in rows}))}
    labels = torch.tensor([signs[row["label"]] for row in rows])
    captions = [[places[caption] for caption in row["captions"]] for row in rows]
    random = np.random.default_rng(0)
    for step in range(options.steps):
        set_learning_rate(optimizer, LEARNING_RATE * cosine_schedule(step / options.steps, WARMUP))
        batch = random.choice(len(rows), BATCH, replace=False)
        chosen = [captions[row][random.integers(len(captions[row]))] for row in batch]
        inputs = [part + NOISE * part.std(0) * torch.randn_like(part) for part in (pictures[batch], sentences[chosen])]
        image, text = (
            F.normalize(head(part), dim=-1) for head, part in zip((image_head, text_head), inputs, strict=True)
        )
        loss = contrastive_loss(image, text, scale, labels[torch.from_numpy(batch)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {float(loss):.3f}", flush=True)

    loaded = encoder.loaded
    settings = replace(encoder.network.settings, embedding=EMBEDDING, image_head=IMAGE_HEAD, text_head=TEXT_HEAD)
    network = TwoTowers(settings)
    network.image, network.text = encoder.network.image, encoder.network.text
    network.image_head, network.text_head = image_head, text_head
    network.logit_scale.data = scale.data
    result = LoadedDualEncoder(network.eval(), loaded.preprocessing, loaded.tokenizer, name="emoji drawings")
    if aside:
        with torch.inference_mode():
            images = F.normalize(image_head(pictures), dim=-1).numpy()
            wordings = F.normalize(text_head(sentences[[places[row["captions"][0]] for row in aside]]), dim=-1).numpy()
            chosen = random.choice(len(rows), BACKGROUND, replace=False)
            background = F.normalize(text_head(sentences[[captions[row][0] for row in chosen]]), dim=-1).numpy()
        asked = {row["label"] for row in aside}
        unchanged = [number for number, row in enumerate(rows) if row["label"] in asked]
        fits = np.array([[rows[number]["label"] == row["label"] for row in aside] for number in unchanged])
        result = replace(result, calibration=fit_calibration(images[unchanged], wordings, fits, background))
    save_dual_encoder(result, options.out)
    print(f"{options.out}: trained on {len(rows)} drawings of {len(signs)} signs")
    if aside:
        reference = [number for number, row in enumerate(rows) if Path(row["image"]).parts[0] == REFERENCE]
        nearest = [rows[reference[place]]["label"] for place in (wordings @ images[reference].T).argmax(1).tolist()]
        right = float(np.mean([found == row["label"] for found, row in zip(nearest, aside, strict=True)]))
        print(f"{options.out}: {right:.3f} of {len(aside)} unseen wordings nearest to their own sign")


if __name__ == "__main__":
    main()
