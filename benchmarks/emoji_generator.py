"""Judge an image generator for emoji by an encoder that learned from other vendors' drawings than the generator.

    python recipes/emoji_data.py emoji-datasource-apple-16.0.0.tgz emoji-datasource-facebook-16.0.0.tgz \
        emoji-datasource-messenger-4.1.0.tgz emoji-datasource-emojione-4.0.4.tgz iconify-json-openmoji-1.2.29.tgz \
        iconify-json-fxemoji-1.2.2.tgz --held-out apple --out runs/judge-data
    python recipes/emoji_generator/train_heads.py --data runs/judge-data --out runs/judge
    python benchmarks/emoji_generator.py --data runs/emoji-drawings --judge runs/judge --judge-data runs/judge-data \
        --out runs/emoji-judged

The judge has `mini`'s frozen towers, which learned from photographs and texts, and heads that learned from those
drawings alone. `beholder train clip recipes/clip/emoji.json --data runs/judge-data --out runs/judge-clip` trains one
that shares nothing with the generator, and knows less: `--judge runs/judge-clip/model`.

A drawing is right if, of all signs, its own has the nearest prototype: the mean of the judge's embeddings of the
drawings that it learned from. Measured are

- wordings that training set aside (--data, wordings.jsonl), with one drawing and with the best of eight;
- variations of drawings by a vendor that neither generator nor judge have seen (--judge-data, held_out.jsonl);
- beside them chance, and drawings of the generator's own training data as an upper mark;
- how far drawings are from the nearest training drawing, by cosine of the judge and by pixels, beside real drawings of
  the unseen vendor and the training drawings' own distance from each other;
- seconds for one picture of 25 steps: by the command from a cold start, and by a loaded generator.

A line of JSON is printed for each. --out gets the drawings; in `nearest.png`, each is above the training drawing that
is nearest to it by pixels.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beholder import DualEncoder, ImageGenerator
from beholder.pictures.drawn import contact_sheet
from beholder.pictures.read import read_picture
from beholder.training.generator_data import fit_square

STEPS = 25
BEST_OF = 8
NEAREST = 20  # drawings of wordings that are shown above the training drawings nearest to them


@dataclass(frozen=True)
class Signs:
    """The judge's prototypes: codes, and embeddings (n, E) of unit length."""

    codes: list[str]
    prototypes: np.ndarray

    def right(self, embeddings: np.ndarray, codes: Sequence[str]) -> np.ndarray:
        """Whether each embedding (m, E) is nearest to the prototype of its code: (m,)."""
        found = (embeddings @ self.prototypes.T).argmax(1)
        return np.array([self.codes[place] == code for place, code in zip(found, codes, strict=True)])


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="the generator")
    parser.add_argument("--data", type=Path, required=True, help="folder that emoji_generator_data.py wrote")
    parser.add_argument("--judge", type=Path, required=True, help="folder of the independent encoder")
    parser.add_argument("--judge-data", type=Path, required=True, help="folder that emoji_data.py wrote for the judge")
    parser.add_argument("--most", type=int, default=300, help="wordings, and variations")
    parser.add_argument("--out", type=Path, required=True, help="folder for the drawings")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    judge = DualEncoder.from_pretrained(options.judge)
    signs = read_signs(judge, options.judge_data)
    generator = ImageGenerator.from_pretrained(options.model)
    training = read_rows(options.data / "train.jsonl")
    row("signs", len(signs.codes), "of the judge")
    row("chance", 1 / len(signs.codes))

    wordings = [each for each in read_rows(options.data / "wordings.jsonl") if each["label"] in set(signs.codes)]
    wordings = wordings[: options.most]
    codes = [each["label"] for each in wordings]
    texts = [each["captions"][0] for each in wordings]

    def draw(candidates: int, name: str) -> list[Any]:
        drawn = [
            generator.generate(text, candidates=candidates, seed=place * 100)[0] for place, text in enumerate(texts)
        ]
        contact_sheet(drawn, 20).save(options.out / f"wordings-{candidates}.png")
        share(f"wordings, {name}", signs.right(judge.embed_images(drawn), codes))
        return drawn

    drawn = draw(1, "one drawing")
    share("upper mark: training drawings", upper_mark(judge, signs, options.data, training, codes))

    unseen = [read_unseen(options.judge_data, each) for each in read_rows(options.judge_data / "held_out.jsonl")]
    unseen = [each for each in unseen if each[0] in set(signs.codes)]
    chosen = np.random.default_rng(0).permutation(len(unseen))[: options.most]
    originals, original_codes = [unseen[place][1] for place in chosen], [unseen[place][0] for place in chosen]
    varied = [generator.generate(like=path, seed=place)[0] for place, path in enumerate(originals)]
    contact_sheet(varied, 20).save(options.out / "variations.png")
    share("variations of an unseen vendor", signs.right(judge.embed_images(varied), original_codes))
    share("upper mark: the drawings varied", signs.right(judge.embed_images(originals), original_codes))

    files = [options.data / each["image"] for each in training]
    places = copies(judge, files, {"real, of the unseen vendor": originals, "drawings": drawn})
    beside = [fit_square(read_picture(files[place]), drawn[0].width) for place in places[:NEAREST]]
    contact_sheet([*drawn[:NEAREST], *beside], NEAREST).save(options.out / "nearest.png")
    draw(BEST_OF, f"best of {BEST_OF}")
    seconds(options.model, generator)


