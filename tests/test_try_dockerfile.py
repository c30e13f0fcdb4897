"""The Dockerfile's steps can be followed without Docker: each instruction has its effect, and none is passed over."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

import debian_root
import try_dockerfile
from try_dockerfile import UnknownInstruction, build

PROJECT = Path(__file__).parent.parent


@pytest.fixture(name="runs")
def _runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Record what RUN would run, with its environment and folder."""
    runs: list[tuple[str, dict[str, Any]]] = []

    def run_in(root: Path, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        runs.append((command[-1], options))
        if "/opt/beholder" in command[-1]:
            (root / "opt/beholder/bin").mkdir(parents=True, exist_ok=True)
            (root / "opt/beholder/bin/python").symlink_to("/usr/bin/python3")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(try_dockerfile, "run_in", run_in)
    return runs


def carry_out(tmp_path: Path, text: str) -> try_dockerfile.Stage:
    """Build a Dockerfile whose context is a folder with the file "a" and the folder "source"."""
    context = tmp_path / "context"
    (context / "source" / "inner").mkdir(parents=True)
    (context / "a").write_text("a")
    (context / "source" / "inner" / "b").write_text("b")
    (context / "Dockerfile").write_text(text)
    roots = (tmp_path / f"root{number}" for number in range(9))

    def make_base(image: str) -> Path:
        root = next(roots)
        root.mkdir()
        (root / "image").write_text(image)
        return root

    return build(context / "Dockerfile", context, make_base, {"CERTIFICATES": "/c"})


def test_instructions_have_their_effect(tmp_path: Path, runs: list[tuple[str, dict[str, Any]]]) -> None:
    stage = carry_out(
        tmp_path,
        '# a comment\nFROM one AS build\nARG NUMBER=3\nENV A=x$NUMBER B="two words"\nWORKDIR /built\nCOPY a ./\n'
        "RUN first \\\n    second\nFROM two\nCOPY source /source\nCOPY --from=build /built/a /copied\nUSER 7:8\n"
        'VOLUME ["/v"]\nEXPOSE 80\nHEALTHCHECK --interval=3s CMD ["ask", "it"]\nENTRYPOINT ["run"]\nCMD ["serve"]\n',
    )
    assert (tmp_path / "root0/built/a").read_text() == "a"
    assert (stage.root / "image").read_text() == "two"
    assert (stage.root / "source/inner/b").read_text() == "b" and (stage.root / "copied").read_text() == "a"
    ((command, options),) = runs
    assert command.split() == ["first", "second"]
    assert options["folder"] == "/built"
    assert options["environment"] == {"CERTIFICATES": "/c", "NUMBER": "3", "A": "x3", "B": "two words"}
    assert (stage.user, stage.volumes, stage.health) == ("7:8", ["/v"], ["ask", "it"])
    assert stage.entrypoint + stage.command == ["run", "serve"]
    assert stage.environment == {} and stage.folder == "/"


@pytest.mark.parametrize(
    "text",
    ["FROM one\nONBUILD RUN x", "FROM one\nCMD run it", "FROM one\nCOPY --chmod=600 a /a", "RUN x", "# nothing"],
)
def test_an_instruction_that_is_not_known_is_refused(
    tmp_path: Path, runs: list[tuple[str, dict[str, Any]]], text: str
) -> None:
    with pytest.raises(UnknownInstruction):
        carry_out(tmp_path, text)


def test_all_instructions_of_the_dockerfile_are_known(tmp_path: Path, runs: list[tuple[str, dict[str, Any]]]) -> None:
    context = tmp_path / "context"
    (context / "src").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "requirements.lock"):
        (context / name).write_text(name)
    images = []

    def make_base(image: str) -> Path:
        images.append(image)
        root = tmp_path / f"root{len(images)}"
        root.mkdir()
        return root

    stage = build(PROJECT / "Dockerfile", context, make_base, {})
    assert set(images) <= try_dockerfile.BASES.keys()
    assert (stage.root / "opt/beholder/bin/python").is_symlink()
    assert any("uv pip install" in command and options["folder"] == "/source" for command, options in runs)
    assert stage.user == "10001:10001" and stage.command[0] == "serve" and stage.health[0] == "python"
    assert stage.environment["PATH"] == "/opt/beholder/bin:/usr/local/bin:/usr/bin:/bin"


def test_a_command_in_a_root_sees_its_own_environment_alone() -> None:
    order = debian_root.order_in(
        Path("/a root"), ["run", "it's"], user="1:2", environment={"A": "x y"}, folder="/f", writable=["/tmp"]
    )
    script = order[-1].splitlines()
    assert script[-1].startswith("exec chroot --userspec=1:2 --groups= '/a root' env -i --chdir=/f PATH=")
    assert script[-1].endswith("""HOME=/root 'A=x y' run 'it'"'"'s'""")
    assert script.index("mount --bind '/a root/tmp' '/a root/tmp'") < script.index("mount -o remount,bind,ro '/a root'")
