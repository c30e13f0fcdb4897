import ast
import subprocess
import sys
from pathlib import Path

import pytest

import beholder

PACKAGE = Path(beholder.__file__).parent
ROOMS = "version errors files pictures text models weights runtime tasks evaluation training"
ORDER = [*ROOMS.split(), "album", "scale", "server", "notebook", "cli"]
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
    folder = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if folder in ("__init__", "__main__"):
        return  # the entry points may import every folder
    later = {name for name in imported(path) if ORDER.index(name) > ORDER.index(folder)}
    assert not later


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module imports, including imports inside functions and under TYPE_CHECKING."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        found = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: a relative import"
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {part if part in sources else str(node.module) for part in parts}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = (found & set(sources)) - {name}
    return graph


def import_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the import cycles: groups of modules that all import each other, directly or indirectly."""

    def reached(start: str) -> set[str]:
        visited: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - visited
            visited |= new
            waiting += new
        return visited

    reach = {name: reached(name) for name in graph}
    groups = {tuple(sorted({name} | {other for other in reach[name] if name in reach[other]})) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def test_no_files_import_each_other_in_a_cycle() -> None:
    graph = import_graph({module_name(path): path.read_text() for path in MODULES})
    assert sum(map(len, graph.values())) > len(graph), "the imports are not found"
    assert import_cycles(graph) == []


@pytest.mark.parametrize(
    "back",
    [
        "import a.one",
        "from a.one import x",
        "from a import one",
        "def f():\n    from a.one import x",
        "if TYPE_CHECKING:\n    from a.one import x",
        "from a.three import y",
    ],
)
def test_a_cycle_is_found_wherever_the_import_is(back: str) -> None:
    sources = {"a": "", "a.one": "from a.two import x", "a.two": back, "a.three": "import a.one", "a.four": "import a"}
    found = ["a.one", "a.three", "a.two"] if "three" in back else ["a.one", "a.two"]
    assert import_cycles(import_graph(sources)) == [found]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_check_is_an_assert_that_python_o_removes(path: Path) -> None:
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
def test_heavy_libraries_are_imported_lazily(program: str) -> None:
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


@pytest.mark.slow
def test_help_takes_less_than_a_fifth_of_a_second() -> None:
    """Measure CPU time, since wall-clock time depends on other processes.

    On a slow processor, the limit scales with the start-up time of Python alone.
    """
    report_time = "finally: print(time.process_time(), file=sys.stderr)"
    show_help = "import sys, time; sys.argv = ['beholder', '--help']; from beholder.cli.main import run\ntry: run()\n"
    alone = "import sys, time\ntry: pass\n"
    cpu_times: dict[str, list[float]] = {show_help: [], alone: []}
    for program in [show_help, alone] * 7:
        run = subprocess.run([sys.executable, "-c", program + report_time], capture_output=True, check=True)
        assert (b"Commands:" in run.stdout) == (program == show_help)
        cpu_times[program].append(float(run.stderr))
    assert min(cpu_times[show_help]) < max(0.2, 20 * min(cpu_times[alone]))


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(beholder, name) is not None for name in beholder.__all__)
