"""What the server allows: where it listens, who may ask, and how much a request may cost."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from beholder.errors import InvalidSetting
from beholder.pictures.limits import Limits


@dataclass(frozen=True)
class ServerSettings:
    """How a server is run.

    Attributes:
        host: the address to listen on. Any but loopback needs a key.
        port: 0 takes a free one.
        key: what every request must carry; None asks for none.
        allowed_hosts: names by which the server may be called, beside loopback and bare IP addresses.
        allow_urls: whether pictures are fetched from public http(s) addresses.
        read_only: whether captions and keywords of albums stay as they are.
        limits: of a single picture.
        body_megabytes: the largest body of a request.
        pictures: the most pictures of a request.
        megapixels: the most pixels of a request, all pictures together, before anything is decoded.
        requests: how many may be worked on or wait at once; the next is told to come again (429).
        waiting_megabytes: of the bodies of all these requests together.
        seconds: from the first byte of a request to the last of its answer.
        body_seconds: for the body of a request to arrive.
        stop_seconds: for answers that are being written when the server is told to stop.
        tokens: the longest text that is written.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allow_urls: bool = False
    read_only: bool = False
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

    def __post_init__(self) -> None:
        if not self.loopback and not self.key:
            raise InvalidSetting(
                f"--host {self.host}: others could reach the server, so it needs a key: --key-file FILE, or "
                "BEHOLDER_KEY in the environment"
            )
        if self.key is not None and (len(self.key) < 8 or not self.key.isascii() or not self.key.isprintable()):
            raise InvalidSetting("the key needs at least 8 characters, all of them printable ASCII")
        if not 0 <= self.port <= 65535:
            raise InvalidSetting(f"--port {self.port}: a port is between 0 and 65535")
        for name in ("body_megabytes", "pictures", "megapixels", "requests", "waiting_megabytes", "tokens"):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"{name}: must be more than 0, is {getattr(self, name)}")
        for name in ("seconds", "body_seconds", "stop_seconds"):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"{name}: must be more than 0, is {getattr(self, name)}")

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
