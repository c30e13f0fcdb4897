"""``beholder caption``: a sentence for each picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, AllowUrls, Exact, Json, Model, Pictures, Precision, PrecisionName

Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help='The beginning of the sentence: "this garment is".')]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Add the captions to a .jsonl or .csv file.")]
Xmp = Annotated[
    bool,
    typer.Option("--xmp", help="Write the caption into the metadata of JPEG and PNG; next to others, into NAME.xmp."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Caption anew what has a caption already.")]
Candidates = Annotated[
    int | None,
    typer.Option("--candidates", min=1, help="Write so many; keep the one that fits best, and say how well."),
]
Attention = Annotated[
    Path | None, typer.Option("--attention", help="Draw where each word was looked for into this PNG (one picture).")
]
Beams = Annotated[
    int | None, typer.Option("--num-beams", min=1, help="Sentences followed at once; 1 is greedy and fastest.")
]
TopP = Annotated[float | None, typer.Option("--top-p", help="Draw from the likeliest words of this joint probability.")]
Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest caption, in tokens.")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn at random.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures that are worked on together.")]


def command(
    pictures: Pictures,
    prompt: Prompt = None,
    out: Out = None,
    xmp: Xmp = False,
    overwrite: Overwrite = False,
    candidates: Candidates = None,
    attention: Attention = None,
    num_beams: Beams = None,
    top_p: TopP = None,
    max_new_tokens: Longest = 20,
    seed: Seed = 0,
    batch_size: Batch = 8,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Write a sentence for each picture.

    What has a caption already, in the --out file or with --xmp in its metadata, is skipped unless --overwrite is
    given; so the same command goes on where it was interrupted.

    \b
    beholder caption photos/
    beholder caption photos/ --out captions.csv
    beholder caption photos/ --xmp --candidates 5
    """
    from rich.console import Console
    from rich.progress import track

    from beholder.cli.output import print_json, print_message, warnings_on_one_line
    from beholder.cli.pictures import find_pictures, load_vision_language_model
    from beholder.errors import InvalidSetting, PictureError
    from beholder.pictures.caption_metadata import read_caption, write_caption
    from beholder.tasks.result_file import CaptionFile

    with warnings_on_one_line():
        found = find_pictures(pictures, allow_urls)
        if attention is not None and len(found) != 1:
            raise InvalidSetting(f"--attention draws one picture, not {len(found)}")
        if overwrite and out is not None and out.exists():
            raise InvalidSetting(f"--overwrite with --out {out}: captions are added to it; remove the file first")
        file = CaptionFile(out) if out is not None else None
        todo = [name for name in found if file is None or name not in file.done]
        if xmp and not overwrite:
            todo = [name for name in todo if "://" in name or read_caption(Path(name)) is None]
        if skipped := len(found) - len(todo):
            print_message(f"{skipped} of {len(found)} pictures have a caption already and are skipped")
        failed = 0
        asked = candidates is not None and candidates > 1
        if todo:
            writer = load_vision_language_model(model, allow_pickle, precision)
            stream = writer.stream_captions(
                todo,
                prompt,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                top_p=top_p,
                num_candidates=candidates,
                seed=seed,
                batch_size=batch_size,
                exact=exact,
                allow_urls=allow_urls,
            )
            console = Console(stderr=True)
            quiet = not console.is_terminal or len(todo) < 2
            shown = track(stream, "writing", len(todo), console=console, transient=True, disable=quiet)
            for path, picture in zip(todo, shown, strict=False):
                if picture.caption is None:
                    failed += 1
                    print_message(str(picture.error))
                    continue
                row: dict[str, object] = {"image": picture.name, "caption": picture.caption}
                scored = {"score": picture.score, "weak": picture.weak}
                if file is not None:
                    file.append(row | scored if asked else row)
                if xmp:
                    try:
                        write_caption(Path(path), picture.caption)  # the name may be escaped
                    except PictureError as error:
                        failed += 1
                        print_message(str(error))
                if json:
                    if picture.score is not None:
                        several = [{"caption": text, "score": score} for text, score in picture.candidates]
                        row |= scored | {"candidates": several}
                    print_json(row)
                elif file is None or asked:
                    score = f"  ({picture.score:.0%}{', weak' if picture.weak else ''})" if asked else ""
                    print(f"{picture.name}: {picture.caption}{score}", flush=True)
                if attention is not None:
                    from beholder.tasks.plot import plot_attention

                    plot_attention(
                        attention, picture.name, writer.attention_maps(picture.name, picture.caption, prompt)
                    )
        if file is not None:
            file.close()
            if not json:
                print(f"{out}: {file.num_written} captions added, {len(file.done) + file.num_written} in all")
    raise typer.Exit(1 if failed else 0)
