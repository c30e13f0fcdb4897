"""The options that several commands share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", "-m", help="A name, a folder, or a hub id such as openai/clip-vit-base-patch32.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output, nothing else.")]
Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of pictures.")]
Texts = Annotated[list[str], typer.Option("--text", "-t", help="A sentence; may be given several times.")]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures named by an http(s) address.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read weights from a pickle, in torch's restricted mode.")
]
Exact = Annotated[bool, typer.Option("--exact", help="Decode large JPEGs in full rather than at reduced scale.")]
OutFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write here: a .npy or a .parquet file.")]
