"""``beholder caption``: captions of pictures."""

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
    Pictures,
    Precision,
    PrecisionName,
    VisionLanguage,
)

Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help='How the sentence starts: "this garment is".')]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Append the captions to a .jsonl or .csv file.")]
Xmp = Annotated[
    bool,
    typer.Option("--xmp", help="Write the caption into the metadata of JPEG and PNG; next to others, into NAME.xmp."),
]
KeywordsFrom = Annotated[
    Path | None,
    typer.Option(
        "--keywords-from", help="Choose keywords, too, from this list: one a line; below each other by tabs, or a|b."
    ),
]
MinMatch = Annotated[
    float | None,
    typer.Option(
        "--min-match",
        min=0,
        max=1,
        help="How sure a keyword of the list must be, from 0 to 1; by default, the surer the longer the list is.",
    ),
]
KeywordModel = Annotated[str, typer.Option("--keyword-model", help="A calibrated dual encoder that chooses keywords.")]
KeywordsOnly = Annotated[bool, typer.Option("--keywords-only", help="Choose keywords without captioning.")]
Places = Annotated[
    bool, typer.Option("--places", help="With --xmp, write the city and country of pictures that have a position.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing captions; add to existing keywords.")]
Candidates = Annotated[
    int | None,
    typer.Option("--candidates", min=1, help="Generate this many; keep the best match, and print its score."),
]
Attention = Annotated[
    Path | None, typer.Option("--attention", help="Plot the attention of each word into this PNG file (one picture).")
]
Beams = Annotated[
    int | None, typer.Option("--num-beams", min=1, help="Beams of the beam search; 1 is greedy decoding, the fastest.")
]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="Sample from the likeliest tokens of this total probability.")
]
Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Maximum length of a caption, in tokens.")]
Seed = Annotated[int, typer.Option("--seed", help="Random seed of sampling.")]
Batch = Annotated[
    int, typer.Option("--batch-size", min=1, help="Pictures per batch; requests at once to a model behind an address.")
]
StyleName = Annotated[
    str | None,
    typer.Option(
        "--style", help="short, long, alt-text, product or keywords; needs a model that follows instructions."
    ),
]
Instruction = Annotated[
    str | None, typer.Option("--instruction", help="What to tell the model, in place of a --style.")
]
Language = Annotated[
    str, typer.Option("--language", help="Language of the captions, such as zh, if the model knows it.")
]
Fields = Annotated[
    str | None, typer.Option("--fields", help="One JSON object per picture with these keys: color,material,sleeve.")
]
ContextNames = Annotated[
    str | None, typer.Option("--context", help="Tell the model what the file's metadata say: place,date,keywords.")
]
Prefix = Annotated[str | None, typer.Option("--prefix", help="Trigger words before each caption: 'ohwx person'.")]
Txt = Annotated[bool, typer.Option("--txt", help="Write each caption into a .txt file beside its picture.")]


