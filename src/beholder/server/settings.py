"""Settings of the server: where it listens, who may send requests, and how much a request may cost."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from beholder.errors import InvalidSetting
from beholder.pictures.limits import Limits
from beholder.server.keys import APIKey, read_key_file


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server.

    Attributes:
        host: Address to listen on. Any address but loopback requires a key.
        port: Port to listen on; 0 selects a free one.
        key: API key that every request must carry; None disables authentication, unless there is a ``key_file``.
        key_file: File of API keys (`beholder.server.keys`), reread on SIGHUP.
        trusted_proxies: Addresses and networks of reverse proxies whose ``X-Forwarded-For`` names the client.
        allowed_hosts: Host names accepted in the Host header, besides loopback and IP addresses.
        allow_urls: Whether pictures may be given by public http(s) URLs.
        read_only: Whether captions and tags of albums can't be changed.
        folders: Folders of pictures that the page may add to albums, with all below them.
        limits: Limits for a single picture.
        body_megabytes: Maximum size of a request body.
        pictures: Maximum number of pictures per request.
        megapixels: Maximum number of megapixels per request, over all pictures, checked before decoding.
        requests: Maximum number of queued and running requests; further ones get 429.
        waiting_megabytes: Maximum total size of the bodies of queued and running requests.
        seconds: Deadline of a request, from its first byte to the last byte of its response.
        body_seconds: Deadline for the body of a request to arrive.
        stop_seconds: Grace period for running requests when the server stops.
        tokens: Maximum number of generated tokens per answer.
        cache_tokens: Tokens that a model's KV cache may hold. Requests for which there is no room wait; when as many
            tokens wait, further requests get 429.
        drawing_steps: Maximum number of steps of all the drawings of a request, candidates included.
        telemetry: Whether requests are traced (`beholder.server.telemetry`).
        drain_seconds: How long ``/readyz`` reports 503 after SIGTERM before the socket is closed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    key_file: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allow_urls: bool = False
    read_only: bool = False
    folders: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=lambda: Limits(megapixels=50, megabytes=20, timeout=10))
    body_megabytes: float = 32.0
    pictures: int = 16
    megapixels: float = 100.0
    requests: int = 128
    waiting_megabytes: float = 512.0
    seconds: float = 120.0
    body_seconds: float = 30.0
    stop_seconds: float = 30.0
    tokens: int = 512
    cache_tokens: int = 16_384
    drawing_steps: int = 2000
    telemetry: bool = False
    drain_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.key is not None and self.key_file is not None:
            raise InvalidSetting("--key and --key-file are mutually exclusive")
        if not self.loopback and not self.key and self.key_file is None:
            raise InvalidSetting(
                f"--host {self.host}: reachable from other machines, so it needs a key: --key-file FILE, or "
                "BEHOLDER_KEY in the environment"
            )
        for name in self.allowed_hosts:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name, re.ASCII):
                raise InvalidSetting(f"--allow-host {name}: a host name without scheme, port or wildcard is expected")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise InvalidSetting(
                    f"--proxy-headers {proxy}: an IP address or a network such as 10.0.0.0/8 is expected"
                ) from None
        self.read_keys()
        for folder in self.folders:
            if not folder.expanduser().is_dir():
                raise InvalidSetting(f"--folder {folder}: is not a folder")
        if not 0 <= self.port <= 65535:
            raise InvalidSetting(f"--port {self.port}: a port is between 0 and 65535")
        for name in (
            "body_megabytes",
            "pictures",
            "megapixels",
            "requests",
            "waiting_megabytes",
            "tokens",
            "cache_tokens",
            "drawing_steps",
        ):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"{name}: must be greater than 0, is {getattr(self, name)}")
        for name in ("seconds", "body_seconds", "stop_seconds"):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"{name}: must be greater than 0, is {getattr(self, name)}")

    def read_keys(self) -> tuple[APIKey, ...]:
        """Return the API keys that are valid at present; none if no key is required.

        Raises:
            InvalidSetting: The key file can't be read, or a key is invalid.
        """
        if self.key_file is not None:
            return read_key_file(self.key_file)
        return () if self.key is None else (APIKey(self.key, "key"),)

    @property
    def loopback(self) -> bool:
        """Whether the server can be reached only from this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
