"""``beholder ask``: a question about a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, AllowUrls, Exact, Json, Model


def command(
    picture: Annotated[str, typer.Argument(help="The picture.")],
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    choice: Annotated[list[str], typer.Option("--choice", "-c", help="An allowed answer; give several.")] = [],  # noqa: B006
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Answer a question about a picture, briefly.

    \b
    beholder ask photo.jpg "how many dogs are there?"
    beholder ask photo.jpg "what season is it?" --choice summer --choice winter
    """
    from beholder.cli.pictures import fail, load_writer, print_json, warnings_on_one_line
    from beholder.errors import PictureError

    with warnings_on_one_line():
        writer = load_writer(model, allow_pickle)
        try:
            answer = writer.ask(picture, question, choices=choice, exact=exact, allow_urls=allow_urls)
        except PictureError as error:
            fail(str(error))
            raise typer.Exit(1) from None
        if json:
            row: dict[str, object] = {"image": picture, "question": question, "answer": answer.text}
            row["confidence"] = answer.confidence
            if choice:
                row["choices"] = [{"answer": text, "probability": share} for text, share in answer.choices]
            print_json(row)
        elif choice:
            for text, share in answer.choices:
                print(f"{share:4.0%}  {text}")
        else:
            print(f"{answer.text}  ({answer.confidence:.0%})")