def row(name: str, value: float, detail: str = "") -> None:
    """Print a figure."""
    print(json.dumps({"metric": name, "value": round(float(value), 4), "detail": detail}), flush=True)


def share(name: str, right: np.ndarray) -> None:
    """Print the share of those that are right, and its standard error."""
    error = float(np.sqrt(right.mean() * (1 - right.mean()) / len(right)))
    row(name, right.mean(), f"of {len(right)}, ± {error:.3f}")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def read_unseen(folder: Path, each: dict[str, Any]) -> tuple[str, Path]:
    """Return code and file of a drawing, which is named after its code."""
    path = folder / each["image"]
    return path.stem.upper(), path


def read_signs(judge: DualEncoder, folder: Path) -> Signs:
    """Return the prototypes of all signs that the judge learned."""
    rows = read_rows(folder / "train.jsonl")
    embeddings = judge.embed_images([folder / each["image"] for each in rows])
    groups: dict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(rows):
        groups[each["label"]].append(place)
    means = np.stack([embeddings[places].mean(0) for places in groups.values()])
    return Signs(list(groups), means / np.linalg.norm(means, axis=1, keepdims=True))


def upper_mark(
    judge: DualEncoder, signs: Signs, folder: Path, training: Sequence[dict[str, Any]], codes: Sequence[str]
) -> np.ndarray:
    """Whether a training drawing of each sign, that nearest to its prototype, is right: (n,)."""
    found = []
    for code in codes:
        files = [folder / each["image"] for each in training if each["label"] == code]
        embeddings = judge.embed_images(files)
        prototype = signs.prototypes[signs.codes.index(code)]
        found.append(signs.right(embeddings[[(embeddings @ prototype).argmax()]], [code])[0])
    return np.array(found)


def copies(judge: DualEncoder, files: Sequence[Path], kinds: dict[str, Sequence[Any]]) -> list[int]:
    """Print how far pictures are from the nearest training drawing, and training drawings from the nearest other.

    Returns:
        The training drawing that is nearest to each picture of the last kind, by pixels.
    """
    references, pixels = judge.embed_images(files), as_pixels(files)
    nearest = np.empty(0, int)
    for name, pictures in kinds.items():
        embeddings, own = judge.embed_images(list(pictures)), as_pixels(pictures)
        row(f"cosine to the nearest training drawing: {name}", np.median((embeddings @ references.T).max(1)), "median")
        apart = distances(own, pixels)
        nearest = apart.argmin(1)
        row(f"pixels from the nearest training drawing: {name}", np.median(apart.min(1)), "median RMS")
    sample = np.random.default_rng(0).permutation(len(files))[:300]
    others = distances(pixels[sample], pixels)
    others[np.arange(len(sample)), sample] = np.inf
    row("pixels from the nearest training drawing: another training drawing", np.median(others.min(1)), "median RMS")
    return nearest.tolist()


def as_pixels(pictures: Sequence[Any], side: int = 32) -> np.ndarray:
    """Return pictures over white in one size: (n, side · side · 3), 0 to 255."""
    found = []
    for each in pictures:
        picture = Image.open(each) if isinstance(each, Path) else each
        canvas = Image.new("RGBA", picture.size, "white")
        canvas.alpha_composite(picture.convert("RGBA"))
        found.append(np.asarray(canvas.convert("RGB").resize((side, side), Image.Resampling.BOX), np.float32).ravel())
    return np.stack(found)


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the root mean square differences (n, m) of pixels."""
    squares = (left**2).sum(1)[:, None] - 2 * left @ right.T + (right**2).sum(1)
    return np.sqrt(squares.clip(min=0) / left.shape[1])


def seconds(model: str, generator: ImageGenerator) -> None:
    """Print how long a picture takes, from a cold start and warm."""
    command = [sys.executable, "-m", "beholder", "generate", "a red heart", "--model", model, "--steps", str(STEPS)]
    colds, warms = [], []
    for place in range(4):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([*command, "--seed", str(place), "--json", "--out", out], check=True, capture_output=True)
        colds.append(time.perf_counter() - start)
    for place in range(10):
        start = time.perf_counter()
        generator.generate(f"a red heart {place}", steps=STEPS)
        warms.append(time.perf_counter() - start)
    row("seconds, cold", np.median(colds[1:]), f"{min(colds[1:]):.2f} to {max(colds[1:]):.2f}")
    row("seconds, warm", np.median(warms), f"{min(warms):.2f} to {max(warms):.2f}")


if __name__ == "__main__":
    main()
