"""The command line: one file per command, and nothing heavy imported before a command runs."""

import sys

import typer

from beholder.cli import (
    ask,
    caption,
    chat,
    classify,
    cluster,
    doctor,
    duplicates,
    embed,
    evaluate,
    export,
    generate,
    index,
    map,
    models,
    outliers,
    pull,
    scale,
    search,
    serve,
    similarity,
    train,
)
from beholder.cli.download_bar import download_bar
from beholder.cli.output import escape_unencodable
from beholder.errors import BeholderError

app = typer.Typer(
    help="Sees pictures and tells you about them.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # rich takes as long to load as everything else
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SEEING = (embed, similarity, classify, caption, ask, chat, generate)
COLLECTING = (index, search, duplicates, cluster, map, outliers)
MODELS = (pull, export, models, doctor)
for command in (*SEEING, *COLLECTING, serve, *MODELS):
    app.command(name=command.__name__.rpartition(".")[2])(command.command)
for group in (train, evaluate, scale):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


@app.callback(invoke_without_command=True)
def front(version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True)) -> None:
    """Sees pictures and tells you about them."""
    if version:
        from beholder.version import __version__

        print(__version__)
        raise typer.Exit


def run() -> None:
    """Run the program ``beholder``: exit 0 all done, 1 some inputs failed, 2 the call is wrong, 130 interrupted."""
    escape_unencodable()
    try:
        with download_bar():
            app()
    except BeholderError as error:
        print(f"beholder: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("beholder: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone
        sys.exit(1)
