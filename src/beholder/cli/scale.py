"""``beholder scale``: collections of many millions of pictures, in shards."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli.options import (
    AllowPickle,
    AllowUrls,
    Exact,
    Json,
    MaxBytes,
    MaxMegapixels,
    Model,
    Precision,
    PrecisionName,
)

if TYPE_CHECKING:
    from beholder.scale.embed import EmbedProgress
    from beholder.scale.shard_embedder import ShardResult

app = typer.Typer(
    help="Embed, index and filter collections of many millions of pictures, in shards.", no_args_is_help=True
)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="Shards (.tar, .parquet), patterns, folders of shards, or a .txt of them."
    ),
]
Out = Annotated[str, typer.Option("--out", "-o", help="Folder or address, such as s3://bucket/vectors, of the result.")]
Score = Annotated[bool, typer.Option("--score", help="Score how well each picture's caption matches it.")]
Caption = Annotated[bool, typer.Option("--caption", help="Write a caption of each picture.")]
Captioner = Annotated[str, typer.Option("--caption-model", help="The vision-language model for --caption.")]
ImageColumn = Annotated[
    str | None, typer.Option("--image-column", help="Column of Parquet shards with pictures or their addresses.")
]
CaptionColumn = Annotated[str | None, typer.Option("--caption-column", help="Column of Parquet shards with captions.")]
Thumbnails = Annotated[
    int | None,
    typer.Option("--thumbnails", min=16, max=1024, help="Keep thumbnails; this many pixels is the longer side."),
]
MaxFailed = Annotated[
    int | None, typer.Option("--max-failed", min=0, help="End when more shards than this can't be read.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds without data until a shard is given up.")]


class EngineName(StrEnum):
    """What the work runs on."""

    local = "local"
    ray = "ray"


Engine = Annotated[EngineName, typer.Option("--engine", help="This process, or the workers of a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster, such as auto; by default $RAY_ADDRESS, or one on this machine alone."),
]


@app.command(name="embed")
def embed(
    sources: Sources,
    out: Out,
    model: Model = "mini",
    precision: Precision = PrecisionName.exact,
    score: Score = False,
    caption: Caption = False,
    caption_model: Captioner = "mini",
    engine: Engine = EngineName.local,
    address: Address = None,
    max_failed: MaxFailed = None,
    timeout: Timeout = 120.0,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    thumbnails: Thumbnails = None,
    exact: Exact = False,
    max_megapixels: MaxMegapixels = None,
    max_bytes: MaxBytes = None,
    allow_urls: AllowUrls = False,
    allow_pickle: AllowPickle = True,
    json: Json = False,
) -> None:
    """Embed the pictures in shards; one Parquet file of vectors for each shard.

    Shards are tar files as webdataset writes them, or Parquet tables. A run that was ended at any moment goes on when
    the same command is given again. A picture that can't be used is a row with its error; a shard that can't be read is
    named in OUT/failed.jsonl, the rest are done, and the exit code is 1.

    \b
    beholder scale embed shards/ --out vectors/
    beholder scale embed "s3://bucket/{00000..09999}.tar" --out s3://bucket/vectors --engine ray --address auto
    """
    from beholder.cli.output import check_output_folder, print_message, warnings_on_one_line
    from beholder.cli.pictures import load_encoder, picture_limits
    from beholder.errors import InvalidSetting
    from beholder.scale.embed import EmbedRun
    from beholder.scale.parts import RunSettings
    from beholder.scale.shard_embedder import EmbedOptions
    from beholder.scale.shards import list_shards
    from beholder.scale.storage import Location

    if address is not None and engine != "ray":
        raise InvalidSetting("--address is that of a Ray cluster: it needs --engine ray")
    check_output_folder("--out", Location.of(out).local)
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line():
        shards = list_shards(sources)
        encoder = load_encoder(model, allow_pickle, precision)
        settings = RunSettings(
            encoder.origin.name if encoder.origin else model,
            encoder.fingerprint,
            encoder.towers.embedding,
            precision.value,
            exact,
            score,
            caption_model if caption else None,
            image_column,
            caption_column,
            thumbnails,
        )
        options = EmbedOptions(out, settings, allow_urls, allow_pickle, limits, timeout)
        run = EmbedRun(shards, options, encoder, max_failed, engine.value, address)
        try:
            report(run, json)
        except KeyboardInterrupt:
            print_message(f"{run.progress.left} of {len(shards)} shards left; the same command goes on with them")
            raise
    if not json:
        print(summary(run.progress, out))
    raise typer.Exit(1 if run.progress.failed_shards else 0)


def report(run: Any, json: bool) -> None:
    """Work through a run, with one JSON line a shard or with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from beholder.cli.output import print_json, print_message

    progress: EmbedProgress = run.progress
    console = Console(stderr=True)
    columns = (TextColumn("{task.completed} of {task.total} shards"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=json or not console.is_terminal) as bar:
        task = bar.add_task("starting", total=progress.shards, completed=progress.shards - progress.left)
        for result in run:
            if json:
                print_json(row_of(result, progress))
            elif result.error is not None:
                print_message(result.error)
            bar.update(task, completed=progress.shards - progress.left, description=rate(progress))


def row_of(result: ShardResult, progress: EmbedProgress) -> dict[str, Any]:
    """Return the JSON line of a shard."""
    row: dict[str, Any] = {"shard": result.shard, "rows": result.rows, "failed": result.failed, "error": result.error}
    row |= {"node": result.node, "seconds": round(result.seconds, 3), "shards_left": progress.left}
    seconds = progress.seconds_left
    row |= {"pictures_per_second": round(progress.pictures_per_second, 1)}
    return row | {"seconds_left": None if seconds is None else round(seconds)}


def rate(progress: EmbedProgress) -> str:
    """Describe how fast a run is, and how long it will still take."""
    text = f"{progress.pictures_per_second:,.0f} pictures a second"
    if len(progress.by_node) > 1:
        text += f" on {len(progress.by_node)} machines"
    if progress.seconds_left is None:
        return text
    hours, minutes = divmod(round(progress.seconds_left / 60), 60)
    return f"{text}, {hours}:{minutes:02} h left"


def summary(progress: EmbedProgress, out: str) -> str:
    """Describe a finished run."""
    parts = [f"{out}: {progress.rows:,} pictures of {progress.done:,} shards embedded"]
    if progress.failed:
        parts.append(f"{progress.failed:,} of the pictures can't be used (column error)")
    if progress.done_before:
        parts.append(f"{progress.done_before:,} shards were done before")
    if progress.failed_shards:
        parts.append(f"{len(progress.failed_shards):,} shards can't be read (failed.jsonl)")
    return "; ".join(parts)


Parts = Annotated[str, typer.Argument(metavar="ADDRESS", help="What beholder scale embed wrote: its --out.")]
IndexAddress = Annotated[str, typer.Option("--out", "-o", help="Folder or address of the index.")]
Recall = Annotated[
    float | None,
    typer.Option(
        "--recall", min=0.01, max=1.0, help="Share of the true 10 nearest that searches should find; by default 0.95."
    ),
]


class IndexKind(StrEnum):
    """What searches an index."""

    faiss = "faiss"
    lance = "lance"


Kind = Annotated[
    IndexKind, typer.Option("--kind", help="For beholder search and serve, or a Lance dataset for LanceDB and pylance.")
]
Check = Annotated[
    bool, typer.Option("--check", help="Compare the index with ADDRESS and measure its recall; change nothing.")
]


@app.command(name="index")
def index(
    parts: Parts,
    out: IndexAddress,
    kind: Kind = IndexKind.faiss,
    recall: Recall = None,
    check: Check = False,
    json: Json = False,
) -> None:
    """Index vectors, so that beholder search --vectors finds pictures among millions.

    A FAISS inverted file with one bit for each number of a vector finds candidates; the vectors themselves rank them.
    All of it is memory-mapped. The same command goes on where it was ended, and takes in what is new. An index on
    object storage is built in the cache folder and then copied there; machines that search it keep a copy in theirs.

    \b
    beholder scale index vectors/ --out index/
    beholder scale index vectors/ --out index/ --check
    beholder search "a dog in the snow" --vectors index/ --where "width>=512 -caption:logo"
    beholder scale index s3://bucket/vectors --out s3://bucket/index
    beholder scale index vectors/ --out tables/pictures.lance --kind lance
    """
    from beholder.cli.output import check_output_folder, print_json, print_message
    from beholder.errors import InvalidSetting
    from beholder.scale.build_index import build_index, check_index
    from beholder.scale.lance_index import SUFFIX, build_lance, check_lance
    from beholder.scale.remote_index import fetch_index, local_folder, publish_index
    from beholder.scale.segments import INDEX
    from beholder.scale.storage import Location

    lance = kind == IndexKind.lance
    if lance and (recall is not None or not out.rstrip("/").endswith(SUFFIX)):
        reason = (
            "--recall is for --kind faiss" if recall is not None else f"--out {out}: Lance datasets end in {SUFFIX}"
        )
        raise InvalidSetting(reason)
    if check:
        found = check_lance(parts, out) if lance else check_index(fetch_index(out))
        if json:
            print_json(asdict(found))
        else:
            print(f"{out}: {found.vectors:,} vectors; recall@10 {found.recall:.3f}")
            print(f"{found.missing:,} parts of {parts} are not in it; {found.gone:,} of its parts are gone")
        raise typer.Exit(1 if found.missing or found.gone else 0)
    place = Location.of(out)
    check_output_folder("--out", place.local)
    if not lance and place.local is None and (place / INDEX).exists():
        fetch_index(out, cells=True)

    def on_segment(segment: str, rows: int, done: int, total: int) -> None:
        if json:
            print_json({"segment": segment, "rows": rows, "segments_left": total - done})
        else:
            print_message(f"segment {done} of {total}: {rows:,} vectors")

    if lance:
        built = build_lance(parts, out, on_segment)
        if json:
            print_json({"index": out} | asdict(built))
        else:
            print(f"{out}: {built.rows:,} vectors, {built.indexed:,} of them indexed")
        return
    manifest = build_index(parts, local_folder(out), recall or 0.95, on_segment)
    if place.local is None:
        publish_index(local_folder(out), out)
    count = sum(segment.count for segment in manifest.segments)
    about = {"index": out, "rows": count, "cells": manifest.cells, "probes": manifest.probes}
    if json:
        print_json(about | {"recall": manifest.recall})
    else:
        visited = f"searches visit {manifest.probes:,} of {manifest.cells:,} cells"
        print(f"{out}: {count:,} vectors; {visited}; recall@10 {manifest.recall:.3f}")


IndexFolder = Annotated[str, typer.Argument(metavar="INDEX", help="Folder or address of an index.")]
Database = Annotated[str, typer.Argument(metavar="DATABASE", help="qdrant://… or milvus://…, and the collection.")]


@app.command(name="push")
def push(index: IndexFolder, database: Database, json: Json = False) -> None:
    """Copy an index into Qdrant or Milvus, vectors and columns, by their own clients.

    The same command given again replaces the same points and adds new ones. Qdrant's key is read from $QDRANT_API_KEY,
    Milvus's token from $MILVUS_TOKEN.

    \b
    beholder scale push index/ qdrant://localhost:6333/pictures
    beholder scale push index/ milvus+https://milvus.example:19530/pictures
    beholder scale push index/ milvus:milvus.db/pictures
    """
    from beholder.cli.output import print_json, track
    from beholder.scale.push import BATCH, push_index
    from beholder.scale.remote_index import fetch_index
    from beholder.scale.segments import ShardIndex

    opened = ShardIndex(fetch_index(index))
    written = max(track(push_index(opened, database), "copying", -(-len(opened) // BATCH)), default=0)
    if json:
        print_json({"index": index, "database": database, "rows": written})
    else:
        print(f"{database}: {written:,} vectors")


SelectOut = Annotated[str, typer.Option("--out", "-o", help="Folder or address of the new shards.")]
SelectWhere = Annotated[
    str, typer.Option("--where", help='Only these, such as "match>=0.7 width>=256 -caption:watermark".')
]
Dedup = Annotated[
    float | None, typer.Option("--dedup", min=-1.0, max=1.0, help="Drop pictures whose cosine is above this.")
]
PerShard = Annotated[int, typer.Option("--per-shard", min=1, help="Pictures in a new shard.")]


@app.command(name="select")
def select(
    parts: Parts,
    out: SelectOut,
    where: SelectWhere = "",
    dedup: Dedup = None,
    per_shard: PerShard = 10_000,
    timeout: Timeout = 120.0,
    json: Json = False,
) -> None:
    """Write the pictures that pass a filter as new shards, which beholder train clip reads.

    Of files with the same bytes, one is kept; with --dedup, of pictures that look alike, too, within clusters.

    \b
    --where takes match cosine width height pixels, with : = < <= > >=, and caption: generated_caption: key: with a word
    or a "quoted text", and language:en,de of the caption; all terms must hold, and a minus in front negates one.

    \b
    beholder scale select vectors/ --where "match>=0.7 width>=256" --dedup 0.95 --out selected/
    """
    from beholder.cli.output import check_output_folder, print_json
    from beholder.scale.select import select as write_selected
    from beholder.scale.storage import Location

    check_output_folder("--out", Location.of(out).local)
    found = write_selected(parts, out, where, dedup, per_shard, timeout)
    if json:
        print_json(asdict(found))
        return
    print(f"{out}: {found.selected:,} of {found.rows:,} pictures in {found.shards:,} shards")
    left_out = {"filtered out": found.filtered, "identical": found.identical, "near duplicates": found.near}
    print(", ".join(f"{count:,} {what}" for what, count in left_out.items()) + f", {found.failed:,} unusable")
