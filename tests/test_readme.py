"""What the READMEs say can be typed can be typed, and the two say the same."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from click.exceptions import ClickException

from beholder.cli.main import app

ROOT = Path(__file__).parent.parent
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")


def code(readme: Path) -> list[str]:
    """The lines of all code blocks and indented commands, without their remarks."""
    text = readme.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\w+\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines += re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return [stripped for line in lines if (stripped := re.sub(r"\s+#.*$", "", line).rstrip())]


def commands() -> list[str]:
    return [line for line in code(READMES[0]) if line.startswith("beholder ")]


def test_both_readmes_show_the_same() -> None:
    english, chinese = map(code, READMES)
    assert english == chinese
    assert len(commands()) > 10


def test_both_readmes_have_the_same_sections() -> None:
    english, chinese = (re.findall(r"^#+ ", readme.read_text(encoding="utf-8"), re.M) for readme in READMES)
    assert english == chinese


@pytest.mark.parametrize("line", commands())
def test_a_command_can_be_typed(line: str) -> None:
    group = typer.main.get_command(app)
    name, *rest = shlex.split(line)[1:]
    command = group.commands[name]  # type: ignore[attr-defined]
    try:
        command.make_context(name, rest)
    except ClickException as error:
        pytest.fail(f"{line}: {error.format_message()}")


def test_links_lead_somewhere() -> None:
    for readme in READMES:
        for target in re.findall(r"\]\(([^)#:]+)\)", readme.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{readme.name}: {target}"


def test_the_python_runs_as_shown(tmp_path: Path) -> None:
    for readme in READMES:
        for block in re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.S):
            compile(block, readme.name, "exec")
