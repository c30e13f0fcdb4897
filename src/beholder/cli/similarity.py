"""``beholder similarity``: how well sentences match pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, AllowUrls, Exact, Json, Model, Pictures, Precision, PrecisionName, Texts

Rerank = Annotated[
    bool,
    typer.Option(
        "--rerank", help="Score by a vision-language model's matching head; the best of each picture comes first."
    ),
]
RerankModel = Annotated[str, typer.Option("--rerank-model", help="The vision-language model for it: a name or folder.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Plot the matrix of pictures and sentences as a PNG.")]


def command(
    pictures: Pictures,
    text: Texts,
    plot: Plot = None,
    rerank: Rerank = False,
    rerank_model: RerankModel = "mini",
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Compare every picture with every sentence.

    The cosine is the raw score; match, from 0 to 1, is the probability that the sentence matches. With --rerank, match
    comes from a model that reads sentence and picture together, which is slower.

    \b
    beholder similarity puppy.jpg --text "a puppy playing in the snow" --text "a plate of fruit"
    beholder similarity photos/ -t "a wedding" -t "a landscape" --plot matrix.png
    """
    import numpy as np

    from beholder.cli.output import check_output, print_json, printable, warnings_on_one_line
    from beholder.cli.pictures import EmbeddingRun, find_pictures, load_encoder, load_vision_language_model

    check_output("--plot", plot, [".png"])
    with warnings_on_one_line():
        found = find_pictures(pictures, allow_urls)
        encoder = load_encoder(model, allow_pickle, precision)
        reranker = load_vision_language_model(rerank_model, allow_pickle) if rerank else None
        text_vectors = encoder.embed_texts(text)
        run = EmbeddingRun(encoder, found, exact=exact, allow_urls=allow_urls)
        done = []
        for name, vector in run:
            cosines = text_vectors @ vector
            match = encoder.match(vector[None], text_vectors, text)[0] if encoder.calibrated else [None] * len(text)
            if reranker is not None:
                match = reranker.match(name, text, exact=exact, allow_urls=allow_urls)
            if plot is not None:
                done.append((name, cosines, match))
            rows = list(zip(text, cosines, match, strict=True))
            if reranker is not None:
                rows.sort(key=lambda row: -row[2])
            for sentence, cosine, probability in rows:
                probability = None if probability is None else float(probability)
                if json:
                    print_json({"image": name, "text": sentence, "cosine": float(cosine), "match": probability})
                else:
                    shown = "match  n/a" if probability is None else f"match {probability:4.0%}"
                    print(f"{shown}  cosine {cosine:+.3f}  {printable(name)}  {sentence}")
        if plot is not None and done:
            from beholder.tasks.plot import plot_similarity

            names, cosines_rows, match_rows = zip(*done, strict=True)
            has_match = encoder.calibrated or rerank
            values = np.array(match_rows if has_match else cosines_rows)
            title, limits = ("match", (0.0, 1.0)) if has_match else ("cosine", None)
            plot_similarity(plot, list(names), text, values, title, limits)
    raise typer.Exit(run.exit_code)
