"""``beholder train``: a dual encoder, a bridge, a vision-language model or an image generator on one's own data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from beholder.cli.options import Json

app = typer.Typer(
    help="Train a dual encoder, a bridge, a vision-language model or an image generator on your data.",
    no_args_is_help=True,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A JSON file, such as those in recipes/.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; by default runs/CONFIG.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder to which the config's paths are relative; by default its own.")
]
Check = Annotated[bool, typer.Option("--check", help="Check config and data, print what would be trained, stop.")]
Device = Annotated[str | None, typer.Option("--device", help="Where to train, such as cpu or cuda.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write event files for TensorBoard into OUT/tensorboard.")
]


@dataclass(frozen=True)
class Training:
    """What a command trains.

    Attributes:
        read: reads a config, whose paths are relative to a folder.
        summarize: checks settings and data for a device, and returns what would be trained.
        train: trains, and returns the folder of the result.
    """

    read: Callable[[Path, Path | None], Any]
    summarize: Callable[[Any, str | None], dict[str, Any]]
    train: Callable[..., Path]


def command(opened_by: str) -> Callable[[Callable[[], Training]], Callable[[], Training]]:
    """Make a command of a function that imports a training; its name and docstring are the command's.

    Args:
        opened_by: the class that opens the result.
    """

    def register(load: Callable[[], Training]) -> Callable[[], Training]:
        @app.command(name=load.__name__, help=load.__doc__)
        def run(
            config: Config,
            data: Data = None,
            out: Out = None,
            check: Check = False,
            device: Device = None,
            tensorboard: TensorBoard = False,
            json: Json = False,
        ) -> None:
            from beholder.cli.output import check_output_folder, warnings_on_one_line
            from beholder.training.distributed import exit_worker

            training = load()
            check_output_folder("--out", out)
            settings = training.read(config, data)
            with warnings_on_one_line():
                if check:
                    print_summary(training.summarize(settings, device), json)
                    return
                folder = out or Path("runs") / config.stem
                with progress_report(json) as report:
                    model = training.train(settings, folder, report, device=device, tensorboard=tensorboard)
            if not json and is_main_process():
                print(f"{model}: trained; {opened_by}.from_pretrained opens it")
            exit_worker()

        return load

    return register


@command("DualEncoder")
def clip() -> Training:
    """Train a dual encoder.

    From scratch, or from a pretrained model, all of it or its heads alone. Ctrl-C and SIGTERM save a checkpoint; the
    same command resumes. A second Ctrl-C ends at once. With more steps in CONFIG, a finished training continues.
    Several GPUs: torchrun -m beholder.

    \b
    beholder train clip recipes/clip/heads.json --data my-pictures --check
    beholder train clip recipes/clip/heads.json --data my-pictures --out runs/mine
    """
    from beholder.training.clip_config import read_clip_config
    from beholder.training.train_clip import summarize, train_clip

    return Training(read_clip_config, summarize, train_clip)


@command("VisionLanguageModel")
def bridge() -> Training:
    """Train a bridge between two frozen models.

    The bridge connects an image tower to a language model and is trained in BLIP-2's two stages. Ctrl-C and SIGTERM
    save a checkpoint; the same command resumes. A second Ctrl-C ends at once.

    \b
    beholder train bridge recipes/bridge/own.json --data my-pictures --out runs/my-bridge
    """
    from beholder.training.bridge_config import read_bridge_config
    from beholder.training.train_bridge import summarize, train_bridge

    return Training(read_bridge_config, summarize, train_bridge)


@command("VisionLanguageModel")
def vlm() -> Training:
    """Fine-tune a vision-language model with LoRA.

    The model is one that transformers opens, such as SmolVLM, LLaVA-OneVision or Qwen2.5-VL, or a BLIP-2 with OPT. Its
    language model learns captions and answers through adapters (LoRA), and its projector too where CONFIG asks for it;
    the vision tower stays frozen. OUT/model is the merged model, OUT/adapter the adapters for peft. Ctrl-C and SIGTERM
    save a checkpoint; the same command resumes. A second Ctrl-C ends at once. With more steps in CONFIG, a finished
    training continues.

    \b
    beholder train vlm recipes/vlm/smolvlm.json --data my-pictures --check
    beholder train vlm recipes/vlm/smolvlm.json --data my-pictures --out runs/mine
    """
    from beholder.training.train_vlm import summarize, train_vlm
    from beholder.training.vlm_config import read_vlm_config

    return Training(read_vlm_config, summarize, train_vlm)


@command("ImageGenerator")
def generator() -> Training:
    """Train an image generator.

    The generator draws pictures from the embeddings of a frozen dual encoder. Ctrl-C and SIGTERM save a checkpoint; the
    same command resumes. A second Ctrl-C ends at once. With more steps in CONFIG, a finished training continues.

    \b
    beholder train generator recipes/emoji_generator/emoji.json --data my-drawings --out runs/my-generator
    """
    from beholder.training.generator_config import read_generator_config
    from beholder.training.train_generator import summarize, train_generator

    return Training(read_generator_config, summarize, train_generator)


def print_summary(summary: dict[str, Any], json: bool) -> None:
    """Print what a config would train."""
    from beholder.cli.output import print_json

    print_json(summary) if json else print("\n".join(f"{name}: {value}" for name, value in summary.items()))


def is_main_process() -> bool:
    """Whether this is the process that prints, of those that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_report(json: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Report the lines of a training's log, as JSON on standard output or with a progress bar on standard error.

    An interrupted training ends the program as the signal would have.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from beholder.cli.output import print_json, print_message
    from beholder.training.interruption import Interrupted

    columns = (TextColumn("step {task.fields[step]}"), BarColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=json or not console.is_terminal or not is_main_process()
    ) as progress:
        bar = progress.add_task("starting", total=None, step=0)

        def report(row: dict[str, Any]) -> None:
            if json:
                print_json(row)
                return
            text = format_row(row)
            if "seconds_left" not in row or not console.is_terminal:
                progress.console.print(text, highlight=False)
            if "seconds_left" in row:
                progress.update(bar, description=text, completed=row["step"], total=row["steps"], step=row["step"])

        try:
            yield report
        except Interrupted as stop:
            if is_main_process():
                print_message(str(stop))
            raise typer.Exit(128 + stop.number) from None


def format_row(row: dict[str, Any]) -> str:
    """Format a line of the log for a person."""
    if "pictures_looked_at" in row:
        return f"{row['pictures_looked_at']} of {row['pictures']} pictures preprocessed"
    if "seconds_left" not in row:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in row.items() if name != "step")
        return f"step {row['step']}: {figures}"
    minutes, seconds = divmod(int(row["seconds_left"]), 60)
    hours, minutes = divmod(minutes, 60)
    speed = f", {row['pairs_per_second']:.0f} pairs a second" if "pairs_per_second" in row else ""
    broken = f", {row['broken']} broken" if row.get("broken") else ""
    stage = f"stage {row['stage']}, " if "stage" in row else ""
    validation = (
        f", validation loss {row['kept_back']:.3f} ({row['exchanged']:.3f} with other pictures)"
        if "kept_back" in row
        else ""
    )
    return (
        f"{stage}step {row['step']} of {row['steps']}: loss {row['loss']:.3f}{validation}{speed}, "
        f"{hours}:{minutes:02}:{seconds:02} left{broken}"
    )
