"""`docs/measured.md` from the rows that `bench.py` kept: the tables, the machine, and how to measure again."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from beholder.runtime.device import processor

Row = dict[str, Any]
PACKAGES = ("torch", "openvino", "transformers", "sentence-transformers", "open_clip_torch", "pillow")


def kept_rows(file: Path) -> dict[str, list[Row]]:
    """The rows of each name that were kept in a file; none where it is not there."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def keep(file: Path | None, name: str, rows: list[Row]) -> None:
    """Puts the rows of one name into a file, if there is to be one; those of other names stay."""
    if file is not None:
        held = kept_rows(file) | {name: rows}
        file.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_page(kept: dict[str, list[Row]]) -> str:
    """The page; rows of one name make one table.

    Those called ``words`` are from `captioning.py`, and ``language`` from `language_alone.py`.
    """
    parts = ["# What was measured", "", INTRODUCTION, "", *_machine(kept.get("peak", [])), ""]
    for rows in (rows for name, rows in kept.items() if name not in ("peak", "words", "language")):
        for title in dict.fromkeys(row["row"] for row in rows):
            parts += _table(title, [row for row in rows if row["row"] == title], kept.get("peak", []))
    return "\n".join([*parts, *_words(kept.get("words", [])), *_language(kept.get("language", [])), NOTES, ""])


def _machine(peak: list[Row]) -> list[str]:
    facts = processor().split()
    model = processor().partition(" fpu ")[0].removeprefix(platform.machine()).strip() or "a processor"
    can = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if flag in facts]
    lines = [f"{model}, {facts[-1]} cores, {', '.join(can)}; {platform.system()}, Python {platform.python_version()}."]
    lines += [", ".join(f"{name} {version(name)}" for name in PACKAGES) + "."]
    if peak:
        rates = [f"{row['rate']} GFLOP/s in {row['side']}" for row in peak]
        lines += [f"Matrices of 2048 × 2048 are multiplied by torch at {' and '.join(rates)}."]
    return ["## The machine", "", *lines]


def _table(title: str, rows: list[Row], peak: list[Row]) -> list[str]:
    unit = rows[0]["of"]
    lines = [f"## {title[0].upper()}{title[1:]}", ""]
    if "cosine" not in rows[0]:
        spread = "lowest" in rows[0]
        lines += ["| | " + unit + (" | slowest |" if spread else " |"), "|---|---:|" + ("---:|" if spread else "")]
        lines += [f"| {row['side']} | {row['rate']} |" + (f" {row['highest']} |" if spread else "") for row in rows]
        return [*lines, ""]
    share = bool(peak) and title.startswith("pixels")
    lines += [f"| | {unit} | times as fast (least to greatest) | least cosine |" + (" of the peak |" if share else "")]
    lines += ["|---|---:|---:|---:|" + ("---:|" if share else "")]
    for row in rows:
        ratios = f"{row['ratio']} ({row['lowest']} to {row['highest']})"
        line = f"| {row['side']} | {row['rate']} | {ratios} | {row['cosine']} |"
        lines.append(line + (f" {_share(row, peak)} |" if share else ""))
    if rows[0].get("between") is not None:
        lines += ["", f"Two different inputs have a cosine of {rows[0]['between']} (median)."]
    return [*lines, ""]


