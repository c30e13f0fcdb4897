"""Loading models from the hub, in all layouts, against a local hub."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from local_hub import BOT, TITLE, LocalHub, Repository, local_hub
from safetensors.torch import save

TENSORS = {"a": torch.arange(6000.0), "b": torch.ones(3)}
CONFIG = json.dumps({"model_type": "clip"}).encode()


def pickled(tensors: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


PICKLE = {"config.json": CONFIG, "pytorch_model.bin": pickled(TENSORS)}
SAFE = {"config.json": CONFIG, "model.safetensors": save(TENSORS)}
SHARDS = {
    "config.json": CONFIG,
    "model-00001-of-00002.safetensors": save({"a": TENSORS["a"]}),
    "model-00002-of-00002.safetensors": save({"b": TENSORS["b"]}),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
}
CONVERTED = {**PICKLE, "model.safetensors": save(TENSORS)}
OTHER_PICKLE = {"config.json": CONFIG, "pytorch_model.bin": pickled({"a": torch.zeros(6000), "b": torch.ones(3)})}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with local_hub(
        {
            "owner/whole": Repository({**SAFE, "pytorch_model.bin": b"never asked for", "run.py": b"raise SystemExit"}),
            "owner/sharded": Repository(SHARDS),
            "owner/request": Repository(
                PICKLE, [("somebody", TITLE, SAFE), (BOT, "Another title", SAFE), (BOT, TITLE, CONVERTED)]
            ),
            "owner/stranger": Repository(PICKLE, [("somebody", TITLE, CONVERTED)]),
            "owner/outdated": Repository(OTHER_PICKLE, [(BOT, TITLE, CONVERTED)]),
            "owner/pickle": Repository(PICKLE),
            "owner/gated": Repository(SAFE, gated=True),
            "owner/old": Repository({}, moved_to="owner/whole"),
            "owner/lossy": Repository(SAFE, lost={"model.safetensors": 1}),
            "owner/broken": Repository(SHARDS, lost={"model-00002-of-00002.safetensors": 99}),
            "owner/corrupt": Repository(SAFE, corrupt={"model.safetensors"}),
        }
    ) as running:
        yield running


PROGRAM = """
import json, logging, sys
logging.basicConfig(level=logging.WARNING, format="LOG %(message)s", stream=sys.stdout)
from beholder.errors import BeholderError
from beholder.weights import huggingface
from beholder.weights.download_progress import listening
from beholder.weights.sources import find_model
from beholder.weights.tensors import read_tensors
for call in sys.argv[1:]:
    name, allow_pickle = call.removesuffix("!"), not call.endswith("!")
    reports = []
    try:
        with listening(lambda *report: reports.append(report)):
            folder = find_model(name, allow_pickle=allow_pickle)
        files = sorted(path.name for path in folder.iterdir())
        tensors = read_tensors(folder, huggingface.STEMS, allow_pickle)
        sums = {key: float(tensor.sum()) for key, tensor in sorted(tensors.items())}
        print(json.dumps({"folder": str(folder), "files": files, "sums": sums, "reports": reports}))
    except BeholderError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
pytestmark = pytest.mark.slow
SUMS = {"a": float(TENSORS["a"].sum()), "b": 3.0}


