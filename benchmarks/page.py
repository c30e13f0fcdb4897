"""Generate `docs/measured.md` from the rows kept by `bench.py`: the tables, the machine, and how to reproduce them."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from beholder.runtime.device import processor_name

Row = dict[str, Any]
PACKAGES = ("torch", "openvino", "transformers", "sentence-transformers", "open_clip_torch", "pillow")


def kept_rows(file: Path) -> dict[str, list[Row]]:
    """Return the kept rows by name; empty if the file does not exist."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def keep(file: Path | None, name: str, rows: list[Row]) -> None:
    """Replace the rows of one name in a file, if one is given."""
    if file is not None:
        held = kept_rows(file) | {name: rows}
        file.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_page(kept: dict[str, list[Row]]) -> str:
    """Return the page; rows with the same title form one table.

    Those called ``words`` are from `captioning.py`, and ``language`` from `language_alone.py`.
    """
    parts = ["# Measurements", "", INTRODUCTION, "", *_machine(kept.get("peak", [])), ""]
    for rows in (rows for name, rows in kept.items() if name not in ("peak", "words", "language")):
        for title in dict.fromkeys(row["row"] for row in rows):
            parts += _table(title, [row for row in rows if row["row"] == title], kept.get("peak", []))
    return "\n".join([*parts, *_words(kept.get("words", [])), *_language(kept.get("language", [])), NOTES, ""])


def _machine(peak: list[Row]) -> list[str]:
    facts = processor_name().split()
    model = processor_name().partition(" fpu ")[0].removeprefix(platform.machine()).strip() or "a processor"
    can = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if flag in facts]
    lines = [f"{model}, {facts[-1]} cores, {', '.join(can)}; {platform.system()}, Python {platform.python_version()}."]
    lines += [", ".join(f"{name} {version(name)}" for name in PACKAGES) + "."]
    if peak:
        rates = [f"{row['rate']} GFLOP/s in {row['side']}" for row in peak]
        lines += [f"Matrices of 2048 × 2048 are multiplied in torch at {' and '.join(rates)}."]
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
    lines += [f"| | {unit} | speedup (min to max) | minimum cosine |" + (" share of peak |" if share else "")]
    lines += ["|---|---:|---:|---:|" + ("---:|" if share else "")]
    for row in rows:
        ratios = f"{row['ratio']} ({row['lowest']} to {row['highest']})"
        line = f"| {row['side']} | {row['rate']} | {ratios} | {row['cosine']} |"
        lines.append(line + (f" {_share(row, peak)} |" if share else ""))
    if rows[0].get("between") is not None:
        lines += ["", f"The median cosine between two different inputs is {rows[0]['between']} (median)."]
    return [*lines, ""]


