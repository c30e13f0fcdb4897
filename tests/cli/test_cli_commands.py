import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from awkward import AWKWARD

import command

BAD_CALLS = {
    "no labels": ["classify", "PICTURE"],
    "none with multi": ["classify", "PICTURE", "--label", "a", "--none", "--multi"],
    "template without a place": ["classify", "PICTURE", "--label", "a", "--template", "no place"],
    "nothing to embed": ["embed"],
    "an output of unknown kind": ["embed", "PICTURE", "--out", "vectors.csv"],
    "an empty folder": ["embed", "EMPTY"],
}


def beholder(*arguments: str, model: Path | None = None) -> subprocess.CompletedProcess[str]:
    return command.beholder(*arguments, *([] if model is None else ["--model", model]))


def lines(run: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_embed_prints_one_json_object_per_line_with_unit_vectors(tiny_model: Path, photographs: list[Path]) -> None:
    run = beholder("embed", str(photographs[0]), "--text", "a dog", "--json", model=tiny_model)
    assert run.returncode == 0, run.stderr
    rows = lines(run)
    assert [row["kind"] for row in rows] == ["image", "text"]
    assert all(set(row) == {"input", "kind", "embedding"} for row in rows)
    assert all(np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5) for row in rows)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_embed_writes_the_same_vectors_that_it_prints(
    tiny_model: Path, photographs: list[Path], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"vectors{suffix}"
    run = beholder("embed", *map(str, photographs), "--out", str(out), "--json", model=tiny_model)
    assert run.returncode == 0, run.stderr
    printed = np.array([row["embedding"] for row in lines(run)], np.float32)
    if suffix == ".npy":
        saved = np.load(out)
    else:
        import pyarrow.parquet

        saved = np.array(pyarrow.parquet.read_table(out)["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(saved, printed)


def test_similarity_prints_cosine_and_match_and_plots(
    tiny_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    plot = tmp_path / "matrix.png"
    run = beholder(
        "similarity", str(photographs[0]), "-t", "a dog", "-t", "a cat", "--plot", str(plot), "--json", model=tiny_model
    )
    assert run.returncode == 0, run.stderr
    rows = lines(run)
    assert [row["text"] for row in rows] == ["a dog", "a cat"]
    assert all(set(row) == {"image", "text", "cosine", "match"} and 0 <= row["match"] <= 1 for row in rows)
    assert plot.stat().st_size > 1000


def test_classify_probabilities_sum_to_one(tiny_model: Path, photographs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\n# not this\n\nhorse\n", encoding="utf-8")
    run = beholder(
        "classify", str(photographs[0]), "-l", "dog", "--labels-file", str(file), "--none", "--json", model=tiny_model
    )
    assert run.returncode == 0, run.stderr
    (row,) = lines(run)
    assert set(row) == {"image", "labels"}
    assert {label["label"] for label in row["labels"]} == {"dog", "cat", "horse", "none of these"}
    assert sum(label["probability"] for label in row["labels"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_a_usage_error_exits_with_2_and_a_message(
    call: list[str], tiny_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    names = {"PICTURE": str(photographs[0]), "EMPTY": str(tmp_path / "empty")}
    (tmp_path / "empty").mkdir()
    run = beholder(*[names.get(word, word) for word in call], model=tiny_model)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("beholder: ") and "Traceback" not in run.stderr


def test_the_error_names_an_unknown_model(photographs: list[Path], tmp_path: Path) -> None:
    run = beholder("embed", str(photographs[0]), model=tmp_path / "no-such-model")
    assert run.returncode == 2
    assert "no-such-model" in run.stderr and "Traceback" not in run.stderr


def test_unreadable_pictures_are_reported_and_the_rest_is_processed(tiny_model: Path, tmp_path: Path) -> None:
    sources, bad, good = [], [], []
    for number, case in enumerate(AWKWARD):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = str(case.make(folder))
        if source.startswith("http") or not source or source.startswith("-"):
            continue
        sources.append(source)
        (good if case.error is None else bad).append(source)
    # a folder on the command line expands to its pictures; a name may be too long for Path.is_dir
    folders = [source for source in bad if os.path.isdir(source)]  # noqa: PTH112
    sources = [source for source in sources if source not in folders]
    assert len(good) >= 20 and len(bad) >= 20
    run = beholder("embed", "--json", *sources, model=tiny_model)
    assert run.returncode == 1, run.stderr
    assert [row["input"] for row in lines(run)] == good
    assert "Traceback" not in run.stderr
    folders_named = [str(Path(source).parent) for source in bad if source.startswith("/") and source not in folders]
    assert [folder for folder in folders_named if f"{folder}/" not in run.stderr] == []


@pytest.mark.slow
def test_a_closed_output_pipe_ends_the_command_quietly(tiny_model: Path, photographs: list[Path]) -> None:
    program = f"{sys.executable} -c 'from beholder.cli.main import run; run()'"
    pictures = " ".join(str(path) for path in photographs * 20)
    shell = f"{program} embed {pictures} --json --model {tiny_model} | head -n 1"
    run = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=os.environ, check=False)
    assert len(run.stdout.splitlines()) == 1
    assert "Traceback" not in run.stderr


def test_doctor_reports_its_checks(tiny_model: Path) -> None:
    run = beholder("doctor", str(tiny_model), "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(set(row) == {"check", "ok", "detail"} for row in lines(run))


def test_models_lists_mini_whether_or_not_it_is_downloaded() -> None:
    run = beholder("models", "--json")
    assert run.returncode == 0, run.stderr
    assert "mini" in {row["name"].split("-")[0] for row in lines(run)}
