"""The options that several commands share, each described once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", "-m", help="A name, a folder, or a hub id such as openai/clip-vit-base-patch32.")
]
VisionLanguage = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A name, a folder, a hub id, or an address such as http://127.0.0.1:11434/v1#qwen3-vl:8b."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output, nothing else.")]
Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of pictures.")]
Texts = Annotated[list[str], typer.Option("--text", "-t", help="A sentence; may be given several times.")]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures named by an http(s) address.")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle/--no-allow-pickle",
        help="Without safetensors, read a pickle by torch's restricted unpickler, once, and keep it as safetensors.",
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Decode large JPEGs in full rather than at reduced scale.")]

MaxMegapixels = Annotated[
    float | None,
    typer.Option("--max-megapixels", help="Refuse pictures of more million pixels; 100 by default. Costs memory."),
]
MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", min=1, help="Refuse files of more bytes; 512,000,000 by default.")
]


class PrecisionName(StrEnum):
    """The precisions of `DualEncoder.from_pretrained`."""

    exact = "exact"
    fast = "fast"
    fastest = "fastest"


Precision = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        help="How near to single precision: exact to 1e-5, fast to a cosine of 0.9999, fastest to 0.999.",
    ),
]
OutFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write here: a .npy or a .parquet file.")]
AlbumFolder = Annotated[
    Path | None,
    typer.Option("--album", help="The album's folder; by default $BEHOLDER_ALBUM, or where this system keeps data."),
]
Where = Annotated[
    str | None, typer.Option("--where", help='Only these, such as "date>=2024-05 camera:canon -tag:private".')
]
AlbumModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Whose vectors to use; by default the model that indexed last.")
]
