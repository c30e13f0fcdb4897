"""The commands and code in the READMEs and the guide are valid, and both READMEs have the same ones."""

import re
import shlex

import pytest
import typer
from click.exceptions import ClickException

from beholder.cli.main import app
from examples import GUIDE, READMES, ROOT, code, commands, python


def test_both_readmes_have_the_same_code() -> None:
    english, chinese = (code(readme.read_text(encoding="utf-8")) for readme in READMES)
    assert english == chinese
    assert len(commands(READMES[0])) > 10


def test_both_readmes_have_the_same_sections() -> None:
    english, chinese = (re.findall(r"^#+ ", readme.read_text(encoding="utf-8"), re.M) for readme in READMES)
    assert english == chinese


@pytest.mark.slow
@pytest.mark.parametrize("line", dict.fromkeys(line for page in (READMES[0], *GUIDE) for line in commands(page)))
def test_a_documented_command_parses(line: str) -> None:
    group = typer.main.get_command(app)
    name, *rest = shlex.split(line)[1:]
    command = group.commands[name]  # type: ignore[attr-defined]
    while subcommands := getattr(command, "commands", None):
        command, *rest = subcommands[rest[0]], *rest[1:]
    try:
        command.make_context(name, rest)
    except ClickException as error:
        pytest.fail(f"{line}: {error.format_message()}")


def test_relative_links_exist() -> None:
    for readme in READMES:
        for target in re.findall(r"\]\(([^)#:]+)\)", readme.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{readme.name}: {target}"


def test_the_python_examples_compile() -> None:
    for page in (*READMES, *GUIDE):
        for block in python(page):
            compile(block, page.name, "exec")


def test_the_guide_has_a_page_for_each_audience() -> None:
    found = {page.stem for page in GUIDE if commands(page)}
    assert found >= {"quick-start", "photographer", "shop", "python", "researcher", "engineer"}
