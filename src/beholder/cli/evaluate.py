"""``beholder evaluate``: the metrics that papers report, for any model on your data."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from beholder.cli.options import AllowPickle, Exact, Json, Model, Precision, PrecisionName
from beholder.cli.output import check_output, print_json, print_message, track, warnings_on_one_line
from beholder.cli.pictures import load_encoder, load_vision_language_model
from beholder.errors import PictureError

if TYPE_CHECKING:
    from beholder.evaluation.report import Report
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.vision_language import VisionLanguageModel

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
    Path | None, typer.Option("--report", help="Write metrics, settings and all predictions into this JSON file.")
]
Plot = Annotated[Path | None, typer.Option("--plot", help="Plot the report into this PNG file.")]
LabelsFile = Annotated[
    Path | None, typer.Option("--labels-file", help="Choose among the labels of this file instead of the data's own.")
]
Templates = Annotated[
    list[str],
    typer.Option("--template", help="The sentence around a label; several are averaged, as the defaults are."),
]
Test = Annotated[
    Path | None, typer.Option("--test", help="Test on this data. By default, a fifth of each class is held out.")
]
CaptionsFile = Annotated[
    Path | None,
    typer.Option("--captions", help="Append the captions to this .jsonl or .csv file; those in it are reused."),
]
AnswersFile = Annotated[
    Path | None,
    typer.Option("--answers", help="Append the answers to this .jsonl or .csv file; those in it are reused."),
]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The start of a caption.")]
BEAMS = typer.Option("--num-beams", min=1, help="Beams of the beam search; 1 is greedy decoding, the fastest.")
Beams = Annotated[int, BEAMS]
CaptionBeams = Annotated[int | None, BEAMS]


class ProgressBar:
    """A progress bar on standard error, and a line for each picture that can't be used."""

    def __init__(self, description: str):
        self.description = description

    def track(self, items: Iterable[Item], total: int) -> Iterable[Item]:
        """Return the same items, with the bar moving."""
        return track(items, self.description, total)

    def failed(self, error: PictureError) -> None:
        """Name the picture."""
        print_message(str(error))


@dataclass(frozen=True)
class SharedOptions:
    """The options of every evaluation, and how they are applied."""

    report: ReportFile = None
    plot: Plot = None
    model: Model = "mini"
    json: Json = False
    exact: Exact = False
    precision: Precision = PrecisionName.exact
    allow_pickle: AllowPickle = True

    def encoder(self) -> "DualEncoder":
        """Load the dual encoder of --model."""
        return load_encoder(self.model, self.allow_pickle, self.precision)

    def vision_language_model(self) -> "VisionLanguageModel":
        """Load the vision-language model of --model."""
        return load_vision_language_model(self.model, self.allow_pickle, self.precision)

    def run(self, evaluate: Callable[[], "Report"]) -> NoReturn:
        """Check the outputs, evaluate, print the metrics, write the outputs, and exit with the code."""
        check_output("--report", self.report)
        check_output("--plot", self.plot, [".png"])
        with warnings_on_one_line():
            try:
                result = evaluate()
            except PictureError as error:  # none of the pictures can be used
                print_message(str(error))
                raise typer.Exit(1) from None
        for metric in result.metrics:
            if self.json:
                print_json({"metric": metric.metric, "value": metric.value, "low": metric.low, "high": metric.high})
            else:
                print(f"{metric.metric:16} {metric.value:6.3f}   (95 %: {metric.low:.3f} to {metric.high:.3f})")
        if result.failed:
            pictures = "picture" if len(result.failed) == 1 else "pictures"
            print_message(f"{len(result.failed)} {pictures} left out; the metrics are over {result.pictures}")
        if self.report is not None:
            result.write(self.report)
        if self.plot is not None:
            from beholder.evaluation.report_plot import plot_report

            plot_report(self.plot, result)
        raise typer.Exit(1 if result.failed else 0)


def evaluation(evaluate: Callable[..., "Report"]) -> Callable[..., "Report"]:
    """Register a function as a command: its own parameters are followed by the shared options."""
    own = [parameter for name, parameter in inspect.signature(evaluate).parameters.items() if name != "options"]
    shared = inspect.signature(SharedOptions).parameters

    def command(**values: object) -> None:
        options = SharedOptions(**{name: values.pop(name) for name in shared})  # type: ignore[arg-type]
        options.run(lambda: evaluate(**values, options=options))

    parameters = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own, *shared.values())]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = evaluate.__doc__
    app.command(name=evaluate.__name__.replace("_", "-"))(command)
    return evaluate


