"""``beholder evaluate``: the figures that papers report, of any model on your data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from beholder.cli.options import AllowPickle, Exact, Json, Model, Precision, PrecisionName

if TYPE_CHECKING:
    from beholder.errors import PictureError
    from beholder.evaluation.report import Report

Item = TypeVar("Item")

app = typer.Typer(help="Measure a model on your data, with 95 % intervals.", no_args_is_help=True)

Captions = Annotated[Path, typer.Argument(metavar="DATA", help="JSON lines with image and captions (a list).")]
Labels = Annotated[
    Path, typer.Argument(metavar="DATA", help="JSON lines with image and label, or a folder of classes.")
]
Questions = Annotated[
    Path, typer.Argument(metavar="DATA", help="JSON lines with image, question and answer (or a list of answers).")
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", help="Write figures, settings and results into this JSON.")
]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the report into this PNG.")]
LabelsFile = Annotated[
    Path | None, typer.Option("--labels-file", help="Choose among the labels of this file rather than the data's own.")
]
Templates = Annotated[
    list[str],
    typer.Option("--template", help="The sentence around a label; several are averaged, as are the defaults."),
]
Test = Annotated[
    Path | None, typer.Option("--test", help="Judge on this data. Otherwise a fifth of each class is kept out for it.")
]
CaptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--captions", help="Keep the captions in this .jsonl or .csv file; those in it are judged as they are."
    ),
]
AnswersFile = Annotated[
    Path | None,
    typer.Option("--answers", help="Keep the answers in this .jsonl or .csv file; those in it are judged as they are."),
]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The beginning of a caption.")]
BEAMS = typer.Option("--num-beams", min=1, help="Texts followed at once; 1 is greedy and fastest.")
Beams = Annotated[int, BEAMS]
CaptionBeams = Annotated[int | None, BEAMS]


class Terminal:
    """A progress bar on standard error, and a line for each picture that can't be used."""

    def __init__(self, doing: str):
        self.doing = doing

    def follow(self, items: Iterable[Item], total: int) -> Iterable[Item]:
        """The same items, with the bar moving."""
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        quiet = not console.is_terminal or total < 2
        return track(items, self.doing, total, console=console, transient=True, disable=quiet)

    def failed(self, error: PictureError) -> None:
        """Names it."""
        from beholder.cli.pictures import fail

        fail(str(error))


