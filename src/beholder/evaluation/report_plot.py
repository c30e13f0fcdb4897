"""A report as a figure: the metrics with their intervals, a breakdown, and examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra
from beholder.evaluation.report import Report, ScoredExample
from beholder.tasks.plot import PIXELS_PER_INCH, font_options, load_thumbnail, save_figure, wrap_text

INK, FAINT, GRID = "#26323d", "#7b8894", "#e6eaee"
BLUE, OCHRE, GREEN, RED = "#2f6fa7", "#d29a2e", "#3b8f5a", "#c0543c"
WIDTH, CHART, EXAMPLE = 12.0, 3.95, 2.4  # inches
EXAMPLES = 6
MAX_LABELS = 24  # rows of a readable confusion matrix
TITLES = {
    "retrieval": "Retrieval",
    "zero-shot": "Zero-shot classification",
    "linear-probe": "Linear probe",
    "caption": "Captions",
    "vqa": "Answers",
}


def plot_report(path: Path, report: Report) -> None:
    """Plot a report into a PNG.

    Raises:
        MissingExtra: Matplotlib is not installed.
        InvalidSetting: ``path`` can't be written, or is not a PNG.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtra("plotting", "plot") from error
    if path.suffix.lower() != ".png":
        raise InvalidSetting(f"{path}: plots are written as PNG; the name must end in .png")
    shown = select_examples(report.examples)
    example = EXAMPLE if any(result.question for result, _ in shown) or report.task == "caption" else EXAMPLE - 0.35
    height = 1.0 + CHART + (example if shown else 0)
    figure = matplotlib.figure.Figure(figsize=(WIDTH, height), dpi=PIXELS_PER_INCH, facecolor="white")
    font = font_options()

    def place(left: float, top: float, width: float, tall: float) -> Any:
        return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))

    title = f"{TITLES[report.task]}: {Path(report.model).name or 'a model'}"
    figure.text(0.35 / WIDTH, 1 - 0.42 / height, title, fontsize=17, fontweight="bold", color=INK, **font)
    figure.text(0.35 / WIDTH, 1 - 0.72 / height, wrap_text(_subtitle(report), 150, 1), fontsize=9, color=FAINT, **font)
    _metrics(place(1.75, 1.15, 3.0, CHART - 0.75), report, font)
    match report.task:
        case "retrieval":
            _curve(place(7.1, 1.15, 4.5, CHART - 0.75), report, font)
        case "zero-shot" | "linear-probe":
            _confusion(place, report, font)
        case "caption":
            _histogram(place(7.1, 1.15, 4.5, CHART - 0.75), report, font)
        case "vqa":
            _beginnings(place(8.1, 1.15, 3.5, CHART - 0.75), report, font)
    each = (WIDTH - 0.7) / EXAMPLES
    for number, (result, good) in enumerate(shown):
        _example(place(0.35 + number * each, 1.0 + CHART, each - 0.15, example - 0.2), result, good, report.task, font)
    save_figure(figure, path)


