"""``beholder serve``: a page in the browser, and an HTTP interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, Precision, PrecisionName

Models = Annotated[
    list[str], typer.Option("--model", "-m", help="A name, a folder, or a hub id; may be given several times.")
]
Host = Annotated[str, typer.Option("--host", help="Listen here. Any address but loopback needs a key.")]
Port = Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes a free one.")]
Key = Annotated[
    str | None, typer.Option("--key", help="Ask every request for this key. Others on this machine can see it here.")
]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="A file that holds the key; or set BEHOLDER_KEY.")]
AllowHost = Annotated[
    list[str], typer.Option("--allow-host", help="A name that leads to this server; may be given several times.")
]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures from public http(s) addresses.")]
Albums = Annotated[
    list[Path], typer.Option("--album", help="Serve this album, too; may be given several times.", show_default=False)
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Captions and keywords of albums stay as they are.")]
Requests = Annotated[int, typer.Option("--requests", min=1, help="Worked on or waiting at once; more are told 429.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="The longest that a request may take.")]
BodyMegabytes = Annotated[float, typer.Option("--body-megabytes", min=0.001, help="The largest body of a request.")]


def command(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: Models = ["mini"],  # noqa: B006 (typer reads the default and never changes it)
    album: Albums = [],  # noqa: B006
    read_only: ReadOnly = False,
    key: Key = None,
    key_file: KeyFile = None,
    allow_host: AllowHost = [],  # noqa: B006
    allow_urls: AllowUrls = False,
    requests: Requests = 128,
    seconds: Seconds = 120.0,
    body_megabytes: BodyMegabytes = 32.0,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = False,
) -> None:
    """Serve a page and an HTTP interface, until Ctrl-C.

    Programs written for OpenAI's interface work with it: base_url="http://127.0.0.1:8000/v1".

    \b
    beholder serve
    beholder serve --album my-album
    beholder serve --model mini --model ./my-encoder --port 9000
    beholder serve --host 0.0.0.0 --key-file key.txt --allow-host pictures.example
    """
    from beholder.errors import InvalidSetting, MissingExtra

    try:
        from beholder.runtime.precision import check_precision
        from beholder.server.run import serve
        from beholder.server.service import Service, loader
        from beholder.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("beholder"):
            raise
        raise MissingExtra("the server", "server") from error
    if key is not None and key_file is not None:
        raise InvalidSetting("--key and --key-file exclude each other")
    if key_file is not None:
        try:
            key = key_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"--key-file {key_file}: can't be read ({error})") from None
        if not key:
            raise InvalidSetting(f"--key-file {key_file}: is empty")
    settings = ServerSettings(
        host=host,
        port=port,
        key=key or os.environ.get("BEHOLDER_KEY") or None,
        allowed_hosts=tuple(allow_host),
        allow_urls=allow_urls,
        read_only=read_only,
        requests=requests,
        seconds=seconds,
        body_megabytes=body_megabytes,
    )
    serve(Service(settings, loader(model, allow_pickle, check_precision(precision)), album))