def _words(rows: list[Row]) -> list[str]:
    """Captions, a conversation, and `mini`'s photographs, where they were measured."""
    captions = [row for row in rows if "captions" in row]
    if not captions:
        return []
    lines = ["## Words", "", WORDS.format(texts=captions[0]["texts"], batch=captions[0]["batch"]), ""]
    lines += [
        "| | transformers | Beholder | times as fast | same texts | same words |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in captions:
        rates = f"{row['transformers, pictures a second']} | {row['beholder, pictures a second']} | {row['ratio']}"
        same = f"{row['same texts']} of {row['texts']} | {row['same words'] / row['words']:.0%}"
        lines.append(f"| {row['captions']}, `{row['precision']}` | {rates} | {same} |")
    lines += ["", "Seconds to the first word of a turn:", ""]
    lines += ["| turn | transformers | Beholder | times as fast |", "|---|---:|---:|---:|"]
    for row in (row for row in rows if "turn" in row):
        times = [row[f"{side}, seconds to the first word"] for side in ("transformers", "beholder")]
        lines.append(f"| {row['turn']} | {times[0]} | {times[1]} | {row['ratio']} |")
    lines += ["", "Photographs a second, from their files, by `mini`:", ""]
    lines += ["| | photographs a second | same texts as exact |", "|---|---:|---:|"]
    for row in (row for row in rows if "mini" in row):
        same = f"{row['same texts']} of {row['texts']}"
        lines.append(f"| {row['mini']}, `{row['precision']}` | {row['photographs a second']} | {same} |")
    return [*lines, ""]


def _language(rows: list[Row]) -> list[str]:
    """The language model alone, where it was measured."""
    lines = ["## Words without a picture", "", LANGUAGE, ""] if rows else []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        lines += [f"| batch {batch} | words a second | times as fast | same words |", "|---|---:|---:|---:|"]
        for row in (row for row in rows if row["batch"] == batch):
            figures = f"{row['words a second']} | {row['ratio']} | {row['same words']:.0%}"
            lines.append(f"| {row['language alone']} | {figures} |")
        lines.append("")
    return lines


def _share(row: Row, peak: list[Row]) -> str:
    """Of what the processor multiplies in the arithmetic that the side uses; eight bits count against bfloat16."""
    half = any(word in row["side"] for word in ("bfloat16", "fast"))
    rates = {one["side"]: one["rate"] for one in peak}
    return f"{row['rate'] * FLOP_OF_A_PICTURE / 1e9 / rates['bfloat16' if half else 'float32']:.0%}"


FLOP_OF_A_PICTURE = 2 * 4.37e9  # ViT-B/32 at 224 × 224: multiplications and additions of its linear layers

INTRODUCTION = """\
Beholder against what one would pick instead: each side in the same run, in turn, on the same inputs, with the answers
compared. The network is CLIP ViT-B/32 with random weights, the same in every library; `mini` has its own. A rate is
that of the best round. A ratio is of the two sides' times in the same round: the median of the rounds, the least and
the greatest. Where a table says "of one core", every side ran on a single core and a second is one of its work, so that
other programs change little. The least cosine is with the vectors of the first side. `exact`, `fast` and `fastest` are
the three precisions (`precision=` in Python, `--precision` on the command line)."""

WORDS = """\
`benchmarks/captioning.py`: captions against transformers' own `generate`, with the same random BLIP-2 of 311 million
parameters (ViT-B/16, the paper's Q-Former, OPT of 125 million), the same pixels in batches of {batch}; {texts} texts
of 20 tokens, in pictures a second. Where two words are about equally likely, `fast` and `fastest` may choose the other,
and all that follows it is then another text, too."""

LANGUAGE = """\
`benchmarks/language_alone.py`: `mini`'s language model (SmolLM2-135M) behind a text, greedy. llama.cpp takes the GGUF
file as it is, with weights of four bits, and computes with eight. transformers has the same weights in single
precision. Beholder keeps them in the file's groups, in a quarter of that memory, and computes in single precision."""

NOTES = """\
## Measure it yourself

    make bench

prints the table and takes a while; `python benchmarks/bench.py --rows pixels,sentences` measures a piece of it, and
`--page docs/measured.md` writes this page from what was kept. open_clip's pictures go in as pixels alone: its reading
of files needs torchvision. transformers and open_clip pad sentences to CLIP's 77 tokens, as the network was trained;
Beholder leaves out padding that a causal tower can't see, and computes sentences of like length together.

On a GPU the towers run in torch, in bfloat16 for `fast` and `fastest`. CLIP ViT-L/14 with random weights on one NVIDIA
H200, torch 2.11 (`python benchmarks/gpu.py`), in batches of 256, against the 669 TFLOP/s that a large bfloat16 matrix
product reached in the same run:

| | a second | TFLOP/s | of the peak |
|---|---:|---:|---:|
| pictures embedded | 2,348 | 380 | 57% |
| the same, by `torch.compile` | 2,867 | 465 | 70% |
| pairs of a training step | 588 | 311 | 46% |
| the same, by `torch.compile` | 812 | 430 | 64% |

Pictures and texts lay on the card already. With `fastest`, pictures are embedded by
a compiled tower, and a few at once as a CUDA graph; a training compiles where its config says `"compile": true`."""
