"""``beholder chat``: a conversation about a picture."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, AllowUrls, Json, Precision, PrecisionName, VisionLanguage


def command(
    picture: Annotated[str, typer.Argument(help="The picture.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Maximum tokens of an answer.")] = 40,
    model: VisionLanguage = "mini",
    json: Json = False,
    precision: Precision = PrecisionName.exact,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Chat about a picture. A line is a question; Ctrl-C stops an answer, "more" continues it, Ctrl-D ends.

    \b
    beholder chat photo.jpg
    """
    from beholder.cli.output import print_json, print_message, warnings_on_one_line
    from beholder.cli.pictures import load_vision_language_model
    from beholder.errors import InvalidSetting, PictureError

    with warnings_on_one_line():
        vlm = load_vision_language_model(model, allow_pickle, precision)
        try:
            chat = vlm.chat(picture, max_new_tokens=max_new_tokens, allow_urls=allow_urls)
        except PictureError as error:
            print_message(str(error))
            raise typer.Exit(1) from None
        interactive = sys.stdin.isatty()
        if interactive:
            print_message(f'{picture}: ask your questions. Ctrl-C stops an answer, "more" continues it, Ctrl-D ends.')
            with suppress(ImportError):
                import readline  # noqa: F401 (gives input() its line editing)
        while True:
            try:
                question = input("> " if interactive else "")
            except (EOFError, KeyboardInterrupt):
                if interactive:
                    print(file=sys.stderr)
                break
            if not question.strip():
                continue
            try:
                pieces = chat.continue_answer() if question.strip() == "more" else chat.stream(question)
                for piece in pieces:
                    if not json:
                        print(piece, end="", flush=True)
            except KeyboardInterrupt:
                pass
            except InvalidSetting as error:
                print_message(str(error))
                continue
            if json:
                question, answer = chat.history[-1]
                print_json({"image": picture, "question": question, "answer": answer})
            else:
                print()
