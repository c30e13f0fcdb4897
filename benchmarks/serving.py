"""Load test of ``beholder serve``: does every response equal that of a lone request, and what does concurrency cost?

    python benchmarks/serving.py                          # 64 clients for five minutes, with mini
    python benchmarks/serving.py --clients 8 --seconds 30
    python benchmarks/serving.py --hostile 0.2            # a fifth of the clients attack the server

Three parts. Embeddings, sequentially and concurrently: the ratio of the throughputs. A single conversation: seconds to
its first token. Then clients that mix embeddings, captions and conversations about pictures, a tenth of which
disconnect early and a tenth of which send invalid requests: status codes, responses that differ from those of a lone
request, and the server's memory. The clients run on the same cores as the server.

With ``--hostile``, only the third part, twice: first the well-behaved clients alone, then together with the hostile
ones, who send bodies of millions of keys, thousands of long texts and labels, headers and bodies that trickle, requests
that no proxy would pass on, and who leave, don't read, or hold connections open. The median duration of each kind of
request of the well-behaved clients may at most double, nothing may get a 500, and memory in the last minute may be at
most 5 % above that of the second one (their medians).
"""

import argparse
import base64
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

PHOTOGRAPHS = sorted((Path(__file__).parents[1] / "demo" / "photographs").glob("*.jpg"))
SENTENCES = ["a cat looks at you", "a bridge by night", "a plate of fruit", "people in the snow", "two dogs play"]
QUESTIONS = ["What is in the picture?", "Is it day or night?", "Where is it?"]
INVALID_REQUESTS: list[tuple[str, Any]] = [
    ("/v1/caption", {"image": "/etc/passwd"}),
    ("/v1/caption", {"image": "data:image/png;base64,AAAA"}),
    ("/v1/embeddings", {"model": "mini", "input": []}),
    ("/v1/chat/completions", {"model": "nobody", "messages": []}),
]

SECONDS_HELD = 20.0  # by hostile clients that trickle, or don't read
HERE = threading.local()  # the address of the client that this thread is

VOLATILE_FIELDS = ("id", "created")  # of a response


def data_url(photograph: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(photograph.read_bytes()).decode()


def build_requests() -> list[tuple[str, dict[str, Any]]]:
    """Return all requests that clients send; the expected responses are recorded first, one at a time."""
    requests: list[tuple[str, dict[str, Any]]] = []
    for number, photograph in enumerate(PHOTOGRAPHS):
        url = data_url(photograph)
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]},
        ]
        messages = [{"role": "user", "content": content}]
        requests += [
            ("/v1/embeddings", {"model": "mini", "input": [url]}),
            ("/v1/embeddings", {"model": "mini", "input": SENTENCES[number % len(SENTENCES)]}),
            ("/v1/caption", {"image": url}),
            ("/v1/chat/completions", {"model": "mini", "messages": messages, "max_tokens": 24}),
        ]
    return requests


def source() -> tuple[str, int]:
    """Return the address from which this thread's client connects; the server shares itself among addresses."""
    return getattr(HERE, "address", "127.0.0.1"), 0


class Client:
    """Sends requests to a port of this machine."""

    def __init__(self, port: int):
        self.port = port

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300, source_address=source())
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def send_and_disconnect(self, path: str, body: Any, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300, source_address=source())
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        time.sleep(seconds)
        connection.close()


class Server(Client):
    """``beholder serve`` in its own process."""

    def __init__(self) -> None:
        super().__init__(0)
        command = [sys.executable, "-c", "from beholder.cli.main import run; run()", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        while not self.port or self.ask("GET", "/readyz")[0] != 200:
            if self.process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.2)

    def _read(self) -> None:
        for line in self.process.stderr or ():
            if line.startswith('{"time"') and "listening" in line:
                self.port = int(json.loads(line)["address"].rsplit(":", 1)[1].strip("/"))

    def megabytes(self) -> float:
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith("process_resident_memory_bytes"):
                return float(line.split()[1]) / 1e6
        return 0.0


