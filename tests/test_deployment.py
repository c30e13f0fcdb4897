"""The systemd unit, desktop file, Dockerfile and Compose file call what exists, and their tools accept them."""

import configparser
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from dockerfile_parse import DockerfileParser

from beholder.cli.main import app

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "packaging" / "beholder.service"
DESKTOP = ROOT / "packaging" / "beholder.desktop"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ARGUMENTS = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.M))


def read_ini(file: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(file, "utf-8")
    return parsed


def parse_serve(words: list[str]) -> dict[str, Any]:
    """Parse a call of ``beholder serve`` as the command line does; a wrong option raises."""
    assert words[0] == "serve"
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return serve.make_context("serve", list(words[1:])).params


def test_the_unit_calls_an_existing_command_with_few_privileges() -> None:
    service = read_ini(UNIT)["Service"]
    program, *words = service["ExecStart"].split()
    assert program == "/opt/beholder/bin/beholder"
    called = parse_serve(words)
    assert (called["host"], called["key_file"]) == ("127.0.0.1", Path("%d/key"))
    assert service["LoadCredential"].startswith("key:/")
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert {"%C/beholder", "%S/beholder/album"} <= {
        pair.partition("=")[2] for pair in service["Environment"].split()
    }, "what it writes lies in the folders that systemd makes for it"
    assert service["CacheDirectory"] == service["StateDirectory"] == "beholder"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/beholder/bin/beholder", "/bin/true"), "utf-8")
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit], capture_output=True, text=True
    )
    assert rated.returncode == 0, rated.stdout[-300:]


def test_the_desktop_file_starts_the_server_and_opens_the_page() -> None:
    entry = read_ini(DESKTOP)["Desktop Entry"]
    program, *words = entry["Exec"].split()
    assert program == "beholder"
    assert parse_serve(words)["open_page"]
    assert entry["Type"] == "Application"
    assert entry["Name[zh_CN]" if "Name[zh_CN]" in entry else "Name"] == "Beholder"


@pytest.mark.skipif(shutil.which("desktop-file-validate") is None, reason="desktop-file-utils is not installed")
def test_desktop_file_validate_accepts_the_desktop_file() -> None:
    run = subprocess.run(["desktop-file-validate", DESKTOP], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_image_is_built_from_existing_files_and_extras() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M) for source in line.split()[:-1]
    ]
    assert {"pyproject.toml", "src"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(kept.startswith(f"!{source}") for kept in ignored), source
    assert set(ARGUMENTS["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^TORCH := {re.escape(ARGUMENTS['TORCH'])}$", makefile, re.M)
    assert re.search(rf"^UV := {re.escape(ARGUMENTS['UV'])}$", makefile, re.M)


def test_the_image_runs_as_an_ordinary_user_and_checks_its_health() -> None:
    run_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", run_stage, re.M)
    assert run_stage.index("\nUSER ") < run_stage.index("\nENTRYPOINT ")
    command = re.search(r"^CMD (\[.*\])$", run_stage, re.M)
    assert command is not None
    called = parse_serve(yaml.safe_load(command[1]))
    assert (called["host"], called["key_file"]) == ("0.0.0.0", Path("/run/secrets/beholder_key"))
    assert f"EXPOSE {called['port']}\n" in run_stage
    assert f"http://127.0.0.1:{called['port']}/readyz" in run_stage
    assert "/readyz" in {route.path for route in health_routes()}
    volumes = yaml.safe_load(re.search(r"^VOLUME (\[.*\])$", run_stage, re.M)[1])  # type: ignore[index]
    assert "BEHOLDER_ALBUM=/album" in run_stage and "BEHOLDER_CACHE=/cache" in run_stage
    assert volumes == ["/album", "/cache"]


class KeyedHandler(http.server.BaseHTTPRequestHandler):
    """Answers 200 to the key of this test alone."""

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization")
        self.send_response(200 if (self.path, sent) == ("/readyz", "Bearer 12345678-key") else 401)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(("keys", "code"), [("# mine\n12345678-key\n", 0), ("12345678-other\n", 1)])
def test_the_health_check_of_the_image_sends_the_key(tmp_path: Path, keys: str, code: int) -> None:
    (health,) = (
        one["value"]
        for one in DockerfileParser(fileobj=(ROOT / "Dockerfile").open("rb")).structure
        if one["instruction"] == "HEALTHCHECK"
    )
    program, *arguments, script = json.loads(health.partition(" CMD ")[2])
    assert program == "python"
    secret = tmp_path / "beholder_key"
    secret.write_text(keys, "utf-8")
    server = http.server.HTTPServer(("127.0.0.1", 0), KeyedHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        script = script.replace("/run/secrets/beholder_key", str(secret)).replace("8000", str(server.server_port))
        run = subprocess.run([sys.executable, *arguments, script], capture_output=True, text=True)
    finally:
        server.shutdown()
        server.server_close()
    assert min(run.returncode, 1) == code, run.stderr


def health_routes() -> list[Any]:
    pytest.importorskip("fastapi")
    from beholder.server.health import router

    return router.routes


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_service_of_compose_is_read_only_and_has_its_key_from_a_secret(name: str) -> None:
    service = COMPOSE["services"][name]
    called = parse_serve(service["command"])
    assert called["key_file"] == Path("/run/secrets/beholder_key") and called["key"] is None
    assert service["secrets"] == ["beholder_key"] and "file" in COMPOSE["secrets"]["beholder_key"]
    assert service["ports"] == [f"127.0.0.1:{called['port']}:{called['port']}"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["tmpfs"] == ["/tmp"]
    mounted = {volume.split(":")[-2 if volume.endswith(":ro") else -1]: volume for volume in service["volumes"]}
    assert {"/album", "/cache"} <= mounted.keys()
    assert called["album"] == [Path("/album")]
    assert COMPOSE["volumes"].keys() == {"album", "cache"}
    assert service["profiles"] == [name]
    assert service["build"]["args"].keys() <= ARGUMENTS.keys()


def test_the_services_of_compose_differ_in_the_build_of_torch() -> None:
    cpu, cuda = (COMPOSE["services"][name] for name in ("cpu", "cuda"))
    assert cpu["build"]["args"]["TORCH_BACKEND"] == "cpu" and "deploy" not in cpu
    assert re.fullmatch(r"cu\d+", cuda["build"]["args"]["TORCH_BACKEND"])
    (device,) = cuda["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
