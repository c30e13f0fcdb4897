"""What every command checks, prints and escapes; run in this process with small random models."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from small_album import draw

import command
from beholder.cli.main import app
from tiny_blip2 import make

OUTPUTS = {"--out", "--report", "--plot", "--html", "--attention", "--captions", "--answers"}
INPUTS = {"--album", "--data", "--folder", "--key-file", "--keywords-from", "--labels-file", "--test"}
OTHERS = {"--log-file"}  # appended to from the start
CALLS = {
    "embed": ["embed", "PICTURE"],
    "similarity": ["similarity", "PICTURE", "--text", "a"],
    "caption": ["caption", "PICTURE"],
    "cluster": ["cluster", "FOLDER"],
    "search": ["search", "a dog", "--album", "NOWHERE"],
    "duplicates": ["duplicates", "--album", "NOWHERE"],
    "outliers": ["outliers", "--album", "NOWHERE"],
    "map": ["map", "--album", "NOWHERE"],
    "evaluate retrieval": ["evaluate", "retrieval", "NOWHERE"],
    "evaluate zero-shot": ["evaluate", "zero-shot", "NOWHERE"],
    "evaluate linear-probe": ["evaluate", "linear-probe", "NOWHERE"],
    "evaluate caption": ["evaluate", "caption", "NOWHERE"],
    "evaluate vqa": ["evaluate", "vqa", "NOWHERE"],
}
FOLDERS = {
    "export": ["export", "NOWHERE", "--format", "onnx"],
    "train clip": ["train", "clip", "NOWHERE"],
    "train bridge": ["train", "bridge", "NOWHERE"],
    "train vlm": ["train", "vlm", "NOWHERE"],
    "train generator": ["train", "generator", "NOWHERE"],
    "generate": ["generate", "a cat", "--model", "NOWHERE"],
    "scale embed": ["scale", "embed", "NOWHERE"],
    "scale index": ["scale", "index", "NOWHERE"],
    "scale select": ["scale", "select", "NOWHERE"],
}
SUFFIX = {"--plot": ".png", "--attention": ".png", "--html": ".html", "--report": ".json", "--captions": ".csv"}
SUFFIX |= {"--answers": ".csv"}


def options() -> list[tuple[str, Any]]:
    """Return every option of every command, with the command's name."""
    found: list[tuple[str, Any]] = []

    def visit(group: Any, path: str) -> None:
        for name, inner in getattr(group, "commands", {}).items():
            visit(inner, f"{path} {name}".strip())
        if not hasattr(group, "commands"):
            found.extend((path, option) for option in group.params if option.param_type_name == "option")

    visit(typer.main.get_command(app), "")
    return found


def outputs() -> list[tuple[str, str]]:
    """Return every option, of every command, that names an output file."""
    return [(command, name) for command, option in options() for name in sorted(OUTPUTS.intersection(option.opts))]


def test_every_option_that_names_a_path_is_known_as_input_or_output() -> None:
    paths = {option.opts[0] for _, option in options() if option.type_descriptor.annotation in (Path, list[Path])}
    assert paths == OUTPUTS | INPUTS | OTHERS, "new outputs must be refused before anything is computed"


def call(words: list[str], folder: Path) -> list[str]:
    picture = draw(folder / "p" / "a.png", 1)
    places = {"PICTURE": str(picture), "FOLDER": str(picture.parent), "NOWHERE": str(folder / "nowhere")}
    return [places.get(word, word) for word in words]


@pytest.mark.parametrize(("name", "option"), [each for each in outputs() if each[0] not in FOLDERS])
def test_an_output_in_a_missing_folder_is_refused_first(name: str, option: str, tmp_path: Path) -> None:
    suffix = SUFFIX.get(option, ".csv" if name == "caption" else ".npy")
    file = tmp_path / "missing" / f"result{suffix}"
    model = ["--model", "no-such-model"]
    run = command.beholder(*call(CALLS[name], tmp_path), option, file, *model)
    assert run.returncode == 2 and f"{option} {file}: there is no folder {file.parent}" in run.stderr
    (tmp_path / f"taken{suffix}").mkdir()
    run = command.beholder(*call(CALLS[name], tmp_path), option, tmp_path / f"taken{suffix}", *model)
    assert run.returncode == 2 and "is a folder; name a file" in run.stderr and not run.stdout


