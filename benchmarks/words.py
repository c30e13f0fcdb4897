"""Words per second of ``beholder serve`` for streaming conversations: one at a time, and many decoded together.

    python benchmarks/words.py
    python benchmarks/words.py --clients 16
    pip install xllamacpp && python benchmarks/words.py --llama-cpp

Each conversation asks one question about a photograph, and its answer is streamed; words are the tokens of the answers.
The same conversations run one after the other and all at once, in turn for several rounds; every answer must be equal.
Then new conversations begin while 16 others are under way: seconds to their first word. ``--llama-cpp`` adds
llama.cpp's server with the same language model and as many slots, for texts of the same lengths without a picture. The
clients run on the same cores as the server.
"""

import argparse
import http.client
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from serving import PHOTOGRAPHS, Server, data_url

QUESTIONS = [
    "What is in the picture, and what is happening?",
    "Describe the picture for somebody who can't see it.",
    "Where was this taken, and how can you tell?",
    "Tell a short story about this picture.",
]
UNDER_WAY = 16


def conversation(number: int, max_tokens: int) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": data_url(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])}},
        {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]},
    ]
    return {
        "model": "mini",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 2.0,  # mini's own answers have two or three words; the seed makes these repeatable
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def stream(server: Server, body: dict[str, Any]) -> tuple[str, int, float]:
    """Return an answer, its number of tokens, and the seconds to its first word."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    text, tokens, first = "", 0, 0.0
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {response.read().decode()}")
        while line := response.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(f"error: {event['error']}")
            for choice in event["choices"]:
                text += choice["delta"].get("content", "")
                first = first or (time.perf_counter() - start if text else 0.0)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    finally:
        connection.close()
    return text, tokens, first


def timed(
    ask: Callable[[dict[str, Any]], tuple[str, int, float]], bodies: list[dict[str, Any]], clients: int
) -> tuple[list[str], list[int], float]:
    """Return the answers, their numbers of tokens, and the tokens per second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, bodies))
    texts, lengths, _ = (list(each) for each in zip(*answers, strict=True))
    return texts, lengths, sum(lengths) / (time.perf_counter() - start)


def first_words(server: Server, max_tokens: int, newcomers: int) -> list[float]:
    """Return the seconds to the first word of conversations that begin while others are under way."""
    stop = threading.Event()

    def keep_talking(number: int) -> None:
        while not stop.is_set():
            stream(server, conversation(number, max_tokens))

    threads = [threading.Thread(target=keep_talking, args=(number,)) for number in range(UNDER_WAY)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    seconds = []
    for number in range(newcomers):
        seconds.append(stream(server, conversation(100 + number, max_tokens))[2])
    stop.set()
    for thread in threads:
        thread.join()
    return seconds


def llama_cpp(slots: int, lengths: list[int]) -> dict[int, float]:
    """Return llama.cpp's tokens per second with one and with all slots, for texts of given lengths."""
    import xllamacpp

    from beholder.weights import mini_bridge
    from beholder.weights.mini import fetch

    rates = {}
    for count in (1, slots):
        settings = xllamacpp.CommonParams()
        settings.model.path = str(fetch(mini_bridge.LANGUAGE_MODEL) / mini_bridge.GGUF)
        settings.n_parallel, settings.n_ctx = count, 256 * count
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count() or 1
        server = xllamacpp.Server(settings)

        def ask(length: int, server: Any = server) -> int:
            body = {"prompt": QUESTIONS[length % len(QUESTIONS)], "n_predict": length, "ignore_eos": True}
            server.handle_completions({**body, "cache_prompt": False})
            return length

        start = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            total = sum(pool.map(ask, lengths))
        rates[count] = total / (time.perf_counter() - start)
        del server
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--llama-cpp", action="store_true")
    options = parser.parse_args()
    print(f"load of the machine before the start: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    bodies = [conversation(number, options.max_tokens) for number in range(options.clients)]
    server = Server()
    different = 0
    try:
        stream(server, bodies[0])  # warms everything up
        lengths: list[int] = []
        rates: dict[int, list[float]] = {1: [], options.clients: []}
        for _ in range(options.rounds):
            texts = {}
            for clients, found in rates.items():
                texts[clients], lengths, rate = timed(lambda body: stream(server, body), bodies, clients)
                found.append(rate)
            different += sum(one != other for one, other in zip(*texts.values(), strict=True))
        first = first_words(server, options.max_tokens, 5)
        megabytes = server.megabytes()
    finally:
        server.process.terminate()
        server.process.wait(60)
    ratios = [together / alone for alone, together in zip(rates[1], rates[options.clients], strict=True)]
    print(f"\n{len(bodies)} conversations, {sum(lengths)} tokens\n")
    print("| words a second | one at a time | together | ratio (least to greatest) |")
    print("|---|---:|---:|---:|")
    alone, together = (float(np.median(each)) for each in rates.values())
    print(
        f"| `beholder serve`, `mini`, {options.clients} conversations about photographs "
        f"| {alone:.0f} | {together:.0f} | {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )
    if options.llama_cpp:
        theirs = llama_cpp(options.clients, lengths)
        one, many = theirs[1], theirs[options.clients]
        print(
            f"| llama.cpp's server, the same language model, text alone | {one:.0f} | {many:.0f} | {many / one:.2f} |"
        )
    print(f"\nfirst word of a new conversation while {UNDER_WAY} are under way: ", end="")
    print(f"{np.median(first):.2f} s (at most {max(first):.2f} s)")
    print(f"answers that differ from those of a lone request: {different} of {options.rounds * len(bodies)}")
    print(f"the server then holds {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
