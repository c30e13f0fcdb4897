"""``beholder serve`` as a subprocess: what it refuses, what it logs, and how it stops."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from beholder.errors import InvalidSetting
from beholder.server.settings import ServerSettings
from serving import data_address, picture
from tiny_blip2 import make

RUN = [sys.executable, "-c", "from beholder.cli.main import run; run()", "serve"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private") / "my-writer"
    folder.mkdir()
    make("opt", folder)
    return folder


@contextmanager
def served(*options: str | Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the server; yield the process and its port once the models are loaded."""
    order = [*RUN, "--port", "0", *map(str, options)]
    process = subprocess.Popen(order, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        while line["event"] != "listening":
            line = json.loads(process.stderr.readline())
        port = int(line["address"].rsplit(":", 1)[1].strip("/"))
        for _ in range(600):
            if ask(port, "GET", "/readyz")[0] != 503:
                break
            process.poll()
            if process.returncode is not None:
                break
        yield process, port
    finally:
        process.kill()
        process.communicate()


def ask(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json", **headers}
    )
    answer = connection.getresponse()
    if answer.status == 503:
        time.sleep(0.1)
    return answer.status, answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_waits_for_running_responses(tiny_model: Path, folder: Path, number: signal.Signals) -> None:
    with served("--model", tiny_model, "--model", folder) as (process, port):
        status, listed = ask(port, "GET", "/v1/models")
        assert status == 200
        assert [each["id"] for each in json.loads(listed)["data"]] == ["tiny", "my-writer"]
        assert str(folder.parent).encode() not in listed
        url = {"type": "image_url", "image_url": {"url": data_address(picture())}}
        content = [url, {"type": "text", "text": "what is this ?"}]
        body = {"model": "my-writer", "messages": [{"role": "user", "content": content}], "max_tokens": 40}
        _, whole = ask(port, "POST", "/v1/chat/completions", body)
        long = {"model": "tiny", "input": "a secret of mine " * 20}
        assert ask(port, "POST", "/v1/embeddings", long)[0] == 400
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        data = json.dumps(body | {"stream": True})
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        process.send_signal(number)
        streamed = answer.read().decode()
        pieces = [json.loads(line[6:]) for line in streamed.split("\n\n") if line.startswith("data: {")]
        text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
        assert text.strip() == json.loads(whole)["choices"][0]["message"]["content"]
        assert streamed.endswith("data: [DONE]\n\n")
        out, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
        assert out == "" and "Traceback" not in log
        rows = [json.loads(line) for line in log.splitlines()]
        assert rows[-1]["event"] == "stopped"
        routes = {row["route"] for row in rows if row["event"] == "request"}
        assert routes == {"/v1/models", "/v1/embeddings", "/v1/chat/completions"}
        assert "what is this" not in log and "secret" not in log and "base64" not in log


def refused(*options: str | Path, **environment: str) -> str:
    run = subprocess.run(
        [*RUN, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr and run.stdout == ""
    return run.stderr


@pytest.mark.slow
def test_an_invalid_command_line_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    assert "needs a key" in refused("--host", "0.0.0.0")
    assert "cannot be read" in refused("--key-file", tmp_path / "nothing")
    assert "no such folder" in refused("--port", "0", "--model", tmp_path / "nothing")
    assert "no such folder" in refused("--port", "0", "--model", tiny_model, "--generator", tmp_path / "nothing")
    assert "and there is none" in refused("--port", "0", "--reranker", tiny_model)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"can't listen on 127.0.0.1, port {port}" in refused("--port", str(port), "--model", tiny_model)


@pytest.mark.parametrize("name", ["", "*", "http://a.example", "a.example:80", "a b", ".", "*.example"])
def test_an_invalid_host_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match="--allow-host"):
        ServerSettings(allowed_hosts=(name,))


@pytest.mark.slow
def test_an_empty_key_is_refused(tiny_model: Path) -> None:
    assert "key is empty" in refused("--key", "", "--model", tiny_model)
    assert "key is empty" in refused("--model", tiny_model, BEHOLDER_KEY="")


@pytest.mark.slow
def test_a_key_from_a_file_is_required_and_never_logged(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text("a long secret key\n")
    with served("--host", "0.0.0.0", "--key-file", file, "--model", tiny_model) as (process, port):
        assert ask(port, "GET", "/healthz")[0] == 401
        assert ask(port, "GET", "/healthz", Authorization="Bearer a long secret key")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert "secret" not in process.communicate(timeout=300)[1]
    assert "secret" not in repr(ServerSettings(key="a long secret key"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_loopback_needs_no_key(host: str) -> None:
    assert ServerSettings(host=host).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "pictures.example", ""])
def test_any_other_address_needs_a_key(host: str) -> None:
    with pytest.raises(InvalidSetting, match="needs a key"):
        ServerSettings(host=host)
    assert not ServerSettings(host=host, key="12345678").loopback
    with pytest.raises(InvalidSetting, match="at least 8 characters"):
        ServerSettings(host=host, key="short")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_rereads_the_keys_and_reopens_the_log(tmp_path: Path, tiny_model: Path) -> None:
    file, log = tmp_path / "keys", tmp_path / "log"
    file.write_text("the first key\n")
    file.chmod(0o644)

    def events() -> list[dict[str, object]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    def wait_for(event: str) -> dict[str, object]:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            found = [row for row in events() if row["event"] == event] if log.exists() else []
            if found:
                return found[-1]
            time.sleep(0.02)
        raise TimeoutError(event)

    order = [*RUN, "--port", "0", "--key-file", str(file), "--log-file", str(log), "--model", str(tiny_model)]
    process = subprocess.Popen(order, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = int(str(wait_for("listening")["address"]).rsplit(":", 1)[1].strip("/"))
        wait_for("ready")
        assert wait_for("key_file_is_readable_by_other_users")["level"] == "warning"
        assert ask(port, "GET", "/v1/models", Authorization="Bearer the first key")[0] == 200
        wait_for("request")  # before the log is renamed
        file.write_text("name=one key=the-second-key\nname=two key=the-third-key\n")
        log.rename(tmp_path / "log.1")
        process.send_signal(signal.SIGHUP)
        assert wait_for("reloaded")["keys"] == 2
        assert ask(port, "GET", "/v1/models", Authorization="Bearer the first key")[0] == 401
        assert ask(port, "GET", "/v1/models", Authorization="Bearer the-second-key")[0] == 200
        file.write_text("short\n")
        process.send_signal(signal.SIGHUP)
        assert wait_for("keys_not_reloaded")["level"] == "error"
        assert ask(port, "GET", "/v1/models", Authorization="Bearer the-third-key")[0] == 200
        deadline = time.monotonic() + 60  # a request is logged after its response
        while not any(row.get("key") == "two" for row in events()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert {row.get("key") for row in events() if row["event"] == "request"} == {None, "one", "two"}
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and out == err == ""
        assert events()[-1]["event"] == "stopped"
        assert "the-third" not in log.read_text() and "first key" not in (tmp_path / "log.1").read_text()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_open_opens_the_page_in_the_browser(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tmp_path / "opened"
    os.mkfifo(opened)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{opened}"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    with served("--model", tiny_model, "--open") as (_, port):
        assert opened.read_text() == f"http://127.0.0.1:{port}/"
