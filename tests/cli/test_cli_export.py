"""export, driven as a person would."""

import json
from pathlib import Path

import pytest

from beholder.cli.main import run as program
from tiny_blip2 import make


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["beholder", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        program()
    return int(left.value.code or 0)


def test_a_model_that_a_layout_can_not_hold_is_a_wrong_call(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(monkeypatch, tiny_model, "--format", "transformers", "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert said.out == "" and "onnx works for every dual encoder" in said.err and "Traceback" not in said.err
    assert export(monkeypatch, tiny_model, "--format", "tflite", "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_a_vision_language_model_is_told_from_a_dual_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("opt", tmp_path / "theirs")
    capsys.readouterr()
    arguments = [tmp_path / "theirs", "--format", "transformers", "--out", tmp_path / "out", "--json"]
    assert export(monkeypatch, *arguments) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {"model": str(tmp_path / "theirs"), "format": "transformers", "path": str(tmp_path / "out")}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Blip2ForConditionalGeneration"]
