"""``beholder similarity``: how well sentences fit pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, AllowUrls, Exact, Json, Model, Pictures, Texts

Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the matrix of pictures and sentences into this PNG.")]


def command(
    pictures: Pictures,
    text: Texts,
    plot: Plot = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Compare every picture with every sentence.

    The cosine is the raw score; match, from 0 to 1, says how sure it is that the sentence fits.

    \b
    beholder similarity puppy.jpg --text "a puppy playing in the snow" --text "a plate of fruit"
    beholder similarity photos/ -t "a wedding" -t "a landscape" --plot matrix.png
    """
    import numpy as np

    from beholder.cli.pictures import PictureRun, find_pictures, load_encoder, print_json, warnings_on_one_line

    with warnings_on_one_line():
        found = find_pictures(pictures, allow_urls)
        encoder = load_encoder(model, allow_pickle)
        text_vectors = encoder.embed_texts(text)
        run = PictureRun(encoder, found, exact=exact, allow_urls=allow_urls)
        done = []
        for name, vector in run:
            cosines = text_vectors @ vector
            match = encoder.match(vector[None], text_vectors)[0] if encoder.calibrated else [None] * len(text)
            if plot is not None:
                done.append((name, cosines, match))
            for sentence, cosine, sure in zip(text, cosines, match, strict=True):
                sure = None if sure is None else float(sure)
                if json:
                    print_json({"image": name, "text": sentence, "cosine": float(cosine), "match": sure})
                else:
                    shown = "match  n/a" if sure is None else f"match {sure:4.0%}"
                    print(f"{shown}  cosine {cosine:+.3f}  {name}  {sentence}")
        if plot is not None and done:
            from beholder.tasks.plot import draw_matrix

            names, cosines_rows, match_rows = zip(*done, strict=True)
            values = np.array(match_rows if encoder.calibrated else cosines_rows)
            title, limits = ("match", (0.0, 1.0)) if encoder.calibrated else ("cosine", None)
            draw_matrix(plot, list(names), text, values, title, limits)
    raise typer.Exit(run.exit_code)