def check(report: Path | None, plot: Path | None) -> None:
    """Before anything heavy: can what was asked for be written.

    Raises:
        InvalidSetting: a folder is missing, or the drawing's name is not a PNG's.
        MissingExtra: Matplotlib is not installed.
    """
    from importlib.util import find_spec

    from beholder.errors import InvalidSetting, MissingExtra

    if plot is not None and plot.suffix.lower() != ".png":
        raise InvalidSetting(f"--plot {plot}: a drawing is a PNG; let its name end in .png")
    if plot is not None and find_spec("matplotlib") is None:
        raise MissingExtra("drawing", "plot")
    for option, path in (("--report", report), ("--plot", plot)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidSetting(f"{option} {path}: there is no folder {path.parent}")


def judge(evaluate: Callable[[], Report], json: bool, report: Path | None, plot: Path | None) -> NoReturn:
    """Has a report made, prints its figures, writes and draws what was asked for, and leaves with the exit code."""
    from beholder.cli.pictures import fail, print_json, warnings_on_one_line
    from beholder.errors import PictureError

    check(report, plot)
    with warnings_on_one_line():
        try:
            made = evaluate()
        except PictureError as error:  # none of the pictures can be used
            fail(str(error))
            raise typer.Exit(1) from None
    for figure in made.figures:
        if json:
            print_json({"metric": figure.metric, "value": figure.value, "low": figure.low, "high": figure.high})
        else:
            print(f"{figure.metric:16} {figure.value:6.3f}   (95 %: {figure.low:.3f} to {figure.high:.3f})")
    if made.failed:
        one = len(made.failed) == 1
        fail(f"{len(made.failed)} {'picture' if one else 'pictures'} left out; the figures are of {made.pictures}")
    if report is not None:
        made.write(report)
    if plot is not None:
        from beholder.evaluation.drawing import plot_report

        plot_report(plot, made)
    raise typer.Exit(1 if made.failed else 0)


@app.command()
def retrieval(
    data: Captions,
    report: ReportFile = None,
    plot: Plot = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = False,
) -> None:
    """Find pictures by sentences and sentences by pictures.

    Recall@1, 5 and 10: does a sentence find its picture, and a picture its sentence.

    \b
    beholder evaluate retrieval captions.jsonl --plot retrieval.png
    """

    def evaluate() -> Report:
        from beholder.cli.pictures import load_encoder
        from beholder.evaluation.data import read_captioned
        from beholder.evaluation.evaluate import evaluate_retrieval

        examples = read_captioned(data)
        encoder = load_encoder(model, allow_pickle, precision)
        return evaluate_retrieval(encoder, examples, data=str(data), exact=exact, watcher=Terminal("looking"))

    judge(evaluate, json, report, plot)


@app.command()
def zero_shot(
    data: Labels,
    labels_file: LabelsFile = None,
    template: Templates = [],  # noqa: B006 (typer reads the default and never changes it)
    report: ReportFile = None,
    plot: Plot = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = False,
) -> None:
    """Choose among labels without any training.

    Accuracy: top-1, top-5, mean per class.

    \b
    beholder evaluate zero-shot garments/ --plot garments.png
    beholder evaluate zero-shot labels.jsonl --labels-file imagenet.txt --template "a photo of a {}"
    """

    def evaluate() -> Report:
        from beholder.cli.pictures import load_encoder
        from beholder.evaluation.data import read_labelled
        from beholder.evaluation.evaluate import evaluate_zero_shot
        from beholder.text.labels import read_labels
        from beholder.text.templates import ENSEMBLE, fill_templates

        examples = read_labelled(data)
        labels = read_labels(labels_file) if labels_file else ()
        fill_templates(template or ENSEMBLE, labels)  # says what is wrong with a template before a model is loaded
        return evaluate_zero_shot(
            load_encoder(model, allow_pickle, precision),
            examples,
            labels=labels,
            templates=tuple(template) or ENSEMBLE,
            data=str(data),
            exact=exact,
            watcher=Terminal("looking"),
        )

    judge(evaluate, json, report, plot)


@app.command()
def linear_probe(
    data: Labels,
    test: Test = None,
    report: ReportFile = None,
    plot: Plot = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = False,
) -> None:
    """Fit logistic regression to the frozen picture tower.

    How much does it know that a straight line can tell apart?

    \b
    beholder evaluate linear-probe garments/train --test garments/test
    """

    def evaluate() -> Report:
        from beholder.cli.pictures import load_encoder
        from beholder.evaluation.data import read_labelled
        from beholder.evaluation.evaluate import evaluate_linear_probe

        examples, judged = read_labelled(data), read_labelled(test) if test else ()
        return evaluate_linear_probe(
            load_encoder(model, allow_pickle, precision),
            examples,
            test=judged,
            data=str(data),
            exact=exact,
            watcher=Terminal("looking"),
        )

    judge(evaluate, json, report, plot)


@app.command()
def caption(
    data: Captions,
    captions: CaptionsFile = None,
    prompt: Prompt = None,
    num_beams: CaptionBeams = None,
    report: ReportFile = None,
    plot: Plot = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = False,
) -> None:
    """Judge captions by CIDEr, BLEU and ROUGE-L.

    With --captions, the same command goes on where it was interrupted.

    \b
    beholder evaluate caption captions.jsonl --captions written.jsonl --plot captions.png
    """

    def evaluate() -> Report:
        from beholder.cli.pictures import load_vision_language_model
        from beholder.evaluation.data import read_captioned
        from beholder.evaluation.evaluate import evaluate_captions

        examples = read_captioned(data)
        return evaluate_captions(
            load_vision_language_model(model, allow_pickle, precision),
            examples,
            kept=captions,
            prompt=prompt,
            data=str(data),
            num_beams=num_beams,
            exact=exact,
            watcher=Terminal("writing"),
        )

    judge(evaluate, json, report, plot)


@app.command()
def vqa(
    data: Questions,
    answers: AnswersFile = None,
    num_beams: Beams = 1,
    report: ReportFile = None,
    plot: Plot = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = False,
) -> None:
    """Judge answers by VQA accuracy.

    Overall, yes/no, numbers, the rest.

    With --answers, the same command goes on where it was interrupted.

    \b
    beholder evaluate vqa questions.jsonl --answers answered.jsonl --report vqa.json
    """

    def evaluate() -> Report:
        from beholder.cli.pictures import load_vision_language_model
        from beholder.evaluation.data import read_asked
        from beholder.evaluation.evaluate import evaluate_vqa

        examples = read_asked(data)
        return evaluate_vqa(
            load_vision_language_model(model, allow_pickle, precision),
            examples,
            kept=answers,
            num_beams=num_beams,
            data=str(data),
            exact=exact,
            watcher=Terminal("answering"),
        )

    judge(evaluate, json, report, plot)