def huge_object(server: Client, rng: random.Random) -> int:
    """A body of 26 MB with millions of unknown keys."""
    return send_raw(server, "/v1/embeddings", huge_body())


@cache  # the clients share a processor with the server
def huge_body() -> bytes:
    return b'{"model":"mini","input":"x",' + b",".join(b'"%d":0' % number for number in range(2_000_000)) + b"}"


def many_texts(server: Client, rng: random.Random) -> int:
    text = "a long sentence about nothing in particular, " * 4
    return server.ask("POST", "/v1/embeddings", {"model": "mini", "input": [text] * rng.randrange(500, 2048)})[0]


def many_labels(server: Client, rng: random.Random) -> int:
    labels = [f"thing {rng.random()}" for _ in range(rng.randrange(100, 1000))]
    templates = [f"{word} of a {{}}" for word in ("photo", "drawing", "painting", "picture")] * 4
    body = {"image": data_url(PHOTOGRAPHS[0]), "labels": labels, "template": templates}
    return server.ask("POST", "/v1/classify", body)[0]


def long_conversations_abandoned(server: Client, rng: random.Random) -> int:
    content = [
        {"type": "image_url", "image_url": {"url": data_url(rng.choice(PHOTOGRAPHS))}},
        {"type": "text", "text": "Tell a story. " * 200},
    ]
    body = {"model": "mini", "messages": [{"role": "user", "content": content}], "max_tokens": 512, "stream": True}
    for _ in range(5):
        server.send_and_disconnect("/v1/chat/completions", body, rng.uniform(0, 1))
    return 0


def trickle(server: Client, rng: random.Random) -> int:
    """A request that arrives byte by byte."""
    with socket.create_connection(("127.0.0.1", server.port), 60, source()) as connection, suppress(OSError):
        end = time.monotonic() + SECONDS_HELD
        request = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n" + b" " * 1000
        for byte in request:
            if time.monotonic() > end:
                break
            connection.send(bytes([byte]))
            time.sleep(0.1)
    return 0


def never_read(server: Client, rng: random.Random) -> int:
    with socket.create_connection(("127.0.0.1", server.port), 60, source()) as connection, suppress(OSError):
        for _ in range(50):
            connection.send(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(SECONDS_HELD)
    return 0


def hold_connections(server: Client, rng: random.Random) -> int:
    with ExitStack() as held:
        for _ in range(50):
            with suppress(OSError):
                held.enter_context(socket.create_connection(("127.0.0.1", server.port), 60, source()))
        time.sleep(SECONDS_HELD)
    return 0


def smuggle(server: Client, rng: random.Random) -> int:
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 60, source()) as connection:
        connection.sendall(head.encode() + b"0\r\n\r\n")
        return int(connection.recv(1000).split(b" ")[1])


def rubbish(server: Client, rng: random.Random) -> int:
    return server.ask("POST", *rng.choice(INVALID_REQUESTS))[0]


def send_raw(server: Client, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300, source_address=source())
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except OSError:  # refused before all of it was sent
        return 0
    finally:
        connection.close()


ATTACKS = (
    huge_object,
    many_texts,
    many_labels,
    long_conversations_abandoned,
    trickle,
    never_read,
    hold_connections,
    smuggle,
    rubbish,
)


def equal_json(one: bytes, other: bytes) -> bool:
    """Return whether two responses are equal, numbers up to 1e-5: rounding depends on the batch."""
    return equal(json.loads(one), json.loads(other))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            equal(one[key], other[key]) for key in one if key not in VOLATILE_FIELDS
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(abs(one - other) <= 1e-5 if isinstance(one, float) else one == other)