@evaluation
def retrieval(data: Captions, options: SharedOptions) -> "Report":
    """Evaluate image-text retrieval.

    Recall@1, 5 and 10, from text to image and from image to text.

    \b
    beholder evaluate retrieval captions.jsonl --plot retrieval.png
    """
    from beholder.evaluation.data import read_caption_examples
    from beholder.evaluation.evaluate import evaluate_retrieval

    examples = read_caption_examples(data)
    progress = ProgressBar("embedding")
    return evaluate_retrieval(options.encoder(), examples, data=str(data), exact=options.exact, progress=progress)


@evaluation
def zero_shot(
    data: Labels,
    options: SharedOptions,
    labels_file: LabelsFile = None,
    template: Templates = [],  # noqa: B006 (typer reads the default and never changes it)
) -> "Report":
    """Evaluate zero-shot classification.

    Top-1, top-5 and mean per-class accuracy.

    \b
    beholder evaluate zero-shot garments/ --plot garments.png
    beholder evaluate zero-shot labels.jsonl --labels-file imagenet.txt --template "a photo of a {}"
    """
    from beholder.evaluation.data import read_labeled_examples
    from beholder.evaluation.evaluate import evaluate_zero_shot
    from beholder.text.labels import read_labels
    from beholder.text.templates import ENSEMBLE, fill_templates

    examples = read_labeled_examples(data)
    labels = read_labels(labels_file) if labels_file else ()
    fill_templates(template or ENSEMBLE, labels)  # refuses a wrong template before a model is loaded
    return evaluate_zero_shot(
        options.encoder(),
        examples,
        labels=labels,
        templates=tuple(template) or ENSEMBLE,
        data=str(data),
        exact=options.exact,
        progress=ProgressBar("embedding"),
    )


@evaluation
def linear_probe(data: Labels, options: SharedOptions, test: Test = None) -> "Report":
    """Evaluate a linear probe on the image tower.

    Logistic regression is trained on the frozen features.

    \b
    beholder evaluate linear-probe garments/train --test garments/test
    """
    from beholder.evaluation.data import read_labeled_examples
    from beholder.evaluation.evaluate import evaluate_linear_probe

    examples, test_examples = read_labeled_examples(data), read_labeled_examples(test) if test else ()
    return evaluate_linear_probe(
        options.encoder(),
        examples,
        test=test_examples,
        data=str(data),
        exact=options.exact,
        progress=ProgressBar("embedding"),
    )


@evaluation
def caption(
    data: Captions,
    options: SharedOptions,
    captions: CaptionsFile = None,
    prompt: Prompt = None,
    num_beams: CaptionBeams = None,
) -> "Report":
    """Evaluate captions by CIDEr, BLEU and ROUGE-L.

    With --captions, the same command resumes an interrupted evaluation.

    \b
    beholder evaluate caption captions.jsonl --captions written.jsonl --plot captions.png
    """
    from beholder.evaluation.data import read_caption_examples
    from beholder.evaluation.evaluate import evaluate_captions

    check_output("--captions", captions, [".jsonl", ".csv"])
    examples = read_caption_examples(data)
    return evaluate_captions(
        options.vision_language_model(),
        examples,
        captions_file=captions,
        prompt=prompt,
        data=str(data),
        num_beams=num_beams,
        exact=options.exact,
        progress=ProgressBar("captioning"),
    )


@evaluation
def vqa(data: Questions, options: SharedOptions, answers: AnswersFile = None, num_beams: Beams = 1) -> "Report":
    """Evaluate answers by VQA accuracy.

    Overall, and for yes/no, number and other questions.

    With --answers, the same command resumes an interrupted evaluation.

    \b
    beholder evaluate vqa questions.jsonl --answers answered.jsonl --report vqa.json
    """
    from beholder.evaluation.data import read_vqa_examples
    from beholder.evaluation.evaluate import evaluate_vqa

    check_output("--answers", answers, [".jsonl", ".csv"])
    examples = read_vqa_examples(data)
    return evaluate_vqa(
        options.vision_language_model(),
        examples,
        answers_file=answers,
        num_beams=num_beams,
        data=str(data),
        exact=options.exact,
        progress=ProgressBar("answering"),
    )
