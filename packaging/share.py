"""Write the man pages and shell completions of ``beholder`` where packages of a distribution put them.

python packaging/share.py build/share

The man pages are those of the commands' help; the completions are Typer's, which ask ``beholder`` itself, so that they
know every command and option of the version that is installed.
"""

import argparse
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.completion import get_completion_script

from beholder import __version__
from beholder.cli.main import app

COMPLETIONS = {
    "bash": "bash-completion/completions/beholder",
    "zsh": "zsh/site-functions/_beholder",
    "fish": "fish/vendor_completions.d/beholder.fish",
}
EXIT_STATUS = """.SH EXIT STATUS
0 if everything succeeded, 1 if some inputs failed (each is named, the rest is done), 2 for a usage error, 130 if
interrupted.
"""


def walk(command: Any, context: typer.Context) -> Iterator[tuple[Any, typer.Context]]:
    """Yield a command with its context, and all commands below it."""
    yield command, context
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from walk(child, typer.Context(child, info_name=name, parent=context))


def escape(text: str) -> str:
    """Return text as roff that prints as it is, in ASCII: hyphens can be copied, and no line is a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    text = re.sub(r"[^\x00-\x7f]", lambda match: rf"\[u{ord(match[0]):04X}]", text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def paragraphs(text: str) -> str:
    """Return the text of a help as roff; paragraphs after Click's marker keep their lines."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\b\n", "\n\n\b").strip()):
        kept = paragraph.startswith("\b") or paragraph.startswith("beholder ")
        body = escape(paragraph.strip("\b\n"))
        parts.append(f".PP\n.nf\n.RS 4\n{body}\n.RE\n.fi\n" if kept else f".PP\n{body}\n")
    return "".join(parts)


def man_page(command: Any, context: typer.Context, date: str) -> str:
    """Return the man page of a command."""
    title = context.command_path.replace(" ", "-")
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f'.TH "{title.upper()}" 1 "{date}" "Beholder {__version__}" "Beholder"\n',
        f".SH NAME\n{escape(title)} \\- {escape(command.get_short_help_str(limit=200).rstrip('.'))}\n",
        f".SH SYNOPSIS\n.B {escape(context.command_path)}\n{escape(usage)}\n",
        f".SH DESCRIPTION\n{paragraphs(command.help or '')}",
    ]
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    if records:
        parts.append(".SH OPTIONS\n")
        parts += [f".TP\n.B {escape(names)}\n{escape(says) or '.br'}\n" for names, says in records]
    children = sorted(getattr(command, "commands", {}).items())
    if children:
        parts.append(".SH COMMANDS\n")
        for name, child in children:
            parts.append(f".TP\n.BR {escape(title)}\\-{escape(name)} (1)\n{escape(child.get_short_help_str(200))}\n")
    parts.append(EXIT_STATUS)
    return "".join(parts)


def write_share(folder: Path) -> list[Path]:
    """Write man pages and completions below a folder, such as ``/usr/share``, and return their paths."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    root = typer.main.get_command(app)
    files = {}
    for command, context in walk(root, typer.Context(root, info_name="beholder")):
        name = context.command_path.replace(" ", "-")
        files[folder / "man" / "man1" / f"{name}.1"] = man_page(command, context, date)
    for shell, place in COMPLETIONS.items():
        script = get_completion_script(prog_name="beholder", complete_var="_BEHOLDER_COMPLETE", shell=shell)
        files[folder / place] = script.strip() + "\n"
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return list(files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="such as build/share, or /usr/share while a package is built")
    print(f"{len(write_share(parser.parse_args().folder))} files")
