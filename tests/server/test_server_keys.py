import asyncio
from typing import Any

import pytest

import serving
from beholder import DualEncoder
from beholder.errors import InvalidSetting
from beholder.server import keys
from beholder.server.http_errors import HTTPError
from beholder.server.keys import APIKey, KeyRing, WrongKeys, read_keys
from beholder.server.settings import ServerSettings

FILE = """# keys of the team
a long secret key

name=shop key=12345678-shop routes=/v1/embeddings,/v1/models rate=2
name=other key=12345678-other
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def code_of(ring: KeyRing, key: str, path: str) -> str | None:
    try:
        ring.check(key.encode(), path)
    except HTTPError as error:
        return error.code
    return None


def test_a_key_file_has_one_key_a_line() -> None:
    first, shop, other = read_keys(FILE)
    assert (first.key, first.name, first.routes, first.rate) == ("a long secret key", "line-2", (), None)
    assert (shop.name, shop.routes, shop.rate) == ("shop", ("/v1/embeddings", "/v1/models"), 2)
    assert (other.key, other.routes, other.rate) == ("12345678-other", (), None)
    assert "12345678" not in repr(shop)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# nothing\n\n", "empty"),
        ("short", "line 1: .*at least 8"),
        ("a long secret key\nname=x key=short", "line 2: .*at least 8"),
        ("name=x", "the key is missing"),
        ("name=x key=12345678 colour=red", "line 1: expected"),
        ("name=x key=12345678 key=12345678", "line 1: expected"),
        ("name=x key=12345678 rate=often", "rate is not a number"),
        ("name=x key=12345678 rate=0", "greater than 0"),
        ("name=x key=12345678 rate=nan", "greater than 0"),
        ("name=x key=12345678 routes=v1", "begins with /"),
        ("name=\N{SNOWMAN} key=12345678", "name of a key"),
        ("name=x key=12345678\nname=y key=12345678", "two keys"),
        ("name=x key=12345678\nname=x key=123456789", "two names"),
        ("schlüssel-eins", "ASCII"),
    ],
)
def test_an_invalid_key_file_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        read_keys(text)


def test_a_key_opens_its_routes_alone() -> None:
    ring = KeyRing(read_keys(FILE.replace(" rate=2", "")))
    for path in ("/v1/embeddings", "/v1/models", "/v1/models/mini", "/healthz", "/readyz"):
        assert code_of(ring, "12345678-shop", path) is None
    for path in ("/v1/caption", "/v1/modelsx", "/", "/metrics", "/v1/embeddings%2f", "/v1"):
        assert code_of(ring, "12345678-shop", path) == "route_not_allowed"
    assert code_of(ring, "a long secret key", "/v1/caption") is None
    assert code_of(ring, "12345678-shoq", "/v1/models") == "invalid_api_key"
    assert code_of(KeyRing([APIKey("12345678", "page", ("/",))]), "12345678", "/v1/models") == "route_not_allowed"


def test_a_key_has_a_rate_of_its_own() -> None:
    clock = Clock()
    ring = KeyRing(read_keys(FILE), clock)
    assert [code_of(ring, "12345678-shop", "/v1/models") for _ in range(3)] == [None, None, "key_rate"]
    assert code_of(ring, "12345678-shop", "/readyz") is None
    assert code_of(ring, "12345678-other", "/v1/models") is None
    with pytest.raises(HTTPError) as caught:
        ring.check(b"12345678-shop", "/v1/models")
    assert caught.value.status == 429 and caught.value.headers["Retry-After"] == "30"
    clock.now += 30
    assert [code_of(ring, "12345678-shop", "/v1/models") for _ in range(2)] == [None, "key_rate"]
    ring.replace(read_keys(FILE))  # rereading the file gives no new allowance
    assert code_of(ring, "12345678-shop", "/v1/models") == "key_rate"


def test_no_keys_admit_everybody() -> None:
    assert KeyRing([]).check(b"", "/v1/models") is None


def test_answers_to_wrong_keys_are_delayed_by_address() -> None:
    clock = Clock()
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    async def guess() -> None:
        wrong = WrongKeys(clock, sleep)
        for _ in range(12):
            await wrong.count("192.0.2.1")
        assert len(delays) == 12 - keys.FREE_ATTEMPTS
        assert delays == sorted(delays) and delays[0] > 0 and delays[-1] == keys.MAX_DELAY
        assert await wrong.count("192.0.2.2") == 1
        assert await wrong.count("2001:db8::1") == 1 and await wrong.count("2001:db8::2") == 2
        clock.now += keys.FORGET_SECONDS + 1
        assert await wrong.count("192.0.2.1") == 1

    asyncio.run(guess())


def test_guessing_in_parallel_gains_nothing() -> None:
    async def guess() -> None:
        released = asyncio.Event()

        async def sleep(_: float) -> None:
            await released.wait()

        wrong = WrongKeys(Clock(), sleep)
        guesses = [
            asyncio.ensure_future(wrong.count("192.0.2.1")) for _ in range(keys.FREE_ATTEMPTS + keys.MAX_DELAYED)
        ]
        await asyncio.sleep(0)
        with pytest.raises(HTTPError) as caught:
            wrong.check("192.0.2.1")
        assert (caught.value.status, caught.value.code) == (429, "too_many_wrong_keys")
        wrong.check("192.0.2.2")
        released.set()
        await asyncio.gather(*guesses)
        wrong.check("192.0.2.1")

    asyncio.run(guess())


def test_the_number_of_counted_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_ADDRESSES", 3)

    async def guess() -> None:
        wrong = WrongKeys(Clock())
        for number in range(10):
            await wrong.count(f"192.0.2.{number}")
        assert len(wrong._guesses) == 3

    asyncio.run(guess())


def test_wrong_keys_are_counted_and_logged_without_them(encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr("beholder.server.middleware.log_event", lambda event, **fields: rows.append(fields))
    with serving.running({"tiny": encoder}, key="a long secret key") as running:
        for _ in range(2):
            assert running.ask("GET", "/v1/models", headers={"Authorization": "Bearer wrong"}).code == "invalid_api_key"
        assert running.ask("GET", "/v1/models").code == "invalid_api_key"  # a browser's first request: no guess
        good = {"Authorization": "Bearer a long secret key"}
        answer = running.ask("GET", "/v1/models", headers=good)
        assert answer.status == 200
        assert "beholder_wrong_keys_total 2.0" in running.ask("GET", "/metrics", headers=good).data.decode()
    assert [row.get("wrong_keys") for row in rows[:4]] == [1, 2, None, None]
    assert rows[3]["key"] == "key" and rows[3]["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("proxy", ["*", "proxy.example", "10.0.0.0/33", "", "10.0.0.1:80"])
def test_an_invalid_proxy_is_refused(proxy: str) -> None:
    with pytest.raises(InvalidSetting, match="--proxy-headers"):
        ServerSettings(trusted_proxies=(proxy,))


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        (("127.0.0.0/8",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.1", "10.0.0.0/8"), "198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        (("127.0.0.1",), "a secret text", "unknown"),
        (("10.0.0.0/8",), "203.0.113.9", "127.0.0.1"),
        ((), "203.0.113.9", "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_name_the_client(
    encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], forwarded: str, client: str
) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr("beholder.server.middleware.log_event", lambda event, **fields: rows.append(fields))
    with serving.running({"tiny": encoder}, trusted_proxies=trusted) as running:
        running.ask("GET", "/v1/models", headers={"X-Forwarded-For": forwarded})
    assert rows[0]["client"] == client
