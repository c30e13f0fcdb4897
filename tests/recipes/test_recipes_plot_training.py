"""The log of a training, read for a plot."""

import json
from pathlib import Path

import pytest

from plot_training import read_log, series


def test_a_step_repeated_after_an_interruption_counts_once(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 1.0, "accuracy": 0.5}]
    file = tmp_path / "stage.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_log(file)
    assert [row["loss"] for row in read] == [3.0, 1.0]
    assert series(read, "accuracy", 20) == ([2], [0.5])
    assert series(read, "loss", 1) == ([1, 2], pytest.approx([3.0, 1.0]))