def select_examples(results: Sequence[ScoredExample], count: int = EXAMPLES) -> list[tuple[ScoredExample, bool]]:
    """Select examples of different pictures: half of the best scores (true), half of the worst."""
    ordered = sorted(results, key=lambda result: -result.score)
    if not ordered or ordered[0].score == ordered[-1].score:
        return [(result, bool(result.score)) for result in _distinct(ordered, count)]
    good = _distinct([result for result in ordered if result.score > ordered[-1].score], count // 2)
    shown = {result.image for result in good}
    least = min(result.score for result in good)
    others = [result for result in reversed(ordered) if result.image not in shown and result.score < least]
    return [(result, True) for result in good] + [(result, False) for result in _distinct(others, count // 2)]


def _distinct(ordered: Sequence[ScoredExample], count: int) -> list[ScoredExample]:
    """Return the first examples of different pictures; if more tie with the first, some of those, evenly spaced."""
    different: dict[str, ScoredExample] = {}
    for result in ordered:
        different.setdefault(result.image, result)
    chosen = list(different.values())
    equal = [result for result in chosen if result.score == chosen[0].score]
    if len(equal) < count:
        return chosen[:count]
    return [equal[number * len(equal) // count] for number in range(count)]


def _subtitle(report: Report) -> str:
    parts = [f"{report.pictures} pictures of {Path(report.data).name}"]
    match report.task:
        case "retrieval":
            parts.append(f"{report.details['captions']} captions")
        case "zero-shot":
            parts.append(f"{len(report.settings['labels'])} labels in {len(report.settings['templates'])} templates")
        case "linear-probe":
            parts.append(
                f"trained on {report.settings['fitted']} others with L2 strength {report.settings['strength']:.3g}"
            )
        case "caption":
            parts.append(f"{report.details['different']} different captions")
        case "vqa":
            parts.append(f"{report.details['questions']} questions")
    if report.failed:
        parts.append(f"{len(report.failed)} left out")
    return "; ".join([*parts, "bars: 95 % bootstrap intervals"])


def _clean(axes: Any) -> None:
    axes.set_facecolor("white")
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, labelsize=9, colors=FAINT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _metrics(axes: Any, report: Report, font: dict[str, Any]) -> None:
    """Plot every metric as a bar with its interval, and its value as text."""
    names = [metric.metric.replace("_", " ") for metric in report.metrics]
    values = np.array([metric.value for metric in report.metrics])
    ends = np.array([[metric.low, metric.high] for metric in report.metrics])
    rows = np.arange(len(names))[::-1]
    widest = max(1.0, float(ends.max()))
    colors = [OCHRE if name.startswith("image to text") else BLUE for name in names]
    axes.barh(rows, values, height=0.62, color=colors, alpha=0.9)
    axes.hlines(rows, ends[:, 0], ends[:, 1], color=INK, linewidth=1.6)
    for row, value, (low, high) in zip(rows, values, ends, strict=True):
        label = f"{value:.3f}  ({low:.3f} to {high:.3f})"
        axes.text(widest * 1.03, row, label, va="center", fontsize=9, color=INK, **font)
    _clean(axes)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, widest), ylim=(min(-0.6, len(names) - 6.0), len(names) - 0.4), yticks=rows)
    axes.set_yticklabels(names, color=INK, fontsize=10, **font)


def _curve(axes: Any, report: Report, font: dict[str, Any]) -> None:
    curve = report.details["curve"]
    for name, color in (("text_to_image", BLUE), ("image_to_text", OCHRE)):
        axes.plot(curve["k"], curve[name], color=color, linewidth=2.2, marker="o", markersize=4)
        axes.lines[-1].set_label(name.replace("_", " "))
    chance = np.array(curve["k"]) / report.pictures
    axes.plot(curve["k"], chance, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label="text to image by chance")
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    _clean(axes)
    axes.set(xscale="log", ylim=(0, 1.02), xticks=curve["k"])
    axes.set_xticks([], minor=True)
    axes.set_xticklabels([str(k) for k in curve["k"]])
    axes.set_title("recall@k", fontsize=10, color=INK, loc="left", **font)


def _confusion(place: Any, report: Report, font: dict[str, Any]) -> None:
    """Plot the confusion matrix of all labels that occur or, if too many to read, of the most confused ones."""
    confusion: dict[str, dict[str, int]] = report.details["confusion"]
    names = list(dict.fromkeys([*confusion, *(label for row in confusion.values() for label in row)]))
    whole = len(names) <= MAX_LABELS
    if not whole:
        wrong = dict.fromkeys(names, 0)
        for right, row in confusion.items():
            for label, count in row.items():
                if label != right:
                    wrong[right] += count
                    wrong[label] += count
        names = sorted(names, key=lambda name: (-wrong[name], name))[:MAX_LABELS]
    matrix = np.array([[confusion.get(right, {}).get(label, 0) for label in names] for right in names], float)
    totals = np.array([sum(confusion.get(right, {}).values()) for right in names], float)[:, None]
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    axes = place(8.4, 1.15, 3.2, CHART - 1.1)
    shown = np.ma.masked_where(np.repeat(totals, len(names), 1) == 0, shares)
    axes.pcolormesh(shown, cmap="Blues", vmin=0, vmax=1.15, edgecolors="white", linewidth=1)
    if len(names) <= 12:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            dark = shares[row, column] > 0.6
            label = f"{shares[row, column]:.2f}".lstrip("0") if shares[row, column] < 1 else "1"
            color = "white" if dark else INK
            axes.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=7.5, color=color, **font)
    ticks = np.arange(len(names)) + 0.5
    size = 8.5 if len(names) <= 14 else 6.5
    labels = [wrap_text(name.replace("_", " "), 20, 1) for name in names]
    axes.set(xticks=ticks, yticks=ticks)
    axes.set_xticklabels(labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=size, color=INK, **font)
    axes.set_yticklabels(labels, fontsize=size, color=INK, **font)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = "true labels (rows) and predicted labels"
    title = title if whole else f"the {MAX_LABELS} most confused: {title}"
    axes.set_title(title, fontsize=10, color=INK, loc="right", **font)


def _histogram(axes: Any, report: Report, font: dict[str, Any]) -> None:
    scores = np.array([result.score for result in report.examples])
    top = max(float(np.quantile(scores, 0.99)), 0.5)
    axes.hist(scores.clip(0, top), bins=30, range=(0, top), color=BLUE, alpha=0.9, edgecolor="white")
    axes.axvline(scores.mean(), color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    _clean(axes)
    axes.grid(axis="x", visible=False)
    axes.set_title("CIDEr of each caption (dashed: the mean)", fontsize=10, color=INK, loc="left", **font)


def _beginnings(axes: Any, report: Report, font: dict[str, Any]) -> None:
    groups = list(report.details["by_beginning"].items())[:10]
    rows = np.arange(len(groups))[::-1]
    axes.barh(rows, [group["accuracy"] for _, group in groups], height=0.62, color=BLUE, alpha=0.9)
    for row, (_, group) in zip(rows, groups, strict=True):
        axes.text(1.03, row, f"of {group['questions']}", va="center", fontsize=8, color=FAINT, **font)
    _clean(axes)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1), ylim=(min(-0.6, len(groups) - 8.0), len(groups) - 0.4), yticks=rows)
    axes.set_yticklabels([wrap_text(f"{name} …", 22, 1) for name, _ in groups], color=INK, fontsize=9, **font)
    axes.set_title("by the question's first words", fontsize=10, color=INK, loc="left", **font)


def _example(axes: Any, result: ScoredExample, good: bool, task: str, font: dict[str, Any]) -> None:
    """Plot a picture with a frame that shows its score, and question, prediction and ground truth below."""
    width, height = axes.get_window_extent().width, axes.get_window_extent().height
    room = width * 0.72  # pixels of height for the picture
    color = GREEN if good else RED
    picture = load_thumbnail(result.image, 0, round(width * 2))
    if picture is None:
        axes.text(width / 2, room / 2, Path(result.image).name, ha="center", va="center", fontsize=7, **font)
    else:
        scale = min((width - 8) / picture.width, (room - 8) / picture.height)
        wide, tall = picture.width * scale, picture.height * scale
        left, top = (width - wide) / 2, room - tall - 4
        axes.imshow(picture, extent=(left, left + wide, top + tall, top), interpolation="antialiased", zorder=2)
        axes.add_patch(_frame(left, top, wide, tall, color))
    lines: list[tuple[str, str]] = []
    if result.question:
        lines.append((wrap_text(result.question, 34, 3), INK))
    if task == "retrieval":
        verdict = "found" if result.score else f"not found; its own has {result.prediction}"
        lines.append((wrap_text(verdict, 34, 3), color))
    else:
        lines.append((wrap_text(result.prediction.replace("_", " ") or "(nothing)", 34, 3), color))
        if task == "caption" or result.score < 1:
            lines.append((wrap_text(f"({result.expected.replace('_', ' ')})", 34, 3), FAINT))
    down = room + 8
    for text, shade in lines:
        axes.text(width / 2, down, text, ha="center", va="top", fontsize=8, color=shade, linespacing=1.2, **font)
        down += (text.count("\n") + 1) * 16 + 4
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.axis("off")


def _frame(left: float, top: float, wide: float, tall: float, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), wide, tall, fill=False, edgecolor=color, linewidth=3, zorder=3)
