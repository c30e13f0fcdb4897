"""Plots of reports: any report can be drawn, and its examples are shown."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.errors import InvalidSetting
from beholder.evaluation.bootstrap import Metric
from beholder.evaluation.report import Report, ScoredExample
from beholder.evaluation.report_plot import plot_report, select_examples

pytest.importorskip("matplotlib", reason="drawing needs the extra beholder[plot]")

FIGURES = [Metric("top1", 0.5, 0.4, 0.6), Metric("mean_per_class", 0.4, 0.3, 0.5)]
CURVE = {"k": [1, 2, 3], "text_to_image": [0.2, 0.4, 0.6], "image_to_text": [0.3, 0.4, 0.5]}


def results(paths: list[Path]) -> list[ScoredExample]:
    return [
        ScoredExample(str(path), "a 'dog' $x$ 一只狗 \ud800", "cat " * 40, float(number % 2), "what?" * (number % 3))
        for number, path in enumerate(paths)
    ]


def report(task: str, paths: list[Path], labels: int = 3) -> Report:
    names = [f"label {number}" for number in range(labels)]
    details = {
        "captions": 9,
        "curve": CURVE,
        "confusion": {name: {name: 3, names[0]: 1} for name in names},
        "different": 4,
        "questions": 8,
        "by_beginning": {"how many": {"questions": 5, "accuracy": 0.4}},
    }
    settings = {"labels": names, "templates": ["a {}"], "strength": 0.1, "fitted": 10}
    return Report(task, "/models/tiny", "/data/x.jsonl", 4, FIGURES, [("a", "b")], settings, details, results(paths))


@pytest.mark.parametrize("task", ["retrieval", "zero-shot", "linear-probe", "caption", "vqa"])
def test_the_plot_of_every_task_shows_its_pictures(task: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    paths = []
    for name, colour in (("a", "red"), ("b", "lime"), ("c", "yellow"), ("d", "cyan")):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", (90, 60), colour).save(paths[-1])
    plot_report(tmp_path / "report.png", report(task, [*paths, tmp_path / "gone.png"]))
    with Image.open(tmp_path / "report.png") as drawn:
        counted = {colour: count for count, colour in drawn.convert("RGB").getcolors(drawn.width * drawn.height)}
        assert 1000 < drawn.width < 2000 and 700 < drawn.height < 1100
    shown = [counted.get(colour, 0) > 3000 for colour in ((255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 255, 255))]
    assert all(shown)
    assert not recwarn


@pytest.mark.parametrize("labels", [2, 24, 300])
def test_any_number_of_labels_can_be_drawn(labels: int, tmp_path: Path) -> None:
    plot_report(tmp_path / "report.png", report("zero-shot", [], labels))
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_a_file_name_other_than_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="PNG"):
        plot_report(tmp_path / "report.pdf", report("vqa", []))


def test_half_of_the_examples_are_good_half_are_bad_and_all_pictures_differ() -> None:
    scores = [*np.linspace(0, 1, 20), 1.0, 1.0, 0.0]
    many = [ScoredExample(f"{number // 2}.jpg", "", "", float(score)) for number, score in enumerate(scores)]
    chosen = select_examples(many)
    assert len({result.image for result, _ in chosen}) == 6
    assert [good for _, good in chosen] == [True] * 3 + [False] * 3
    assert min(r.score for r, good in chosen if good) > max(r.score for r, good in chosen if not good)
    assert select_examples([]) == []
    alike = select_examples([ScoredExample(f"{number}.jpg", "", "", 1.0) for number in range(9)])
    assert len({result.image for result, good in alike if good}) == 6
    assert len(select_examples([ScoredExample("a.jpg", "", "", 1.0), ScoredExample("b.jpg", "", "", 0.0)])) == 2
