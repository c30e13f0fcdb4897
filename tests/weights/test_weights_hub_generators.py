"""Image generators from a local hub: pipelines and our own format, without code and without pickles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import Repository, local_hub

pytest.importorskip("diffusers", reason="diffusers runs these pipelines")
import tiny_generator
import tiny_pipelines
from beholder.weights.native_generator import save_image_generator

pytestmark = pytest.mark.slow
PROGRAM = """
import json, sys
from beholder import ImageGenerator
from beholder.errors import BeholderError
for name in sys.argv[1:]:
    try:
        generator = ImageGenerator.from_pretrained(name, device="cpu")
        picture = generator.generate("a cat", seed=1, steps=1)[0]
        print(json.dumps({"name": generator.name, "size": picture.size, "fingerprint": generator.fingerprint}))
    except BeholderError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_generators_are_downloaded_once_and_open_offline(tmp_path: Path) -> None:
    tiny_pipelines.write_stable_diffusion(tmp_path / "sd" / "pipeline")
    save_image_generator(tiny_generator.build(), tmp_path / "own")
    pipeline = files(tmp_path / "sd" / "pipeline")
    code = {"unet/model.py": b"raise SystemExit", "pipeline.py": b"raise SystemExit"}
    pickled = {name.replace(".safetensors", ".bin"): data for name, data in pipeline.items()}
    repositories = {
        "owner/pipeline": Repository({**pipeline, **code, "unet/diffusion_pytorch_model.bin": b"never asked for"}),
        "owner/own": Repository(files(tmp_path / "own")),
        "owner/pickled": Repository(pickled),
        "owner/other": Repository({"config.json": b"{}", "model.safetensors": b""}),
    }
    with local_hub(repositories) as hub:
        kept = {
            key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key[:3] != "HF_"
        }
        settings = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}

        def load(*names: str, **variables: str) -> list[dict]:
            order = [sys.executable, "-c", PROGRAM, *names]
            environment = {**kept, **settings, **variables}
            run = subprocess.run(order, env=environment, capture_output=True, text=True, timeout=240, check=False)
            assert run.returncode == 0, run.stderr
            return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]

        own, drawn, pickles, other = load("owner/own", "owner/pipeline", "owner/pickled", "owner/other")
        assert (own["name"], own["size"]) == ("tiny", [16, 16])
        assert (drawn["name"], drawn["size"]) == ("owner/pipeline", [16, 16])
        assert pickles["error"] == "ModelError" and "no weights in safetensors" in pickles["message"]
        assert other["error"] == "ModelError" and "is no image generator" in other["message"]
        pulled = subprocess.run(
            [sys.executable, "-m", "beholder", "pull", "owner/pipeline", "--json"],
            env={**kept, **settings, "HF_HOME": str(tmp_path / "other")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert pulled.returncode == 0 and "owner/pipeline: " in pulled.stderr, pulled.stderr
        assert (Path(json.loads(pulled.stdout)["path"]) / "unet" / "diffusion_pytorch_model.safetensors").is_file()
        assert not [line for line in hub.received if line.endswith((".py", ".bin"))]
        count = len(hub.received)
        assert load("owner/own", "owner/pipeline", HF_HUB_OFFLINE="1") == [own, drawn]
        assert len(hub.received) == count
