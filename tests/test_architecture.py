import ast
import subprocess
import sys
from pathlib import Path

import pytest

import beholder

PACKAGE = Path(beholder.__file__).parent
ROOMS = "version errors files pictures text models weights runtime tasks evaluation training album server notebook cli"
ORDER = ROOMS.split()
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("beholder."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("beholder.")}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_folders_above_its_own(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return  # the front doors open to every room
    below = {name for name in imported(path) if ORDER.index(name) > ORDER.index(room)}
    assert not below


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_check_is_an_assert_that_an_option_of_python_removes(path: Path) -> None:
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


def loaded_by(program: str) -> set[str]:
    code = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stderr.split()}


@pytest.mark.parametrize(
    "program",
    ["import beholder", "sys.argv = ['beholder', '--help']; from beholder.cli.main import run; run()"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(program: str) -> None:
    assert not loaded_by(program) & {
        "torch",
        "transformers",
        "numpy",
        "PIL",
        "tokenizers",
        "safetensors",
        "apsw",
        "faiss",
    }


def test_help_takes_less_than_a_fifth_of_a_second() -> None:
    """Of the processor's time: what other programs take of it meanwhile is not the command's.

    A processor on which Python alone starts slowly has as much longer.
    """
    told = "finally: print(time.process_time(), file=sys.stderr)"
    asked = "import sys, time; sys.argv = ['beholder', '--help']; from beholder.cli.main import run\ntry: run()\n"
    alone = "import sys, time\ntry: pass\n"
    taken: dict[str, list[float]] = {asked: [], alone: []}
    for program in [asked, alone] * 7:
        run = subprocess.run([sys.executable, "-c", program + told], capture_output=True, check=True)
        assert (b"Commands:" in run.stdout) == (program == asked)
        taken[program].append(float(run.stderr))
    assert min(taken[asked]) < max(0.2, 20 * min(taken[alone]))


def test_every_public_name_can_be_loaded() -> None:
    assert all(getattr(beholder, name) is not None for name in beholder.__all__)
