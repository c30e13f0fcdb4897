"""Load test of ``beholder serve``: does every response equal that of a lone request, and what does concurrency cost?

    python benchmarks/serving.py                          # 64 clients for five minutes, with mini
    python benchmarks/serving.py --clients 8 --seconds 30

Three parts. Embeddings, sequentially and concurrently: the ratio of the throughputs. A single conversation: seconds to
its first token. Then clients that mix embeddings, captions and conversations about pictures, a tenth of which
disconnect early and a tenth of which send invalid requests: status codes, responses that differ from those of a lone
request, and the server's memory. The clients run on the same cores as the server.
"""

import argparse
import base64
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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


class Server:
    """``beholder serve`` in its own process."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from beholder.cli.main import run; run()", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.port = 0
        threading.Thread(target=self._read, daemon=True).start()
        while not self.port or self.ask("GET", "/readyz")[0] != 200:
            if self.process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.2)

    def _read(self) -> None:
        for line in self.process.stderr or ():
            if line.startswith('{"time"') and "listening" in line:
                self.port = int(json.loads(line)["address"].rsplit(":", 1)[1].strip("/"))

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def send_and_disconnect(self, path: str, body: Any, seconds: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        time.sleep(seconds)
        connection.close()

    def megabytes(self) -> float:
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith("process_resident_memory_bytes"):
                return float(line.split()[1]) / 1e6
        return 0.0


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
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    server = Server()
    try:
        requests = build_requests()
        throughput(server, requests, options.clients)
        time_to_first_token(server, requests)
        passed = mixed(server, requests, options.clients, options.seconds)
    finally:
        server.process.terminate()
        server.process.wait(60)
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
