"""``beholder serve``: a web page and an HTTP API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AllowPickle, Precision, PrecisionName

Models = Annotated[list[str], typer.Option("--model", "-m", help="Name, folder or hub id; repeatable.")]
Generators = Annotated[
    list[str], typer.Option("--generator", help="Draw pictures with this image generator; repeatable.")
]
Reranker = Annotated[
    str | None,
    typer.Option(
        "--reranker", help="Dual encoder that chooses among the candidates of a generator; by default its own."
    ),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on. Any but loopback requires a key.")]
Port = Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on; 0 selects a free one.")]
Key = Annotated[
    str | None, typer.Option("--key", help="API key required of every request. Visible to other users of this machine.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="File of API keys, one a line; reread on SIGHUP. Or set BEHOLDER_KEY.")
]
ProxyHeaders = Annotated[
    list[str],
    typer.Option(
        "--proxy-headers", help="Address or network of a trusted reverse proxy; repeatable.", metavar="ADDRESS"
    ),
]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Log to this file in place of standard error; reopened on SIGHUP.")
]
OpenPage = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
AllowHost = Annotated[list[str], typer.Option("--allow-host", help="Host name of this server; repeatable.")]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures from public http(s) URLs.")]
Albums = Annotated[list[Path], typer.Option("--album", help="Serve this album; repeatable.", show_default=False)]
Vectors = Annotated[
    list[str],
    typer.Option("--vectors", help="Serve this index by beholder scale index; repeatable.", show_default=False),
]
Folders = Annotated[
    list[Path],
    typer.Option("--folder", help="Let the page add this folder, or one below it, to albums; repeatable."),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Do not change captions and tags of albums.")]
Requests = Annotated[
    int, typer.Option("--requests", min=1, help="Maximum number of queued and running requests; further ones get 429.")
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Deadline of a request in seconds.")]
BodyMegabytes = Annotated[float, typer.Option("--body-megabytes", min=0.001, help="Maximum size of a request body.")]
Telemetry = Annotated[
    bool, typer.Option("--telemetry", help="Send OpenTelemetry traces to the collector that OTEL_* variables name.")
]
CacheTokens = Annotated[
    int,
    typer.Option(
        "--cache-tokens",
        min=1,
        help="Size of a language model's KV cache: texts generated together, times their length.",
    ),
]
DrainSeconds = Annotated[
    float, typer.Option("--drain-seconds", min=0, help="How long /readyz reports 503 on SIGTERM before stopping.")
]


def command(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: Models = ["mini"],  # noqa: B006 (typer reads the default and never changes it)
    generator: Generators = [],  # noqa: B006
    reranker: Reranker = None,
    album: Albums = [],  # noqa: B006
    folder: Folders = [],  # noqa: B006
    vectors: Vectors = [],  # noqa: B006
    read_only: ReadOnly = False,
    open_page: OpenPage = False,
    key: Key = None,
    key_file: KeyFile = None,
    allow_host: AllowHost = [],  # noqa: B006
    proxy_headers: ProxyHeaders = [],  # noqa: B006
    allow_urls: AllowUrls = False,
    requests: Requests = 128,
    seconds: Seconds = 120.0,
    body_megabytes: BodyMegabytes = 32.0,
    cache_tokens: CacheTokens = 16_384,
    drain_seconds: DrainSeconds = 0.0,
    log_file: LogFile = None,
    telemetry: Telemetry = False,
    precision: Precision = PrecisionName.exact,
    allow_pickle: AllowPickle = True,
) -> None:
    """Serve a web page and an HTTP API until Ctrl-C.

    Works with clients of the OpenAI API: base_url="http://127.0.0.1:8000/v1".

    \b
    beholder serve
    beholder serve --album my-album
    beholder serve --album my-album --folder ~/Pictures
    beholder serve --vectors s3://bucket/index
    beholder serve --model mini --model ./my-encoder --port 9000
    beholder serve --generator runs/emoji-generator/best
    beholder serve --host 0.0.0.0 --key-file key.txt --allow-host pictures.example
    """
    from beholder.errors import InvalidSetting, MissingExtra

    try:
        from beholder.runtime.precision import check_precision
        from beholder.server.run import serve
        from beholder.server.service import Service, model_loader
        from beholder.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("beholder"):
            raise
        raise MissingExtra("the server", "server") from error
    if key == "" or os.environ.get("BEHOLDER_KEY") == "":
        raise InvalidSetting("the API key is empty")
    settings = ServerSettings(
        host=host,
        port=port,
        key=key or (os.environ.get("BEHOLDER_KEY") if key_file is None else None),
        key_file=key_file,
        trusted_proxies=tuple(proxy_headers),
        allowed_hosts=tuple(allow_host),
        allow_urls=allow_urls,
        read_only=read_only,
        folders=tuple(folder),
        requests=requests,
        seconds=seconds,
        body_megabytes=body_megabytes,
        cache_tokens=cache_tokens,
        telemetry=telemetry,
        drain_seconds=drain_seconds,
    )
    if reranker is not None and not generator:
        raise InvalidSetting("--reranker chooses among the pictures of a --generator, and there is none")
    load = model_loader(model, allow_pickle, check_precision(precision), generator, reranker)
    serve(Service(settings, load, album, vectors), log_file, open_page)
