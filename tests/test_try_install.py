"""The script that tries an installation fails for each thing a user would notice; tried with a pretended package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "packaging" / "try_install.sh"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed"),
]

PYTHON = """#!/bin/bash
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$PRETENDED"/{uv,pipx} "$3/bin" ;;
    "-m pip") ;;
    *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
# Both installers: "install" makes an environment with a program and links it, "uninstall" removes them.
UV = """#!/bin/bash
echo "uv $*" >> "$PRETENDED/orders"
environment=$HOME/.local/share/uv/tools/beholder
case $2 in
    install) mkdir -p "$environment/bin" "$HOME/.local/bin"; touch "$HOME/.local/share/uv/tools/.lock"
        cp "$PRETENDED/beholder" "$environment/bin"; ln -s "$environment/bin/beholder" "$HOME/.local/bin/beholder"
        [ "$FAULT" != gpu ] || mkdir -p "$environment/lib/python3.11/site-packages/nvidia" ;;
    uninstall) [ "$FAULT" = program ] || rm -r "$environment" "$HOME/.local/bin/beholder"
        [ "$FAULT" != album ] || rm -r "$HOME/.local/share/beholder" ;;
esac
"""
PIPX = """#!/bin/bash
echo "pipx $*" >> "$PRETENDED/orders"
environment=$PIPX_HOME/venvs/beholder
case $1 in
    install) mkdir -p "$environment" "$HOME/.local/bin"; cp "$PRETENDED/beholder" "$HOME/.local/bin/beholder" ;;
    uninstall) rm "$HOME/.local/bin/beholder"; [ "$FAULT" = environment ] || rm -r "$environment" ;;
esac
"""
BEHOLDER = """#!/bin/bash
mkdir -p "${BEHOLDER_CACHE:-$HOME/.cache/beholder}"
[ "$FAULT" != "$1" ] || { echo "nothing works" >&2; exit 1; }
case $1 in
    classify) echo '{"labels": [{"label": "cat", "probability": 1}]}' ;;
    caption) echo '{"caption": "A cat."}' ;;
    index) mkdir -p "$HOME/.local/share/beholder/album"; touch "$HOME/.local/share/beholder/album/album.sqlite"
        [ "$FAULT" != file ] || touch "$HOME/.beholderrc" ;;
    search) echo "{\\"image\\": \\"$PHOTOGRAPH\\"}" ;;
    serve) exec "$REAL_PYTHON" "$PRETENDED/serve.py" ;;
esac
"""
SERVE = """import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<title>Beholder</title>")
    def log_message(self, *arguments):
        pass
signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(0))
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(f"at http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
"""


@pytest.fixture(name="pretended")
def _pretended(tmp_path: Path) -> Path:
    files = {"python": PYTHON, "uv": UV, "pipx": PIPX, "beholder": BEHOLDER, "serve.py": SERVE, "beholder.whl": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def try_install(pretended: Path, *words: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FAULT": fault,
        "PHOTOGRAPH": str(SCRIPT.parent.parent / "demo" / "photographs" / "cat.jpg"),
        "PRETENDED": str(pretended),
        "PYTHON": str(pretended / "python"),
        "REAL_PYTHON": sys.executable,
    }
    return subprocess.run(["bash", SCRIPT, *words], env=environment, cwd=pretended, capture_output=True, text=True)


@pytest.mark.parametrize("installer", ["uv", "pipx"])
def test_an_installation_that_works_passes(pretended: Path, installer: str) -> None:
    run = try_install(pretended, installer, "beholder.whl")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "served after" in run.stdout and "uninstalled; left: album" in run.stdout
    installed, uninstalled = (pretended / "orders").read_text().splitlines()
    assert installed.endswith(f"beholder[server] @ file://{pretended}/beholder.whl")
    assert "uninstall" in uninstalled and uninstalled.endswith("beholder")


@pytest.mark.parametrize(
    ("installer", "fault", "says"),
    [
        ("uv", "gpu", "this is a GPU build of PyTorch"),
        ("uv", "classify", "first answer: exit code 1"),
        ("uv", "search", "searched: exit code 1"),
        ("uv", "serve", "the server ended"),
        ("uv", "program", "beholder is still installed: "),
        ("uv", "file", "left behind: ./.beholderrc"),
        ("uv", "album", "the album is gone"),
        ("pipx", "environment", "the environment is left: "),
    ],
)
def test_a_fault_is_named(pretended: Path, installer: str, fault: str, says: str) -> None:
    run = try_install(pretended, installer, "beholder.whl", fault=fault)
    assert run.returncode == 1
    assert f"FAILED: {says}" in run.stderr


def test_options_reach_the_installers(pretended: Path) -> None:
    for name in ("wheels", "cache"):
        (pretended / name).mkdir()
    (pretended / "lock.txt").touch()
    options = ("--torch", "wheels", "--constraints", "lock.txt", "--cache", "cache")
    for installer in ("uv", "pipx"):
        run = try_install(pretended, *options, installer, "beholder.whl")
        assert run.returncode == 0, run.stdout + run.stderr
    by_uv, _, by_pipx, _ = (pretended / "orders").read_text().splitlines()
    assert f"--find-links {pretended}/wheels" in by_uv and f"--constraints {pretended}/lock.txt" in by_uv
    assert "--torch-backend" not in by_uv
    assert f"--pip-args=--find-links {pretended}/wheels --constraint {pretended}/lock.txt" in by_pipx


@pytest.mark.parametrize("words", [(), ("uv",), ("--unknown", "x", "uv", "beholder.whl")])
def test_a_wrong_call_is_refused(pretended: Path, words: tuple[str, ...]) -> None:
    run = try_install(pretended, *words)
    assert run.returncode == 2 and run.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    run = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