def load(hub: LocalHub, home: Path, *names: str, **variables: str) -> tuple[list[dict], list[str]]:
    """Load models in a new process, as huggingface_hub reads its variables once; return results and log lines."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key[:3] != "HF_"}
    settings = {
        "HF_HOME": str(home / "hub"),
        "BEHOLDER_CACHE": str(home / "beholder"),
        "HF_ENDPOINT": hub.address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        **variables,
    }
    order = [sys.executable, "-c", PROGRAM, *names]
    run = subprocess.run(order, env=kept | settings, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0 and "%|" not in run.stderr, (
        run.stderr
    )  # huggingface_hub may log, but must not show progress bars
    lines = run.stdout.splitlines()
    results = [json.loads(line) for line in lines if line.startswith("{")]
    return results, [line for line in lines if line.startswith("LOG ")]


def test_every_layout_is_loaded_in_the_safest_available_way(hub: LocalHub, tmp_path: Path) -> None:
    names = ["whole", "sharded", "request", "stranger", "outdated", "pickle", "old", "lossy"]
    results, log = load(hub, tmp_path, *[f"owner/{name}" for name in names])
    found = dict(zip(names, results, strict=True))
    for name in names:
        expected = {"a": 0.0, "b": 3.0} if name == "outdated" else SUMS
        assert found[name].get("sums") == expected, found[name]
        files = sorted({"sharded": SHARDS, "whole": SAFE, "old": SAFE, "lossy": SAFE}.get(name, PICKLE))
        assert found[name]["files"] == (sorted(SAFE) if name == "request" else files)
    # Neither a stranger's pull request nor one older than the weights counts as a conversion of them.
    kept = [line for line in log if "restricted unpickler" in line]
    assert len(kept) == 3 and all("SHA-256" in line for line in kept)
    reports = found["whole"]["reports"]
    assert reports[-1][0] == "owner/whole" and reports[-1][1] >= len(SAFE["model.safetensors"])
    assert not [line for line in hub.received if "run.py" in line or ("owner/whole/resolve" in line and ".bin" in line)]

    count = len(hub.received)
    offline, log = load(hub, tmp_path, *[f"owner/{name}" for name in names if name != "old"], HF_HUB_OFFLINE="1")
    assert [each["folder"] for each in offline] == [found[name]["folder"] for name in names if name != "old"]
    assert [each["sums"] for each in offline] == [found[name]["sums"] for name in names if name != "old"]
    assert len(hub.received) == count and log == []


def test_without_pickles_a_conversion_is_still_loaded_and_a_pickle_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    (converted, refused, stranger), _ = load(hub, tmp_path, "owner/request!", "owner/pickle!", "owner/stranger!")
    assert converted["sums"] == SUMS
    for error in (refused, stranger):
        assert error["error"] == "ModelError" and "allow_pickle=False forbids" in error["message"]
    assert not list((tmp_path / "hub").rglob("*.bin"))


def test_a_gated_model_requires_a_token_and_loads_with_one(hub: LocalHub, tmp_path: Path) -> None:
    [error], _ = load(hub, tmp_path, "owner/gated")
    assert error["error"] == "ModelNotFound" and "accept conditions" in error["message"]
    [found], _ = load(hub, tmp_path, "owner/gated", HF_TOKEN="hf_secret")
    assert found["sums"] == SUMS


def test_an_interrupted_download_is_an_error_and_resumes(hub: LocalHub, tmp_path: Path) -> None:
    [error], _ = load(hub, tmp_path, "owner/broken")
    assert error["error"] == "DownloadFailed"
    [error], _ = load(hub, tmp_path, "owner/broken", HF_HUB_OFFLINE="1")
    assert error["error"] == "DownloadFailed" and "not in the cache" in error["message"]
    hub.models["owner/broken"].lost.clear()
    count = len(hub.received)
    [found], _ = load(hub, tmp_path, "owner/broken")
    assert found["sums"] == SUMS
    assert not [
        line for line in hub.received[count:] if line.startswith("GET") and line.endswith("1-of-00002.safetensors")
    ]


def test_a_file_with_the_wrong_hash_is_removed(hub: LocalHub, tmp_path: Path) -> None:
    [error], _ = load(hub, tmp_path, "owner/corrupt")
    assert error["error"] == "DownloadFailed" and "SHA-256 of model.safetensors" in error["message"]
    assert not list((tmp_path / "hub").rglob("model.safetensors"))
    hub.models["owner/corrupt"].corrupt.clear()
    [found], _ = load(hub, tmp_path, "owner/corrupt")
    assert found["sums"] == SUMS


def test_pull_prints_size_and_license_before_downloading(hub: LocalHub, tmp_path: Path) -> None:
    hub.models["owner/whole"].card = {"license": "mit"}
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key[:3] != "HF_"}
    settings = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
    order = [sys.executable, "-m", "beholder", "pull", "owner/whole", "--json"]
    for size in (len(CONFIG) + len(SAFE["model.safetensors"]), 0):
        run = subprocess.run(order, env=kept | settings, capture_output=True, text=True, timeout=240)
        message = f"owner/whole: {size / 1e6:,.1f} MB, licence: mit" if size else ""
        assert message in run.stderr and ("licence" in run.stderr) == bool(size), run.stderr
        assert json.loads(run.stdout)["name"] == "owner/whole"
