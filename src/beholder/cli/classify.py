"""``beholder classify``: zero-shot classification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import (
    AllowPickle,
    AllowUrls,
    Exact,
    Json,
    MaxBytes,
    MaxMegapixels,
    Model,
    Pictures,
    Precision,
    PrecisionName,
)

Labels = Annotated[list[str], typer.Option("--label", "-l", help="A label; may be given several times.")]
LabelsFile = Annotated[Path | None, typer.Option("--labels-file", help="A text file with a label per line.")]
Templates = Annotated[
    list[str],
    typer.Option("--template", help='The sentence around a label, "a photo of a {}"; several are averaged.'),
]
Ensemble = Annotated[bool, typer.Option("--ensemble", help="Average over a set of templates for each label.")]
Top = Annotated[int, typer.Option("--top", min=1, help="How many labels to show for each picture.")]
NoneOfThese = Annotated[bool, typer.Option("--none", help='Add the answer "none of these".')]
Multi = Annotated[bool, typer.Option("--multi", help="Score each label independently: several may match, or none.")]


def command(
    pictures: Pictures,
    label: Labels = [],  # noqa: B006 (typer reads the default and never changes it)
    labels_file: LabelsFile = None,
    template: Templates = [],  # noqa: B006
    ensemble: Ensemble = False,
    top: Top = 5,
    none: NoneOfThese = False,
    multi: Multi = False,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    max_megapixels: MaxMegapixels = None,
    max_bytes: MaxBytes = None,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Classify pictures by labels of your choice, without any training.

    \b
    beholder classify photo.jpg --label cat --label dog
    beholder classify photos/ --labels-file garments.txt --top 3 --none
    """
    from beholder.cli.output import print_json, printable, warnings_on_one_line
    from beholder.cli.pictures import EmbeddingRun, find_pictures, load_encoder, picture_limits
    from beholder.errors import InvalidSetting
    from beholder.text.labels import read_labels
    from beholder.text.templates import ENSEMBLE, SINGLE

    if template and ensemble:
        raise InvalidSetting("--template and --ensemble exclude each other")
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line():
        labels = [*label, *(read_labels(labels_file) if labels_file else [])]
        if not labels:
            raise InvalidSetting("no labels: name them with --label or --labels-file")
        found = find_pictures(pictures, allow_urls)
        encoder = load_encoder(model, allow_pickle, precision)
        label_vectors = encoder.embed_labels(labels, tuple(template) or (ENSEMBLE if ensemble else SINGLE))
        run = EmbeddingRun(encoder, found, exact=exact, allow_urls=allow_urls, limits=limits)
        for name, vector in run:
            ranked = encoder.classify_embeddings(vector[None], labels, label_vectors, none=none, multi=multi)[0][:top]
            if json:
                rows = [{"label": text, "probability": probability} for text, probability in ranked]
                print_json({"image": name, "labels": rows})
            else:
                print(f"{printable(name)}: " + ", ".join(f"{text} {probability:.0%}" for text, probability in ranked))
    raise typer.Exit(run.exit_code)