def throughput(server: Server, requests: list[tuple[str, dict[str, Any]]], clients: int) -> None:
    for name, chosen in (
        ("sentences", [each for each in requests if isinstance(each[1].get("input"), str)]),
        ("pictures", [each for each in requests if isinstance(each[1].get("input"), list)]),
    ):
        ratios = []
        for _ in range(3):
            rates = []
            for workers in (1, clients):
                work = (chosen * 20)[:160] if name == "sentences" else (chosen * 4)[:48]
                start = time.perf_counter()
                with ThreadPoolExecutor(workers) as pool:
                    statuses = list(pool.map(lambda each: server.ask("POST", *each)[0], work))
                rates.append(len(work) / (time.perf_counter() - start))
                if set(statuses) != {200}:
                    raise SystemExit(f"unexpected statuses: {Counter(statuses)}")
            ratios.append(rates[1] / rates[0])
        print(
            f"embeddings of {name}: {rates[0]:.0f}/s one at a time, {rates[1]:.0f}/s with {clients} clients; "
            f"ratio {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def time_to_first_token(server: Server, requests: list[tuple[str, dict[str, Any]]]) -> None:
    times = []
    for path, body in [each for each in requests if "messages" in each[1]]:
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300, source_address=source())
        connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        while b'"content": ""' in (line := answer.readline()) or b'"content"' not in line:
            if not line:
                break
        times.append(time.perf_counter() - start)
        answer.read()
        connection.close()
    print(f"time to first token of a single answer: {np.median(times):.2f} s (at most {max(times):.2f} s)")


def mixed(server: Server, requests: list[tuple[str, dict[str, Any]]], clients: int, seconds: float) -> bool:
    expected = [server.ask("POST", *each) for each in requests]
    statuses: Counter[int] = Counter()
    different: Counter[str] = Counter()
    durations: list[float] = []
    disconnected = invalid = 0
    end = time.monotonic() + seconds
    lock = threading.Lock()

    def client(seed: int) -> None:
        nonlocal disconnected, invalid
        rng = random.Random(seed)
        while time.monotonic() < end:
            index = rng.randrange(len(requests))
            action = rng.random()
            if action < 0.1:
                server.send_and_disconnect(*requests[index], rng.uniform(0, 2))
                with lock:
                    disconnected += 1
                continue
            path, body = rng.choice(INVALID_REQUESTS) if action < 0.2 else requests[index]
            start = time.perf_counter()
            status, data = server.ask("POST", path, body)
            with lock:
                statuses[status] += 1
                durations.append(time.perf_counter() - start)
                if action < 0.2:
                    invalid += 1
                elif status == 200 and not equal_json(expected[index][1], data):
                    different[path] += 1
            if status == 429:
                time.sleep(1)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    while time.monotonic() < end:
        time.sleep(min(seconds / 10, 30))
        memory.append(server.megabytes())
    for thread in threads:
        thread.join()
    print(f"{clients} clients for {seconds:.0f} s: {sum(statuses.values())} answers {dict(sorted(statuses.items()))}")
    print(
        f"{disconnected} disconnected early, {invalid} sent invalid requests; "
        f"seconds: median {np.median(durations):.1f}, worst {max(durations):.1f}"
    )
    print(f"responses that differ from those of a lone request: {dict(different) or 'none'}")
    print("megabytes of the server: " + ", ".join(f"{each:.0f}" for each in memory))
    return not any(status >= 500 for status in statuses) and not different


