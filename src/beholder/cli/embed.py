"""``beholder embed``: embeddings of pictures and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from beholder.cli.options import (
    AllowPickle,
    AllowUrls,
    Exact,
    Json,
    MaxBytes,
    MaxMegapixels,
    Model,
    OutFile,
    Pictures,
    Precision,
    PrecisionName,
    Texts,
)

if TYPE_CHECKING:
    import numpy as np


def command(
    pictures: Pictures = [],  # noqa: B006 (typer reads the default and never changes it)
    text: Texts = [],  # noqa: B006
    out: OutFile = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    max_megapixels: MaxMegapixels = None,
    max_bytes: MaxBytes = None,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Embed pictures and sentences in one vector space.

    Every embedding has unit length.

    \b
    beholder embed photos/ --out vectors.npy
    beholder embed photo.jpg --text "a dog in the snow" --json
    """
    from beholder.cli.output import check_output, print_json, printable, warnings_on_one_line
    from beholder.cli.pictures import EmbeddingRun, find_pictures, load_encoder, picture_limits
    from beholder.errors import InvalidSetting
    from beholder.tasks.vector_file import VECTOR_FILES, write_vectors

    if not pictures and not text:
        raise InvalidSetting("nothing to embed: name pictures, or sentences with --text")
    check_output("--out", out, list(VECTOR_FILES))
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line():
        found = find_pictures(pictures, allow_urls)
        encoder = load_encoder(model, allow_pickle, precision)
        run = EmbeddingRun(encoder, found, exact=exact, allow_urls=allow_urls, limits=limits)
        rows = []

        def add(name: str, kind: str, embedding: np.ndarray) -> None:
            if out is not None:
                rows.append((name, kind, embedding))
            if json:
                print_json({"input": name, "kind": kind, "embedding": [float(value) for value in embedding]})
            elif out is None:
                start = ", ".join(f"{value:+.3f}" for value in embedding[:4])
                print(f"{printable(name)}: [{start}, …] ({len(embedding)} numbers; --out FILE.npy saves them)")

        for name, vector in run:
            add(name, "image", vector)
        for sentence, embedding in zip(text, encoder.embed_texts(text), strict=True):
            add(sentence, "text", embedding)
        if out is not None:
            write_vectors(Path(out), rows)
            if not json:
                print(f"{out}: {len(rows)} vectors of {encoder.towers.embedding} numbers")
    raise typer.Exit(run.exit_code)
