"""Run the Dockerfile's steps without Docker, in roots of bare Debian, and start the server as a container would.

python packaging/try_dockerfile.py

For machines without a Docker daemon or a registry; needs root and debootstrap. In place of the image python:3.11-slim
stands a Debian 12 with its Python 3.11. The server runs as the image's user, with its root read-only, and is asked by
the image's own health check.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import WordSplitter

from debian_root import TRUST, make_root, order_in, require_root, run_in, torch_index

PROJECT = Path(__file__).parent.parent
BASES = {"python:3.11-slim-bookworm": ("bookworm", ["python3", "python3-pip", "python3-venv"])}

KEY = "a-key-of-this-trial"


@dataclass
class Stage:
    """A stage of a Dockerfile while it is built: its root, and what its instructions have set."""

    root: Path
    arguments: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


class UnknownInstruction(Exception):
    """The Dockerfile has an instruction, or a form of one, that this program does not know."""


def parse_pairs(value: str, known: dict[str, str]) -> dict[str, str]:
    """Return the pairs of ENV or ARG, with variables replaced."""
    words = WordSplitter(value, envs=known).split(dequote=True)
    return {name: text for name, _, text in (word.partition("=") for word in words)}


def parse_exec(value: str) -> list[str]:
    """Return the words of an instruction in exec form.

    Raises:
        UnknownInstruction: it is in shell form.
    """
    try:
        return list(json.loads(value))
    except ValueError:
        raise UnknownInstruction(f"not in exec form: {value}") from None


def copy_into(stage: Stage, value: str, context: Path, stages: dict[str, Stage]) -> None:
    """Carry out COPY."""
    words = value.split()
    source_root = context
    if words[0].startswith("--from="):
        source_root = stages[words.pop(0).removeprefix("--from=")].root
    if any(word.startswith("--") for word in words):
        raise UnknownInstruction(f"COPY {value}")
    *sources, target = words
    place = stage.root / Path(stage.folder, target).as_posix().lstrip("/")
    for name in sources:
        source = source_root / name.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True)
        elif target.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        else:
            shutil.copy(source, place)


def build(file: Path, context: Path, make_base: Callable[[str], Path], variables: dict[str, str]) -> Stage:
    """Carry out a Dockerfile's instructions, and return its last stage.

    Args:
        file: the Dockerfile.
        context: what COPY copies from.
        make_base: called with the name of an image, returns a fresh root for it.
        variables: environment of RUN alone, such as certificates of this machine.

    Raises:
        UnknownInstruction: an instruction is not known.
        subprocess.CalledProcessError: a RUN failed.
    """
    parser = DockerfileParser(fileobj=file.open("rb"), env_replace=False)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for one in parser.structure:
        name, value = one["instruction"], one["value"]
        if name == "COMMENT":
            continue
        if name == "FROM":
            image, *alias = value.split()
            stage = Stage(make_base(image))
            stages[alias[1] if alias else str(len(stages))] = stage
            continue
        if stage is None:
            raise UnknownInstruction(f"{name} before FROM")
        known = {**stage.arguments, **stage.environment}
        match name:
            case "ARG":
                stage.arguments |= parse_pairs(value, known)
            case "ENV":
                stage.environment |= parse_pairs(value, {"PATH": "/usr/local/bin:/usr/bin:/bin", **known})
            case "WORKDIR":
                stage.folder = value
                (stage.root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                copy_into(stage, value, context, stages)
            case "RUN":
                print(f"RUN {value}", flush=True)
                environment = {**variables, **stage.arguments, **stage.environment}
                run_in(stage.root, ["sh", "-c", value], check=True, environment=environment, folder=stage.folder)
            case "USER":
                stage.user = value
            case "VOLUME":
                stage.volumes = parse_exec(value)
            case "ENTRYPOINT":
                stage.entrypoint = parse_exec(value)
            case "CMD":
                stage.command = parse_exec(value)
            case "HEALTHCHECK":
                stage.health = parse_exec(value.partition(" CMD ")[2])
            case "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                raise UnknownInstruction(f"{name} {value}")
    if stage is None:
        raise UnknownInstruction("no FROM")
    return stage


def start(stage: Stage, variables: dict[str, str], key: str) -> list[str]:
    """Return the command line that runs a stage as its container would: its root read-only, the key as a secret."""
    secrets = stage.root / "run" / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    (secrets / "beholder_key").write_text(key, "utf-8")
    command = [*stage.entrypoint, *stage.command]
    environment = {**variables, **stage.environment}
    writable = ["/tmp", *stage.volumes]
    return order_in(stage.root, command, user=stage.user, environment=environment, writable=writable)


def wait_healthy(stage: Stage, server: subprocess.Popen[bytes], limit: float = 1800) -> None:
    """Ask the image's health check until it is content."""
    asked = time.monotonic()
    while run_in(stage.root, stage.health, environment=stage.environment, stderr=subprocess.DEVNULL).returncode:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        if time.monotonic() - asked > limit:
            raise SystemExit("the server did not become healthy")
        time.sleep(2)
    print(f"healthy after {time.monotonic() - asked:.0f} s, with mini's download", flush=True)