def attacked(
    server: Server, requests: list[tuple[str, dict[str, Any]]], clients: int, hostile: int, seconds: float
) -> bool:
    """Run well-behaved clients alone and then beside hostile ones; return whether the server withstood."""
    expected = [server.ask("POST", *each) for each in requests]
    with ThreadPoolExecutor(clients) as pool:  # the first batches of each size allocate what later ones use again
        list(pool.map(lambda each: server.ask("POST", *each), requests * 8))
    medians = []
    passed = True
    for attackers in (0, hostile):
        statuses: Counter[int] = Counter()
        different: Counter[str] = Counter()
        durations: dict[str, list[float]] = defaultdict(list)
        memory: list[float] = []
        lock = threading.Lock()
        start = time.monotonic()
        end = start + seconds

        def client(seed: int) -> None:
            HERE.address = f"127.0.1.{seed + 1}"  # all of 127/8 is this machine, on Linux
            rng = random.Random(seed)
            while time.monotonic() < end:  # noqa: B023 (the threads end before the next round)
                index = rng.randrange(len(requests))
                path, body = requests[index]
                began = time.perf_counter()
                status, data = server.ask("POST", path, body)
                with lock:  # noqa: B023
                    statuses[status] += 1  # noqa: B023
                    if status == 200:
                        durations[kind_of(path, body)].append(time.perf_counter() - began)  # noqa: B023
                        if not equal_json(expected[index][1], data):
                            different[path] += 1  # noqa: B023
                if status == 429:
                    time.sleep(1)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients - hostile)]
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # whose interpreter does not delay the clients
            attacking = pool.submit(attack, server.port, attackers, seconds)
            for thread in threads:
                thread.start()
            while time.monotonic() < end:
                time.sleep(min(5, seconds / 12))
                memory.append(server.megabytes())
            for thread in threads:
                thread.join()
            attacks = attacking.result()
        medians.append({kind: float(np.median(each)) for kind, each in durations.items()})
        # What is held at a moment depends on the requests under way, so minutes are compared, by their medians.
        minute = max(1, min(len(memory) // 3, round(len(memory) * 60 / seconds)))
        second_minute, last_minute = np.median(memory[minute : 2 * minute]), np.median(memory[-minute:])
        print(f"{clients - hostile} clients, {attackers} hostile, {seconds:.0f} s: {dict(sorted(statuses.items()))}")
        print(f"attacks and their statuses: {dict(sorted(attacks.items()))}")
        print("median seconds: " + ", ".join(f"{kind} {median:.2f}" for kind, median in sorted(medians[-1].items())))
        print(f"differing responses: {dict(different) or 'none'}")
        print(
            f"megabytes: {memory[0]:.0f} … in the second minute {second_minute:.0f} … in the last {last_minute:.0f}, "
            f"at most {max(memory):.0f}"
        )
        answered = {*statuses, *(status for _, status in attacks)}
        passed &= 500 not in answered and not different and server.process.poll() is None
        passed &= bool(last_minute <= 1.05 * second_minute)
    ratios = {kind: medians[1][kind] / median for kind, median in sorted(medians[0].items())}
    print("beside the hostile clients: " + ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in ratios.items()))
    return bool(passed and max(ratios.values()) <= 2)


def kind_of(path: str, body: dict[str, Any]) -> str:
    """Return what a request asks for: a median over all would lie between the quick kinds and the slow ones."""
    what = "" if path != "/v1/embeddings" else " of a picture" if isinstance(body["input"], list) else " of a sentence"
    return path.removeprefix("/v1/") + what


def attack(port: int, clients: int, seconds: float) -> Counter[tuple[str, int]]:
    """Attack a server by several clients; return the attacks and their statuses."""
    server = Client(port)
    end = time.monotonic() + seconds
    statuses: Counter[tuple[str, int]] = Counter()
    lock = threading.Lock()

    def attacker(seed: int) -> None:
        HERE.address = f"127.0.2.{seed + 1}"
        rng = random.Random(seed)
        while time.monotonic() < end:
            chosen = rng.choice(ATTACKS)
            try:
                status = chosen(server, rng)
            except OSError:
                status = 0
            with lock:
                statuses[chosen.__name__, status] += 1

    threads = [threading.Thread(target=attacker, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--hostile", type=float, default=0.0, help="share of the clients that attack the server")
    options = parser.parse_args()
    server = Server()
    try:
        requests = build_requests()
        if options.hostile:
            hostile = round(options.clients * options.hostile)
            raise SystemExit(0 if attacked(server, requests, options.clients, hostile, options.seconds) else 1)
        throughput(server, requests, options.clients)
        time_to_first_token(server, requests)
        passed = mixed(server, requests, options.clients, options.seconds)
    finally:
        server.process.terminate()
        server.process.wait(60)
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
