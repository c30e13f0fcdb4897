"""export on the command line."""

import json
from pathlib import Path

import pytest

from beholder.cli.main import run as program
from tiny_blip2 import make


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["beholder", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        program()
    return int(exited.value.code or 0)


def test_a_format_that_cannot_represent_the_model_is_a_usage_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(monkeypatch, tiny_model, "--format", "transformers", "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert (
        captured.out == "" and "onnx works for every dual encoder" in captured.err and "Traceback" not in captured.err
    )
    assert export(monkeypatch, tiny_model, "--format", "tflite", "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_export_distinguishes_vision_language_models_from_dual_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("opt", tmp_path / "checkpoint")
    capsys.readouterr()
    arguments = [tmp_path / "checkpoint", "--format", "transformers", "--out", tmp_path / "out", "--json"]
    assert export(monkeypatch, *arguments) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {"model": str(tmp_path / "checkpoint"), "format": "transformers", "path": str(tmp_path / "out")}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Blip2ForConditionalGeneration"]
