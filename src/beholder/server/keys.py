"""API keys: who may call which routes, how often, and what guessing costs.

A key file has one key a line, reread on SIGHUP; empty lines and those that begin with ``#`` are skipped:

    a single key
    name=shop key=3f9a... routes=/v1/caption,/v1/classify rate=60

``routes`` are prefixes of paths, by default all; ``rate`` is the number of requests per minute, by default unlimited.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from beholder.errors import InvalidSetting
from beholder.server.http_errors import HTTPError, too_many_requests

MIN_LENGTH = 8
FREE_ATTEMPTS = 5  # wrong keys of an address that are answered at once
MAX_DELAY = 5.0  # seconds
MAX_DELAYED = 8  # wrong keys of one address whose answers are delayed; beyond, no key of that address is looked at
MAX_ADDRESSES = 10_000  # whose wrong keys are counted
FORGET_SECONDS = 900.0  # after the last wrong key of an address
ALWAYS_ALLOWED = ("/healthz", "/readyz")


@dataclass(frozen=True)
class APIKey:
    """A key.

    Attributes:
        key: What a client sends.
        name: For the log.
        routes: Prefixes of the paths that it opens; all if empty.
        rate: Requests per minute; None for no limit.
    """

    key: str = field(repr=False)
    name: str
    routes: tuple[str, ...] = ()
    rate: float | None = None

    def __post_init__(self) -> None:
        if len(self.key) < MIN_LENGTH or not self.key.isascii() or not self.key.isprintable():
            raise InvalidSetting("the key needs at least 8 characters, all printable ASCII")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name, re.ASCII):
            raise InvalidSetting(
                "the name of a key consists of at most 64 letters, digits, dots, dashes and underscores"
            )
        if any(not route.startswith("/") for route in self.routes):
            raise InvalidSetting(f"key {self.name}: a route begins with /")
        if self.rate is not None and not 0 < self.rate < 1e9:
            raise InvalidSetting(f"key {self.name}: a rate is a number of requests per minute, greater than 0")

    def opens(self, path: str) -> bool:
        """Return whether the key may be used for a path."""
        return (
            not self.routes
            or path in ALWAYS_ALLOWED
            or any(path == route or path.startswith(route.rstrip("/") + "/") for route in self.routes if route != "/")
            or (path == "/" and "/" in self.routes)
        )


def read_keys(text: str) -> tuple[APIKey, ...]:
    """Return the keys of a key file.

    Raises:
        InvalidSetting: There is none, a line is invalid, or two keys or names are equal.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            keys.append(_read_line(line, number))
        except InvalidSetting as error:
            raise InvalidSetting(f"line {number}: {error}") from None
    if not keys:
        raise InvalidSetting("is empty")
    for what, values in (("keys", [key.key for key in keys]), ("names", [key.name for key in keys])):
        if len(set(values)) < len(values):
            raise InvalidSetting(f"two {what} are equal")
    return tuple(keys)


def _read_line(line: str, number: int) -> APIKey:
    if not line.startswith("name="):
        return APIKey(line, f"line-{number}")
    fields: dict[str, str] = {}
    for part in line.split():
        name, equals, value = part.partition("=")
        if not equals or not value or name not in ("name", "key", "routes", "rate") or name in fields:
            raise InvalidSetting("expected name=NAME key=KEY and, optionally, routes=/PATH,/PATH rate=NUMBER")
        fields[name] = value
    if "key" not in fields:
        raise InvalidSetting("the key is missing")
    try:
        rate = float(fields["rate"]) if "rate" in fields else None
    except ValueError:
        raise InvalidSetting("the rate is not a number") from None
    return APIKey(fields["key"], fields["name"], tuple(filter(None, fields.get("routes", "").split(","))), rate)


def read_key_file(path: Path) -> tuple[APIKey, ...]:
    """Return the keys of a file.

    Raises:
        InvalidSetting: It can't be read, or is invalid.
    """
    try:
        return read_keys(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"--key-file {path}: cannot be read ({error})") from None
    except InvalidSetting as error:
        raise InvalidSetting(f"--key-file {path}: {error}") from None


class KeyRing:
    """The keys that are valid at present.

    Args:
        keys: The keys; none admits everybody.
        clock: Returns seconds.
    """

    def __init__(self, keys: Sequence[APIKey], clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.keys: tuple[APIKey, ...] = ()
        self._allowances: dict[str, tuple[float, float]] = {}  # name → requests that are left, and when
        self.replace(keys)

    def replace(self, keys: Sequence[APIKey]) -> None:
        """Take other keys from now on."""
        self.keys = tuple(keys)
        names = {key.name for key in keys}
        self._allowances = {name: left for name, left in self._allowances.items() if name in names}

    def check(self, presented: bytes, path: str) -> str | None:
        """Return the name of a presented key; None if no key is required.

        Raises:
            HTTPError: The key is wrong, is not for this path, or has been used too often.
        """
        if not self.keys:
            return None
        found = None
        for key in self.keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(presented, key.key.encode()):
                found = key
        if found is None:
            raise HTTPError(
                401,
                "an API key is required: Authorization: Bearer KEY",
                type="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": 'Basic realm="Beholder", charset="UTF-8"'},
            )
        if not found.opens(path):
            raise HTTPError(
                403, "this API key is not for this route", type="permission_error", code="route_not_allowed"
            )
        if found.rate is not None and path not in ALWAYS_ALLOWED:
            self._spend(found.name, found.rate)
        return found.name

    def _spend(self, name: str, rate: float) -> None:
        """Take one request from a key's allowance, which is refilled continuously (a token bucket)."""
        now = self.clock()
        burst = max(1.0, rate)
        left, then = self._allowances.get(name, (burst, now))
        left = min(burst, left + (now - then) * rate / 60)
        if left < 1:
            self._allowances[name] = left, now
            raise too_many_requests(max(1, round((1 - left) * 60 / rate)), code="key_rate")
        self._allowances[name] = left - 1, now


@dataclass
class _Guesses:
    count: int = 0
    delayed: int = 0
    last: float = 0.0


class WrongKeys:
    """Counts wrong keys by address, and delays the answers to an address that keeps guessing.

    Args:
        clock: Returns seconds.
        sleep: Waits.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = asyncio.sleep):
        self.clock = clock
        self.sleep = sleep
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()

    def check(self, client: str) -> None:
        """Raise a 429 `HTTPError` while the answers to many wrong keys of this address are delayed."""
        guesses = self._guesses.get(network_of(client))
        if guesses is not None and guesses.delayed >= MAX_DELAYED:
            raise too_many_requests(round(MAX_DELAY), code="too_many_wrong_keys")

    async def count(self, client: str) -> int:
        """Count a wrong key and wait: not for the first few, then longer and longer. Returns the count."""
        now, network = self.clock(), network_of(client)
        guesses = self._guesses.pop(network, None)
        if guesses is None or (now - guesses.last > FORGET_SECONDS and not guesses.delayed):
            guesses = _Guesses()
        self._guesses[network] = guesses
        if len(self._guesses) > MAX_ADDRESSES:
            self._guesses.popitem(last=False)
        guesses.count += 1
        guesses.last = now
        excess = guesses.count - FREE_ATTEMPTS
        if excess > 0:
            guesses.delayed += 1
            try:
                await self.sleep(min(MAX_DELAY, 0.1 * 2.0 ** min(excess, 10)))  # type: ignore[misc]
            finally:
                guesses.delayed -= 1
        return guesses.count


def network_of(client: str) -> str:
    """Return what stands for one client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 6:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
