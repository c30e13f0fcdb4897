"""Beholder compared with the libraries one would use instead, in one run, on the same inputs, with outputs compared.

    python benchmarks/bench.py                            # all rows; `make bench`
    python benchmarks/bench.py --rows pixels,sentences    # some rows; --keep stores the rows in a file
    python benchmarks/bench.py --page docs/measured.md    # write the page from the kept rows, without measuring
    python benchmarks/bench.py --one-core                 # on a busy machine: CPU time on one core

All libraries run CLIP ViT-B/32 with the same random weights on the CPU. Each round runs every side once, in turn; a
speedup is the median over the rounds, with minimum and maximum, and a rate is that of the best round. Outputs are
compared by the minimum cosine to the first side's vectors; "between" is the median cosine of two different inputs,
which puts a cosine of 0.999 into perspective. The rows of `mini` use its own weights.

With --one-core, all sides run on one core and times are CPU times: other processes, which only make a side wait, then
matter little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from beholder import VisionLanguageModel
from page import Row, keep, kept_rows, write_page
from sides import (
    Beholder,
    OpenClip,
    SentenceTransformers,
    Transformers,
    in_batches,
    make_models,
    pictures,
    pixels,
    sentences,
)

PRECISIONS = ("exact", "fast", "fastest")


class Bench:
    """Shared by all rows: the folder of models, the options, and the reporting of rows."""

    def __init__(self, folder: Path, given: argparse.Namespace):
        self.folder, self.given = folder, given
        self.rows: list[Row] = []
        self.clock = time.process_time if given.one_core else time.perf_counter
        if not (folder / "open_clip").is_dir():
            make_models(folder)

    @property
    def model(self) -> Path:
        return self.folder / "transformers"

    def report(self, **row: Any) -> None:
        print(json.dumps(row), flush=True)
        self.rows.append(row)

    def compare(self, title: str, sides: Sequence[tuple[Any, Callable[[], np.ndarray]]], count: int, of: str) -> None:
        """Report a row for each side; the first is the baseline."""
        answers = [run() for _, run in sides]  # warm-up
        taken: list[list[float]] = [[] for _ in sides]
        for _ in range(self.given.rounds):
            for (side, run), seconds in zip(sides, taken, strict=True):
                began, before = self.clock(), getattr(side, "seconds", None)  # measured by the side itself
                run()
                seconds.append(self.clock() - began if before is None else side.seconds - before)
        near = answers[0] @ answers[0].T
        between = float(np.median(near[~np.eye(len(near), dtype=bool)])) if len(near) > 1 else None
        for (side, _), answer, seconds in zip(sides, answers, taken, strict=True):
            ratios = [first / other for first, other in zip(taken[0], seconds, strict=True)]
            self.report(
                row=title,
                side=side.name,
                rate=round(count / min(seconds), 1),
                of=f"{of} a second" + (" of one core" if self.given.one_core else ""),
                ratio=round(statistics.median(ratios), 2),
                lowest=round(min(ratios), 2),
                highest=round(max(ratios), 2),
                cosine=round(float(np.sum(answer * answers[0], axis=1).min()), 6),
                between=None if between is None else round(between, 3),
            )


def peak(bench: Bench) -> None:
    """Measure the throughput of large matrix products."""
    import torch

    size = 2048
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(2, size, size).to(dtype)
        seconds = []
        for _ in range(bench.given.rounds + 1):
            began = bench.clock()
            left @ right
            seconds.append(bench.clock() - began)
        rate = 2 * size**3 / min(seconds) / 1e9
        bench.report(row="peak", side=str(dtype).removeprefix("torch."), rate=round(rate), of="GFLOP/s")


def pixel_rows(bench: Bench) -> None:
    """Preprocessed pixels to vectors, at batch sizes 1 and 16."""
    theirs = [
        Transformers(bench.folder),
        Transformers(bench.folder, "bfloat16"),
        OpenClip(bench.folder, bench.given.one_core),
    ]
    theirs[1].name = "transformers bfloat16"
    sides = [*theirs, *(Beholder(bench.model, precision) for precision in PRECISIONS)]
    for batch, count in ((16, bench.given.pictures), (1, max(4, bench.given.pictures // 8))):
        items = pixels(count)
        runs = [(side, in_batches(side.embed_pixels, items, batch)) for side in sides]
        bench.compare(f"pixels → vectors, batch {batch}", runs, count, "pictures")


def file_rows(bench: Bench) -> None:
    """JPEG files to vectors."""
    sides = [Transformers(bench.folder), SentenceTransformers(bench.folder)]
    sides += [Beholder(bench.model, precision) for precision in PRECISIONS]
    for title, width, height, count in (
        ("12-megapixel files → vectors", 4000, 3000, max(6, bench.given.pictures // 2)),
        ("0.2-megapixel files → vectors", 520, 390, bench.given.pictures),
    ):
        paths = pictures(bench.folder / "pictures", count, width, height)
        # Beholder takes all files at once and batches them itself.
        runs = [
            (side, in_batches(side.embed_files, paths, count if isinstance(side, Beholder) else 16)) for side in sides
        ]
        bench.compare(title, runs, count, "pictures")


def sentence_rows(bench: Bench) -> None:
    """Sentences of natural length to vectors."""
    sides = [
        Transformers(bench.folder),
        SentenceTransformers(bench.folder),
        OpenClip(bench.folder, bench.given.one_core),
    ]
    sides += [Beholder(bench.model, precision) for precision in PRECISIONS]
    texts = sentences(4 * bench.given.pictures)
    # sentence-transformers and Beholder sort by length and batch themselves.
    sizes = [len(texts) if isinstance(side, SentenceTransformers | Beholder) else 64 for side in sides]
    runs = [(side, in_batches(side.embed_texts, texts, size)) for side, size in zip(sides, sizes, strict=True)]
    bench.compare("sentences → vectors", runs, len(texts), "sentences")


def mini_rows(bench: Bench) -> None:
    """The default model, from files and from sentences."""
    sides = [Beholder("mini", precision) for precision in PRECISIONS]
    paths = pictures(bench.folder / "pictures", 4 * bench.given.pictures, 520, 390)
    runs = [(side, in_batches(side.embed_files, paths, len(paths))) for side in sides]
    bench.compare("mini, 0.2-megapixel files → vectors", runs, len(paths), "pictures")
    texts = sentences(8 * bench.given.pictures)
    runs = [(side, in_batches(side.embed_texts, texts, len(texts))) for side in sides]
    bench.compare("mini, sentences → vectors", runs, len(texts), "sentences")


MEMORY = """
import sys
sys.path.insert(0, {benchmarks!r})
{code}
from resident import most_resident
print(most_resident())
"""
WRITE = """
from beholder import VisionLanguageModel
model = VisionLanguageModel.from_pretrained("mini", device="cpu")
model.caption({paths!r})
model.chat({paths!r}[0]).ask("What is in the picture?")
"""


def memory_rows(bench: Bench) -> None:
    """Peak memory of a process that embedded 16 pictures of 0.2 megapixels, or captioned them."""
    paths = [str(path) for path in pictures(bench.folder / "pictures", 32, 520, 390)[:16]]

    def held(row: str, side: str, code: str) -> None:
        program = MEMORY.format(benchmarks=str(Path(__file__).parent), code=code)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        bench.report(row=row, side=side, rate=round(int(run.stdout.split()[-1]) / 2**20), of="MiB at most")

    def embedding(side: str, *arguments: str) -> str:
        return f"from sides import {side}\n{side}{arguments!r}.embed_files({paths!r})"

    row = "memory of a process, ViT-B/32"
    held(row, "transformers", embedding("Transformers", str(bench.folder)))
    for precision in PRECISIONS:
        Beholder(bench.model, precision)  # compiled before it is measured
        held(row, f"beholder {precision}", embedding("Beholder", str(bench.model), precision))
    VisionLanguageModel.from_pretrained("mini", device="cpu")
    held("memory of a process, mini", "captions and a conversation", WRITE.format(paths=paths))


CLASSIFY = """
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast
folder = {folder!r}
model = CLIPModel.from_pretrained(folder).eval()
pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=Image.open({picture!r}), return_tensors="pt")
texts = ["a photo of a cat", "a photo of a dog"]
tokens = CLIPTokenizerFast.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    print(model(**pixels, **tokens).logits_per_image.softmax(1))
"""


def start_rows(bench: Bench) -> None:
    """One picture and two labels, from the start of the process to its end."""
    from cold_start import PICTURE, measure, program

    Beholder(bench.model)  # compiled before it is timed
    Beholder(bench.model, "fastest").encoder.classify(str(PICTURE), ["cat", "dog"])
    labels = ("--label", "cat", "--label", "dog")
    one = ("classify", str(PICTURE), *labels)
    for side, code in {
        "transformers, ViT-B/32": CLASSIFY.format(folder=str(bench.model), picture=str(PICTURE)),
        "beholder classify, ViT-B/32": program(*one, "--model", str(bench.model)),
        "beholder classify, ViT-B/32, fastest": program(*one, "--model", str(bench.model), "--precision", "fastest"),
        "beholder classify, mini": program(*one),
        "import torch": "import torch",
    }.items():
        taken = measure(code, bench.given.rounds)
        if bench.given.one_core:
            bench.report(row="cold start", side=side, rate=taken["of processors"], of="seconds of one core")
        else:
            spread = {"lowest": taken["fastest"], "highest": taken["slowest"]}
            bench.report(row="cold start", side=side, rate=taken["fastest"], of="seconds", **spread)


ROWS: dict[str, Callable[[Bench], None]] = {
    "peak": peak,
    "pixels": pixel_rows,
    "files": file_rows,
    "sentences": sentence_rows,
    "mini": mini_rows,
    "memory": memory_rows,
    "start": start_rows,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", default=",".join(ROWS), help=f"which rows: {', '.join(ROWS)}")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--pictures", type=int, default=32)
    options.add_argument("--keep", type=Path, default=Path(__file__).parent / "measured.json")
    options.add_argument(
        "--models", type=Path, help="folder for the random models and pictures, reused by the next run"
    )
    options.add_argument("--page", type=Path)
    options.add_argument("--one-core", action="store_true")
    given = options.parse_args()
    if given.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    wished = given.rows.split(",")
    if unknown := set(wished) - set(ROWS):
        options.error(f"--rows: {', '.join(sorted(unknown))} is none of {', '.join(ROWS)}")
    if given.page is None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        with TemporaryDirectory() as scratch:
            folder = given.models or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            for name in wished:
                bench = Bench(folder, given)
                ROWS[name](bench)
                keep(given.keep, name, bench.rows)
    kept = kept_rows(given.keep)
    text = write_page({name: kept[name] for name in (*ROWS, "words", "language") if name in kept})
    if given.page is None:
        print(text)
    else:
        given.page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
