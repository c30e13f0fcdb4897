"""Plot the losses and metrics of a training's logs.

python recipes/mini/plot_training.py runs/mini-bridge/*.jsonl --out losses.png
"""

import argparse
import json
from pathlib import Path

import numpy as np


def read_log(file: Path) -> list[dict[str, float]]:
    """Read the lines of a log; of a step that was repeated after an interruption, the last."""
    rows = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    by_step = {row["step"]: row for row in rows}
    return [by_step[step] for step in sorted(by_step)]


def series(rows: list[dict[str, float]], name: str, window: int) -> tuple[list[float], list[float]]:
    """Return steps and values of a name, averaged over ``window`` lines if every line has it."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = [step for step, _ in found], [value for _, value in found]
    if len(found) < len(rows) or len(found) < 2 * window:
        return steps, values
    return steps[window - 1 :], np.convolve(values, np.ones(window) / window, "valid").tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=20, help="steps that a loss is averaged over")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = {file.stem: read_log(file) for file in options.logs}
    figure, axes = pyplot.subplots(len(logs), 1, figsize=(9, 3.5 * len(logs)), squeeze=False)
    for axis, (title, rows) in zip(axes[:, 0], logs.items(), strict=True):
        names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "seconds"))
        for name in names:
            axis.plot(*series(rows, name, options.window), label=name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