def _words(rows: list[Row]) -> list[str]:
    """Return the tables of captions, conversations and `mini`'s photographs, if they were measured."""
    captions = [row for row in rows if "captions" in row]
    if not captions:
        return []
    lines = [
        "## Captions and conversations",
        "",
        WORDS.format(texts=captions[0]["texts"], batch=captions[0]["batch"]),
        "",
    ]
    lines += [
        "| | transformers | Beholder | speedup | same texts | same words |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in captions:
        rates = f"{row['transformers, pictures a second']} | {row['beholder, pictures a second']} | {row['ratio']}"
        same = f"{row['same texts']} of {row['texts']} | {row['same words'] / row['words']:.0%}"
        lines.append(f"| {row['captions']}, `{row['precision']}` | {rates} | {same} |")
    lines += ["", "Seconds to the first token of a turn:", ""]
    lines += ["| turn | transformers | Beholder | speedup |", "|---|---:|---:|---:|"]
    for row in (row for row in rows if "turn" in row):
        times = [row[f"{side}, seconds to the first word"] for side in ("transformers", "beholder")]
        lines.append(f"| {row['turn']} | {times[0]} | {times[1]} | {row['ratio']} |")
    lines += ["", "`mini` on photographs read from files:", ""]
    lines += ["| | photographs a second | same texts as exact |", "|---|---:|---:|"]
    for row in (row for row in rows if "mini" in row):
        same = f"{row['same texts']} of {row['texts']}"
        lines.append(f"| {row['mini']}, `{row['precision']}` | {row['photographs a second']} | {same} |")
    return [*lines, ""]


def _language(rows: list[Row]) -> list[str]:
    """Return the tables of the language model alone, if it was measured."""
    lines = ["## Text generation without a picture", "", LANGUAGE, ""] if rows else []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        lines += [f"| batch {batch} | words a second | speedup | same words |", "|---|---:|---:|---:|"]
        for row in (row for row in rows if row["batch"] == batch):
            figures = f"{row['words a second']} | {row['ratio']} | {row['same words']:.0%}"
            lines.append(f"| {row['language alone']} | {figures} |")
        lines.append("")
    return lines


def _share(row: Row, peak: list[Row]) -> str:
    """Return the share of the CPU's peak in the side's arithmetic; int8 counts against bfloat16."""
    half = any(word in row["side"] for word in ("bfloat16", "fast"))
    rates = {one["side"]: one["rate"] for one in peak}
    return f"{row['rate'] * FLOP_OF_A_PICTURE / 1e9 / rates['bfloat16' if half else 'float32']:.0%}"


FLOP_OF_A_PICTURE = 2 * 4.37e9  # ViT-B/32 at 224 × 224: multiplications and additions of its linear layers

INTRODUCTION = """\
Beholder against the libraries one would use instead: all sides in the same run, in turn, on the same inputs, with the
outputs compared. The network is CLIP ViT-B/32 with random weights, the same in every library; `mini` has its own. A
rate is that of the best round. A speedup is computed from the times of the same round: the median over the rounds, with
minimum and maximum. Where a table says "of one core", every side ran on a single core and times are CPU times, so that
other processes matter little. The minimum cosine is relative to the vectors of the first side. `exact`, `fast` and
`fastest` are the three precisions (`precision=` in Python, `--precision` on the command line)."""

WORDS = """\
`benchmarks/captioning.py`: captions compared with transformers' `generate`, with the same random BLIP-2 of 311 million
parameters (ViT-B/16, the paper's Q-Former, OPT-125M), the same pixels in batches of {batch}; {texts} texts
of 20 tokens, in pictures per second. Where two tokens are about equally likely, `fast` and `fastest` may choose the
other one, and the rest of the text then differs as well."""

LANGUAGE = """\
`benchmarks/language_alone.py`: `mini`'s language model (SmolLM2-135M) continuing a text, greedily. llama.cpp uses the
GGUF file's four-bit weights with eight-bit activations. transformers has the same weights in float32. Beholder keeps
the file's quantization groups, in a quarter of that memory, and computes in float32."""

NOTES = """\
## Reproduce the measurements

    make bench

prints the tables and takes a while; `python benchmarks/bench.py --rows pixels,sentences` measures a part, and
`--page docs/measured.md` writes this page from the kept rows. open_clip is measured on pixels only: its file reading
needs torchvision. transformers and open_clip pad sentences to CLIP's 77 tokens, as in training; Beholder drops padding
that a causal tower cannot see, and batches sentences of similar length.

On a GPU the towers run in torch, in bfloat16 for `fast` and `fastest`. CLIP ViT-L/14 with random weights on one NVIDIA
H200, torch 2.11 (`python benchmarks/gpu.py`), in batches of 256, relative to the 669 TFLOP/s that a large bfloat16
matrix product reached in the same run:

| | per second | TFLOP/s | share of peak |
|---|---:|---:|---:|
| pictures embedded | 2,348 | 380 | 57% |
| the same, with `torch.compile` | 2,867 | 465 | 70% |
| pairs of a training step | 588 | 311 | 46% |
| the same, with `torch.compile` | 812 | 430 | 64% |

Pictures and texts were already in GPU memory. With `fastest`, pictures are embedded by a compiled tower, small batches
as a CUDA graph; training compiles the towers if its config says `"compile": true`."""
