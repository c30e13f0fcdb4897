"""Man pages and shell completions: every command and option is in them, and shells can use them."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from beholder.cli.main import app

ROOT = Path(__file__).parent.parent
SHARE = runpy.run_path(str(ROOT / "packaging" / "share.py"))
COMMANDS = list(SHARE["walk"](root := typer.main.get_command(app), typer.Context(root, info_name="beholder")))


@pytest.fixture(name="share", scope="module")
def _share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    SHARE["write_share"](folder)
    return folder


def man_page(share: Path, path: str) -> Path:
    return share / "man" / "man1" / f"{path.replace(' ', '-')}.1"


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=[each.command_path for _, each in COMMANDS])
def test_every_command_has_a_man_page_with_all_its_options(
    command: typer.core.TyperCommand, context: typer.Context, share: Path
) -> None:
    text = man_page(share, context.command_path).read_text("utf-8").replace(r"\-", "-")
    options = [name for each in command.params for name in (*each.opts, *each.secondary_opts) if name[0] == "-"]
    assert options or command.commands
    for name in options:
        assert re.search(rf"^\.B .*(?<![\w-]){re.escape(name)}(?![\w-])", text, re.M), name
    for name in getattr(command, "commands", {}):
        assert f".BR {context.command_path.replace(' ', '-')}-{name} (1)" in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_formats_the_man_pages_without_a_warning(share: Path) -> None:
    pages = sorted((share / "man" / "man1").iterdir())
    assert len(pages) == len(COMMANDS)
    run = subprocess.run(["groff", "-ww", "-man", "-Tutf8", *pages], capture_output=True, text=True, check=True)
    assert not run.stderr
    plain = re.sub(r"\x1b\[[\d;]*m|.\x08", "", run.stdout)
    assert "beholder serve --album my-album --folder ~/Pictures" in plain


def complete(share: Path, folder: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    program = folder / "beholder"
    lines = (
        f"#!{sys.executable}",
        "import sys",
        "from beholder.cli.main import run",
        "sys.argv[0] = 'beholder'",
        "run()",
    )
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _beholder_completion beholder; '
    script += "printf '%s\\n' \"${COMPREPLY[@]}\""
    order = ["bash", "-c", script, "bash", share / "bash-completion/completions/beholder", *words]
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(order, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    assert not run.stderr
    return run.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("command", "context"), [each for each in COMMANDS if each[1].info_name in ("beholder", "serve")]
)
def test_bash_completes_commands_and_options(
    command: typer.core.TyperCommand, context: typer.Context, share: Path, tmp_path: Path
) -> None:
    words = context.command_path.split()
    commands = set(getattr(command, "commands", {}))
    if commands:
        assert set(complete(share, tmp_path, *words, "")) == commands
    else:
        offered = complete(share, tmp_path, *words, "--")
        assert {name for each in command.params for name in each.opts if name.startswith("--")} <= set(offered)
        assert complete(share, tmp_path, *words, "--key-f") == ["--key-file"]


@pytest.mark.parametrize("shell", SHARE["COMPLETIONS"])
def test_a_completion_asks_the_program(shell: str, share: Path) -> None:
    text = (share / SHARE["COMPLETIONS"][shell]).read_text("utf-8")
    assert f"_BEHOLDER_COMPLETE=complete_{shell}" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)