def command(
    pictures: Pictures,
    prompt: Prompt = None,
    out: Out = None,
    xmp: Xmp = False,
    overwrite: Overwrite = False,
    keywords_from: KeywordsFrom = None,
    min_match: MinMatch = None,
    keyword_model: KeywordModel = "mini",
    keywords_only: KeywordsOnly = False,
    places: Places = False,
    candidates: Candidates = None,
    attention: Attention = None,
    num_beams: Beams = None,
    top_p: TopP = None,
    max_new_tokens: Longest = 20,
    seed: Seed = 0,
    batch_size: Batch = 8,
    style: StyleName = None,
    instruction: Instruction = None,
    language: Language = "",
    fields: Fields = None,
    context: ContextNames = None,
    prefix: Prefix = None,
    txt: Txt = False,
    model: VisionLanguage = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    max_megapixels: MaxMegapixels = None,
    max_bytes: MaxBytes = None,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
) -> None:
    """Caption pictures.

    Pictures with a caption, in the --out file, with --xmp in their metadata or with --txt in a file beside them, are
    skipped unless --overwrite is given; so the same command resumes where it was interrupted. Likewise, --xmp adds
    keywords of --keywords-from only to pictures without any, and never removes one.

    \b
    beholder caption photos/
    beholder caption photos/ --out captions.csv
    beholder caption photos/ --xmp --candidates 5
    beholder caption photos/ --xmp --keywords-from words.txt --places
    beholder caption shop/ --model smolvlm --fields color,material,sleeve --out garments.jsonl
    beholder caption training/ --model smolvlm --style long --prefix "ohwx person" --txt
    """
    from beholder.cli.added_metadata import Addition, added_metadata
    from beholder.cli.output import check_output, print_json, print_message, printable, track, warnings_on_one_line
    from beholder.cli.pictures import find_pictures, load_vision_language_model, picture_limits, reported_name
    from beholder.errors import InvalidSetting, PictureError
    from beholder.pictures.caption_metadata import read_caption, write_metadata
    from beholder.tasks.caption_options import CaptionOptions
    from beholder.tasks.result_file import CaptionFile, write_text_beside

    if keywords_only and keywords_from is None:
        raise InvalidSetting("--keywords-only needs a list: --keywords-from FILE")
    if keywords_only and out is not None:
        raise InvalidSetting("--keywords-only and --out exclude each other: --out is for captions")
    if places and not xmp:
        raise InvalidSetting("--places needs --xmp: it writes into the pictures' metadata")
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line():
        found = find_pictures(pictures, allow_urls)
        if attention is not None and len(found) != 1:
            raise InvalidSetting(f"--attention takes one picture, not {len(found)}")
        if overwrite and out is not None and out.exists():
            raise InvalidSetting(f"--overwrite with --out {out}: captions are appended to it; remove the file first")
        if txt and any("://" in name for name in found):
            raise InvalidSetting("--txt writes beside pictures, and an address has no folder; use --out")
        check_output("--attention", attention, [".png"])
        check_output("--out", out, [".jsonl", ".csv"])
        file = CaptionFile(out) if out is not None else None
        todo = [name for name in found if file is None or reported_name(name) not in file.done]
        if xmp and not overwrite:
            todo = [name for name in todo if "://" in name or read_caption(Path(name)) is None]
        if txt and not overwrite:
            todo = [name for name in todo if "://" in name or not Path(name).with_suffix(".txt").exists()]
        if skipped := len(found) - len(todo):
            print_message(f"{skipped} of {len(found)} pictures have a caption already and are skipped")
        added, unused = added_metadata(
            found,
            vocabulary=keywords_from,
            min_match=min_match,
            places=places,
            overwrite=overwrite or not xmp,
            model=keyword_model,
            allow_pickle=allow_pickle,
            exact=exact,
            allow_urls=allow_urls,
            limits=limits,
        )
        todo = [] if keywords_only else todo
        captioned = set(todo)
        failed = len(unused - captioned)  # the others fail again below
        for name, addition in added.items():  # the others are written with their captions
            if name in captioned:
                continue
            row: dict[str, object] = {"image": reported_name(name)}
            if keywords_from is not None:
                row["keywords"] = addition.row
            if json:
                print_json(row)
            elif keywords_from is not None:
                print(f"{printable(name)}: {addition.text}", flush=True)
            if xmp and "://" not in name:
                try:
                    write_metadata(Path(name), addition.changes())
                except PictureError as error:
                    failed += 1
                    print_message(str(error))
        scored = candidates is not None and candidates > 1
        if todo:
            vlm = load_vision_language_model(model, allow_pickle, precision)
            options = CaptionOptions(
                prompt=prompt,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                top_p=top_p,
                num_candidates=candidates,
                seed=seed,
                batch_size=batch_size,
                exact=exact,
                allow_urls=allow_urls,
                limits=limits,
                style=style,  # type: ignore[arg-type]
                instruction=instruction,
                language=language,
                fields=_names(fields),
                context=_names(context),  # type: ignore[arg-type]
            )
            stream = vlm.stream_captions(todo, options=options)
            for picture in track(stream, "captioning", len(todo)):
                path = todo[picture.index]  # picture.name is escaped for display
                if picture.error is not None:
                    failed += 1
                    print_message(str(picture.error))
                    continue
                caption = f"{prefix}, {picture.caption}" if prefix else picture.caption
                row = {"image": reported_name(path), "caption": caption}
                if picture.fields is not None and (out is None or out.suffix.lower() == ".jsonl"):
                    row["fields"] = picture.fields
                addition = added.get(path, Addition())
                score = {"score": picture.score, "weak": picture.weak}
                if file is not None:
                    file.append(row | score if scored else row)
                if xmp:
                    try:
                        write_metadata(Path(path), addition.changes(caption))
                    except PictureError as error:
                        failed += 1
                        print_message(str(error))
                if txt:
                    write_text_beside(Path(path), caption)
                if json:
                    if picture.score is not None:
                        ranked = [{"caption": text, "score": match} for text, match in picture.candidates]
                        row |= score | {"candidates": ranked}
                    if keywords_from is not None:
                        row["keywords"] = addition.row
                    print_json(row)
                elif file is None or scored:
                    told = f"  ({picture.score:.0%}{', weak' if picture.weak else ''})" if scored else ""
                    words = f"  [{addition.text}]" if keywords_from is not None else ""
                    print(f"{picture.name}: {caption}{told}{words}", flush=True)
                if attention is not None:
                    from beholder.tasks.plot import plot_attention

                    plot_attention(attention, path, vlm.attention_maps(path, picture.caption, prompt))
        if file is not None:
            file.close()
            if not json:
                print(f"{out}: {file.num_written} captions added, {len(file.done) + file.num_written} in all")
    raise typer.Exit(1 if failed else 0)


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())
