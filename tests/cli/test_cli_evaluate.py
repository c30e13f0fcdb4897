"""evaluate on the command line, with small random models."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from beholder.cli.main import run as program
from tiny_blip2 import make


class Run(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def vision_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip2")
    make("opt", folder)
    return folder


class Evaluate:
    """Runs the program in this process, so that torch is imported once; the cache is private to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path):
        self.monkeypatch, self.capsys = monkeypatch, capsys
        monkeypatch.setenv("BEHOLDER_CACHE", str(cache))

    def __call__(self, *arguments: str | Path) -> Run:
        self.monkeypatch.setattr("sys.argv", ["beholder", "evaluate", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            program()
        return Run(int(exited.value.code or 0), *self.capsys.readouterr())


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Evaluate:
    return Evaluate(monkeypatch, capsys, tmp_path / "cache")


def lines(folder: Path, photographs: list[Path]) -> Path:
    """Write data that every task can read."""
    rows = [
        {"image": str(path.relative_to(folder)), "captions": ["a dog"], "label": "ab"[number % 2]}
        | {"question": "what?", "answer": "dog"}
        for number, path in enumerate(photographs)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "zero-shot", "linear-probe", "caption", "vqa"])
def test_every_task_prints_saves_and_plots_its_metrics(
    evaluate: Evaluate,
    task: str,
    tiny_model: Path,
    vision_language_model: Path,
    photographs: list[Path],
    tmp_path: Path,
) -> None:
    model = vision_language_model if task in ("caption", "vqa") else tiny_model
    more = ["--test", lines(tmp_path, photographs)] if task == "linear-probe" else []
    outputs = [*more, "--report", tmp_path / "report.json", "--plot", tmp_path / "report.png"]
    data = lines(tmp_path, photographs)
    run = evaluate(task, data, "--model", model, "--json", *outputs)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows and all(set(row) == {"metric", "value", "low", "high"} for row in rows)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["figures"] == rows
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_a_folder_of_classes_and_a_picture_that_is_broken(
    evaluate: Evaluate, tiny_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    for number, path in enumerate(photographs):
        (tmp_path / "classes" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "classes" / "ab"[number % 2] / path.name)
    (tmp_path / "classes" / "a" / "text.jpg").write_text("no picture")
    run = evaluate("zero-shot", tmp_path / "classes", "--model", tiny_model)
    assert run.returncode == 1
    assert "text.jpg" in run.stderr and "1 picture left out; the metrics are over 4" in run.stderr
    assert "top1" in run.stdout and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (["vqa", "LABELS"], "line 1: not a JSON object with image, question and answer"),
        (["zero-shot", "LABELS", "--plot", "report.pdf"], "must end in .png"),
        (["zero-shot", "LABELS", "--report", "nowhere/report.json"], "there is no folder nowhere"),
        (["zero-shot", "LABELS", "--template", "no place"], "stands for the label"),
        (["caption", "LABELS"], "image and captions"),
    ],
)
def test_a_usage_error_is_reported_before_loading_a_model(
    evaluate: Evaluate, arguments: list[str], message: str, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"image": "a.jpg", "label": "a"}\n{"image": "b.jpg", "label": "b"}\n')
    named = [str(labels) if word == "LABELS" else word for word in arguments]
    run = evaluate(*named, "--model", tmp_path / "no-such-model")
    assert run.returncode == 2 and run.stdout == ""
    assert message in run.stderr and "no-such-model" not in run.stderr and "Traceback" not in run.stderr


def test_the_exit_code_is_nonzero_if_no_picture_is_usable(evaluate: Evaluate, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"image": "a.jpg", "captions": ["a"]}\n')
    run = evaluate("retrieval", tmp_path / "data.jsonl", "--model", tiny_model)
    assert run.returncode == 1 and "none of the 1 pictures can be used" in run.stderr
