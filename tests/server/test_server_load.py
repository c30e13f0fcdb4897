"""Concurrent requests, disconnecting clients, and more requests than the server has capacity for."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import serving
from beholder import DualEncoder, VisionLanguageModel
from beholder.server.run import create_server
from beholder.server.service import LoadedModels, Service
from beholder.server.settings import ServerSettings
from serving import Answer, Running, data_address, picture


def chat(seed: int, tokens: int = 10) -> dict[str, Any]:
    url = {"type": "image_url", "image_url": {"url": data_address(picture(seed))}}
    content = [url, {"type": "text", "text": "what is this ?"}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": tokens}


def metric_value(running: Running, name: str) -> float:
    lines = running.ask("GET", "/metrics").data.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.slow
def test_concurrent_responses_equal_those_of_lone_requests(server: Running) -> None:
    requests: list[tuple[str, dict[str, Any]]] = []
    for seed in range(24):
        image = data_address(picture(seed))
        requests += [
            ("/v1/embeddings", {"model": "tiny", "input": [image]}),
            ("/v1/embeddings", {"model": "tiny", "input": "a dog by the sea"[: 5 + seed % 10]}),
            ("/v1/caption", {"image": image, "max_new_tokens": 6}),
            ("/v1/chat/completions", chat(seed)),
            ("/v1/caption", {"image": "rubbish"}),
        ]
    alone = [server.post(*request) for request in requests]
    before = metric_value(server, 'beholder_batch_inputs_count{work="captions"}')
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda request: server.post(*request), requests))
    assert metric_value(server, 'beholder_batch_inputs_count{work="captions"}') - before < 24  # some were batched
    for one, many in zip(alone, together, strict=True):
        assert one.status == many.status != 500
        if "data" in one.json:
            vectors = [[row["embedding"] for row in each.json["data"]] for each in (one, many)]
            np.testing.assert_allclose(*vectors, atol=1e-5)
        elif "choices" in one.json:
            assert one.json["choices"] == many.json["choices"] and one.json["usage"] == many.json["usage"]
        else:
            assert one.json == many.json


def slow_down_decoding(
    vision_language_model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, wait: Callable[[int], object]
) -> list[int]:
    """Call ``wait`` with the number of the token before each is decoded; return the list of tokens begun."""
    begun: list[int] = []
    decode = vision_language_model.language.decode

    def slow_decode(*arguments: Any, **options: Any) -> Any:
        begun.append(len(begun))
        wait(begun[-1])
        return decode(*arguments, **options)

    monkeypatch.setattr(vision_language_model.language, "decode", slow_decode)
    return begun


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.005)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/caption"])
def test_a_client_disconnect_cancels_its_work(
    vision_language_model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    disconnected = threading.Event()
    begun = slow_down_decoding(vision_language_model, monkeypatch, lambda token: token < 2 or disconnected.wait(60))
    # generation would continue up to max_tokens
    monkeypatch.setattr(type(vision_language_model.language), "eos_token_ids", (99,))
    body = chat(1, 30) if "chat" in path else {"image": data_address(picture()), "max_new_tokens": 40, "num_beams": 1}
    with serving.running(vision_language_models={"tiny": vision_language_model}) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        wait_until(lambda: len(begun) == 3)
        connection.close()
        wait_until(lambda: metric_value(running, "beholder_clients_left_total") == 1)
        disconnected.set()
        wait_until(lambda: running.service.pending() == 0)
        time.sleep(0.1)  # what was not cancelled would go on
        assert 3 <= len(begun) < 6


def test_requests_beyond_capacity_are_told_to_retry(
    vision_language_model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()
    slow_down_decoding(vision_language_model, monkeypatch, lambda _: seen.wait(60))
    with (
        serving.running(vision_language_models={"tiny": vision_language_model}, requests=4) as running,
        ThreadPoolExecutor(16) as pool,
    ):
        responses = [pool.submit(running.post, "/v1/chat/completions", chat(seed)) for seed in range(16)]
        wait_until(lambda: running.server.config.app.active_requests == 4)  # type: ignore[union-attr]
        assert running.ask("GET", "/readyz").status == 200  # a busy server is still ready
        wait_until(lambda: sum(each.done() for each in responses) == 12)
        seen.set()
        answers: list[Answer] = [each.result() for each in responses]
        refused = [answer for answer in answers if answer.status == 429]
        assert {answer.status for answer in answers} == {200, 429}
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert refused[0].json["error"]["type"] == "rate_limit_error"
        assert running.post("/v1/chat/completions", chat(0)).status == 200  # afterwards there is capacity again


def test_request_bodies_share_a_memory_budget(encoder: DualEncoder) -> None:
    with serving.running({"tiny": encoder}, waiting_megabytes=1.5) as running:
        connections = []
        for _ in range(2):  # each announces a body of one megabyte, and waits
            connection = socket.create_connection(("127.0.0.1", running.port), timeout=60)
            connection.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
            connections.append(connection)
            wait_until(lambda: running.server.config.app.reserved_bytes > 0)  # type: ignore[union-attr]
        assert b" 429 " in connections[1].recv(4096)
        for connection in connections:
            connection.close()
        assert running.ask("GET", "/healthz").status == 200
        wait_until(lambda: running.server.config.app.reserved_bytes == 0)  # type: ignore[union-attr]


def test_a_slowly_sent_body_is_cut_off(encoder: DualEncoder) -> None:
    with (
        serving.running({"tiny": encoder}, body_seconds=0.3) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection,
    ):
        connection.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_over_the_time_limit_is_aborted(
    vision_language_model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    slow_down_decoding(vision_language_model, monkeypatch, lambda _: time.sleep(0.1))
    monkeypatch.setattr(type(vision_language_model.language), "eos_token_ids", (99,))
    with serving.running(vision_language_models={"tiny": vision_language_model}, seconds=0.6) as running:
        if stream:
            with pytest.raises(http.client.IncompleteRead):  # so that it is not mistaken for a complete response
                running.post("/v1/chat/completions", chat(0, 20) | {"stream": True})
        else:
            answer = running.post("/v1/chat/completions", chat(0, 20))
            assert answer.status == 504 and answer.code == "timeout"
        wait_until(lambda: running.service.pending() == 0)


def test_an_internal_error_is_reported_without_its_message(
    encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the secret inside")

    with serving.running({"tiny": encoder}) as running:
        monkeypatch.setattr(encoder, "embed_texts", fail)
        answer = running.post("/v1/embeddings", {"model": "tiny", "input": "a dog"})
        assert answer.status == 500 and answer.json["error"]["type"] == "server_error"
        assert b"secret" not in answer.data
        monkeypatch.undo()
        assert running.post("/v1/embeddings", {"model": "tiny", "input": "a dog"}).status == 200


def test_requests_are_refused_until_the_models_are_loaded(encoder: DualEncoder) -> None:
    may = threading.Event()

    def load() -> Any:
        may.wait(60)
        return LoadedModels({"tiny": encoder})

    service = Service(ServerSettings(port=0), load)
    server = create_server(service)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    running = Running(server.servers[0].sockets[0].getsockname()[1], service, server)
    assert running.ask("GET", "/healthz").status == 200
    assert running.ask("GET", "/").status == 200
    for path in ("/readyz", "/v1/models"):
        answer = running.ask("GET", path)
        assert answer.status == 503 and answer.code == "not_ready" and "retry-after" in answer.headers
    may.set()
    while not service.ready:
        time.sleep(0.01)
    assert running.ask("GET", "/readyz").status == 200
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def test_unfinished_work_at_shutdown_ends_with_a_reason(
    vision_language_model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down_decoding(vision_language_model, monkeypatch, lambda _: time.sleep(0.05))
    monkeypatch.setattr(type(vision_language_model.language), "eos_token_ids", (99,))
    with (
        serving.running(vision_language_models={"tiny": vision_language_model}, stop_seconds=0.3) as running,
        ThreadPoolExecutor(24) as pool,
    ):
        bodies = [chat(seed, 30) | {"stream": seed % 2 == 0} for seed in range(24)]
        responses = [pool.submit(running.post, "/v1/chat/completions", body) for body in bodies]
        while running.service.pending() < 24:
            time.sleep(0.001)
        running.server.should_exit = True
        answers = [each.result() for each in responses]
    assert {answer.status for answer in answers} <= {200, 503}
    refused = [answer for answer in answers if answer.status == 503]
    assert refused and all(answer.code == "stopping" and "retry-after" in answer.headers for answer in refused)
    begun = [answer.data for answer in answers if answer.status == 200]
    assert all(b"[DONE]" in data or b'"code": "stopping"' in data or b'"finish_reason"' in data for data in begun)


def test_the_server_is_unready_before_the_socket_closes(encoder: DualEncoder) -> None:
    with serving.running({"tiny": encoder}, drain_seconds=1.0) as running:
        running.server.handle_exit(15, None)
        answer = running.ask("GET", "/readyz")
        assert answer.status == 503 and answer.code == "stopping"
        assert running.post("/v1/embeddings", {"model": "tiny", "input": "a dog"}).status == 200
        deadline = time.monotonic() + 60
        while not running.server.should_exit and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running.server.should_exit


def test_an_idle_connection_is_closed(encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beholder.server.run.IDLE_SECONDS", 0.2)
    with (
        serving.running({"tiny": encoder}) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection,
    ):
        connection.sendall(b"GET /healthz HT")
        assert connection.recv(100) == b""
        assert running.ask("GET", "/healthz").status == 200


def test_label_embeddings_are_cached(encoder: DualEncoder) -> None:
    with serving.running({"tiny": encoder}) as running:
        body = {"image": data_address(picture()), "labels": ["a dog", "a cat"], "template": ["a {}", "the {}"]}
        first = running.post("/v1/classify", body).json
        before = metric_value(running, 'beholder_batch_inputs_count{work="embed texts"}')
        assert running.post("/v1/classify", body).json == first
        assert metric_value(running, 'beholder_batch_inputs_count{work="embed texts"}') == before
        assert running.post("/v1/classify", body | {"template": "one {}"}).json != first
        assert metric_value(running, 'beholder_batch_inputs_count{work="embed texts"}') > before


def test_slow_urls_do_not_block_other_requests(encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    may = threading.Event()

    def never(*_: Any, **__: Any) -> bytes:
        may.wait(60)
        raise TimeoutError

    monkeypatch.setattr("beholder.server.picture_loading.fetch", never)
    with serving.running({"tiny": encoder}, allow_urls=True) as running, ThreadPoolExecutor(24) as pool:
        body = {"images": ["http://93.184.216.34/1"], "texts": ["a"]}
        slow = [pool.submit(running.post, "/v1/similarity", body) for _ in range(24)]
        while running.server.config.app.active_requests < 24:  # type: ignore[union-attr]
            time.sleep(0.001)
        assert running.post("/v1/embeddings", {"model": "tiny", "input": [data_address(picture())]}).status == 200
        assert not any(each.done() for each in slow)
        may.set()
        assert {each.result().status for each in slow} == {504}