def ask(stage: Stage, key: str) -> None:
    """Ask the server about a picture, without the key and with it; and try to write where a container can't.

    Raises:
        SystemExit: an answer is not what it should be.
    """
    picture = base64.b64encode((PROJECT / "demo/photographs/cat.jpg").read_bytes()).decode()
    body = json.dumps({"image": f"data:image/jpeg;base64,{picture}", "labels": ["cat", "dog"]}).encode()
    for header, status in (({}, 401), ({"Authorization": f"Bearer {key}"}, 200)):
        headers = {"Content-Type": "application/json", **header}
        request = urllib.request.Request("http://127.0.0.1:8000/v1/classify", body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                got, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            got, text = error.code, ""
        print(f"classify: {got} {text}", flush=True)
        if got != status:
            raise SystemExit(f"expected {status}")
    for name in ("/opt/beholder/x", "/etc/x", "/x"):
        if not run_in(
            stage.root, ["touch", name], user=stage.user, writable=["/tmp"], stderr=subprocess.DEVNULL
        ).returncode:
            raise SystemExit(f"{name} could be written")


def main() -> int:
    """Build, start, ask, and stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", type=Path, help="folder with PyTorch's wheel, where its index can't be reached")
    arguments = parser.parse_args()
    require_root()
    scratch = Path(tempfile.mkdtemp(prefix="dockerfile-", dir="/var/tmp"))
    bases: dict[str, Path] = {}
    with contextlib.ExitStack() as indices:

        def make_base(image: str) -> Path:
            if image not in BASES:
                raise UnknownInstruction(f"no stand-in for the image {image}")
            if image not in bases:
                suite, packages = BASES[image]
                base = bases[image] = scratch / f"base{len(bases)}"
                make_root(base, packages, suite)
                (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
                # The image's Python is not Debian's, and pip may install into it.
                for mark in base.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                    mark.unlink()
                if arguments.torch:
                    indices.enter_context(torch_index(arguments.torch, base))
            root = scratch / f"stage{len(list(scratch.glob('stage*')))}"
            subprocess.run(["cp", "--archive", str(bases[image]), str(root)], check=True)
            return root

        try:
            stage = build(PROJECT / "Dockerfile", PROJECT, make_base, TRUST)
            print(f"built: {stage.root}", flush=True)
            server = subprocess.Popen(start(stage, TRUST, KEY), start_new_session=True)
            try:
                wait_healthy(stage, server)
                ask(stage, KEY)
            finally:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait()
            return 0
        finally:
            shutil.rmtree(scratch)


if __name__ == "__main__":
    sys.exit(main())
