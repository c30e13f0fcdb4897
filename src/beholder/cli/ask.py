"""``beholder ask``: a question about a picture, or to a whole album."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli.options import AllowPickle, AllowUrls, Exact, Json, Precision, PrecisionName, VisionLanguage, Where

if TYPE_CHECKING:
    from beholder import Album, VisionLanguageModel

MAX_NEW_TOKENS = 10
AlbumFolder = Annotated[
    Path | None, typer.Option("--album", help="Ask this album: answer from its pictures nearest to the question.")
]
Longest = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Maximum length of an answer, in tokens. [default: 10]")
]
Top = Annotated[int, typer.Option("--top", "-k", min=1, help="With --album: how many pictures to answer from.")]


def command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[PICTURE] QUESTION",
            help="The picture, and the question in quotes; with --album, just that.",
        ),
    ],
    choice: Annotated[list[str], typer.Option("--choice", "-c", help="An allowed answer; repeatable.")] = [],  # noqa: B006
    album: AlbumFolder = None,
    where: Where = None,
    top: Top = 8,
    max_new_tokens: Longest = None,
    model: VisionLanguage = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Answer a question about a picture, or from an album.

    The answer is brief; with --album, it is the pictures of the album that answer it.

    \b
    beholder ask photo.jpg "how many dogs are there?"
    beholder ask photo.jpg "what season is it?" --choice summer --choice winter
    beholder ask --album my-album "on which photographs is the dog in water?"
    """
    from beholder.cli.output import print_json, print_message, warnings_on_one_line
    from beholder.cli.pictures import load_vision_language_model
    from beholder.errors import InvalidSetting, PictureError

    length = max_new_tokens or MAX_NEW_TOKENS
    if album is not None:
        if len(arguments) != 1 or choice:
            raise InvalidSetting("with --album, ask takes one question and no --choice")
        from beholder.album.album import Album

        with warnings_on_one_line(), Album.open(album, create_new=False) as opened:
            vlm = load_vision_language_model(model, allow_pickle, precision)
            raise typer.Exit(_ask_album(opened, vlm, arguments[0], where, top, length, json))
    if len(arguments) != 2 or where is not None:
        raise InvalidSetting("ask takes a picture and a question; --where goes with --album")
    if choice and max_new_tokens is not None:
        raise InvalidSetting("--choice ranks the answers given, so --max-new-tokens does not go with it")
    picture, question = arguments
    with warnings_on_one_line():
        vlm = load_vision_language_model(model, allow_pickle, precision)
        try:
            answer = vlm.ask(
                picture, question, choices=choice, max_new_tokens=length, exact=exact, allow_urls=allow_urls
            )
        except PictureError as error:
            print_message(str(error))
            raise typer.Exit(1) from None
        if json:
            row: dict[str, object] = {"image": picture, "question": question, "answer": answer.text}
            row["confidence"] = answer.confidence
            if choice:
                row["choices"] = [{"answer": text, "probability": probability} for text, probability in answer.choices]
            print_json(row)
        elif answer.choices:
            for text, probability in answer.choices:
                print(f"{probability:4.0%}  {text}")
        else:
            print(answer.text if answer.confidence is None else f"{answer.text}  ({answer.confidence:.0%})")


def _ask_album(
    album: Album,
    model: VisionLanguageModel,
    question: str,
    where: str | None,
    top: int,
    max_new_tokens: int,
    json: bool,
) -> int:
    from beholder.album.question_answering import ask_album
    from beholder.cli.output import print_json, print_message
    from beholder.errors import PictureError

    code, relied = 0, 0
    for answer in ask_album(album, model, question, where=where, top=top, max_new_tokens=max_new_tokens):
        if isinstance(answer, PictureError):
            print_message(str(answer))
            code = 1
            continue
        relied += answer.relied_on
        if json:
            row: dict[str, object] = {"image": answer.picture.path, "question": question, "answer": answer.answer}
            row |= {"confidence": answer.confidence, "match": answer.match, "relied_on": answer.relied_on}
            print_json(row)
        elif answer.relied_on:
            print(f"{answer.picture.name}: {answer.answer}", flush=True)
    if not relied and not json:
        print_message(f"none of the {top} nearest pictures shows what is asked for")
    return code
