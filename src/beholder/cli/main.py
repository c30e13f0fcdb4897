"""The command line: one file a command, and nothing heavy imported before a command runs."""

import sys

import typer

from beholder.cli import ask, caption, chat, classify, doctor, embed, models, pull, similarity
from beholder.errors import BeholderError

app = typer.Typer(
    help="Sees pictures and tells you about them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (embed, similarity, classify, caption, ask, chat, pull, models, doctor):
    app.command(name=command.__name__.rpartition(".")[2])(command.command)


@app.callback(invoke_without_command=True)
def front(version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True)) -> None:
    """Sees pictures and tells you about them."""
    if version:
        from beholder import __version__

        print(__version__)
        raise typer.Exit


def run() -> None:
    """The program ``beholder``: exit 0 all done, 1 some inputs failed, 2 the call is wrong, 130 interrupted."""
    try:
        app()
    except BeholderError as error:
        print(f"beholder: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("beholder: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left; nothing is left to say
        sys.exit(1)