@pytest.mark.parametrize("name", FOLDERS)
def test_an_output_folder_below_a_file_is_refused_first(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = command.beholder(*call(FOLDERS[name], tmp_path), "--out", tmp_path / "file" / "inside")
    assert run.returncode == 2 and f"{tmp_path / 'file'} is a file; name a folder" in run.stderr


def test_every_output_option_of_every_command_is_tested() -> None:
    assert {name for name, _ in outputs()} == {*CALLS, *FOLDERS}


NAMES = [
    "Screenshot at 3.45\u202fPM.png",
    "Photo\u00a0de Zoe.png",
    "東京\u3000駅.png",
    "family \U0001f468\u200d\U0001f469.png",
]
if sys.platform == "linux":
    NAMES += [os.fsdecode(b"latin-\xfc.png"), "a\nb.png"]


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        draw(tmp_path / "p" / "0.png", number).rename(tmp_path / "p" / name)
    return tmp_path / "p"


def test_paths_in_json_output_can_be_opened(named: Path, tiny_model: Path) -> None:
    run = command.beholder("classify", "p", "-l", "cat", "-l", "dog", "--json", "--model", tiny_model)
    assert run.returncode == 0, run.stderr
    found = [json.loads(line)["image"] for line in run.stdout.splitlines()]
    assert sorted(found) == sorted(f"p/{name}" for name in NAMES)
    assert all(Path(name).exists() for name in found)


def test_printed_names_contain_no_control_characters(named: Path, tiny_model: Path) -> None:
    run = command.beholder("classify", "p", "-l", "cat", "--model", tiny_model)
    assert len(run.stdout.splitlines()) == len(NAMES) and run.returncode == 0


def test_names_saved_beside_embeddings_match_the_files(named: Path, tiny_model: Path) -> None:
    run = command.beholder("embed", "p", "--out", "v.npy", "--model", tiny_model)
    assert run.returncode == 0, run.stderr
    listed = Path("v.txt").read_bytes().splitlines()
    assert sorted(listed) == sorted(os.fsencode(f"p/{name}").replace(b"\n", b" ") for name in NAMES)
    assert np.load("v.npy").shape[0] == len(NAMES)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_captions_of_files_with_any_name_are_written_once_and_evaluated(
    named: Path, suffix: str, tmp_path: Path
) -> None:
    make("opt", tmp_path / "blip2")
    caption = ["caption", "p", "--num-beams", "1", "--model", tmp_path / "blip2", "--out", f"c{suffix}"]
    assert command.beholder(*caption).returncode == 0
    again = command.beholder(*caption)
    assert f"0 captions added, {len(NAMES)} in all" in again.stdout, again.stderr
    rows = [{"image": f"p/{name}", "captions": ["a drawing"]} for name in NAMES]
    Path("e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pytest.importorskip("pycocoevalcap", reason="needs the extra evaluate")
    run = command.beholder(
        "evaluate", "caption", "e.jsonl", "--captions", f"w{suffix}", "--num-beams", "1", "--model", tmp_path / "blip2"
    )
    assert run.returncode == 0 and "CIDEr" in run.stdout, run.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("as_json", [False, True])
def test_unencodable_characters_are_escaped(
    encoding: str, as_json: bool, named: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = named.parent / "stdout"
    with written.open("w", encoding=encoding, newline="\n") as stdout, monkeypatch.context() as patch:
        patch.setattr("sys.argv", ["beholder", "classify", "p", "-l", "猫", "-l", "dog", "--model", str(tiny_model)])
        if as_json:
            sys.argv.append("--json")
        patch.setattr("sys.stdout", stdout)
        from beholder.cli.main import run

        with pytest.raises(SystemExit) as end:
            run()
    assert not end.value.code
    lines = written.read_text(encoding).split("\n")[:-1]
    assert len(lines) == len(NAMES)
    if as_json:
        rows = [json.loads(line) for line in lines]
        assert all(Path(row["image"]).exists() for row in rows)
        assert all({label["label"] for label in row["labels"]} == {"猫", "dog"} for row in rows)
