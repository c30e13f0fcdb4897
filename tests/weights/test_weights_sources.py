import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from beholder.errors import ModelError, ModelNotFound
from beholder.weights.formats import REFUSED, recognize
from beholder.weights.sources import files_to_download, find_image_generator, find_model, generator_files

TOKENIZER = ["merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json"]


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
MODULE = ["0_CLIPModel/config.json", "0_CLIPModel/model.safetensors"]


@pytest.mark.parametrize(
    ("needed", "left", "allow_pickle"),
    [
        (["config.json", "model.safetensors", *TOKENIZER], ["README.md", "pytorch_model.bin", "run.py"], True),
        (["config.json", "model.safetensors"], ["flax_model.msgpack", "tf_model.h5", "model.fp16.safetensors"], False),
        (
            ["config.json", "open_clip_config.json", "open_clip_model.safetensors"],
            ["open_clip_pytorch_model.bin", "pytorch_model.bin"],
            False,
        ),
        (["config.json", "pytorch_model.bin"], [], True),
        (["modules.json", *MODULE], ["onnx/config.json", "onnx/model.onnx", "0_CLIPModel/pytorch_model.bin"], False),
        (["config.json", *SHARDS], ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"], False),
    ],
)
def test_only_the_files_needed_for_loading_are_downloaded(
    needed: list[str], left: list[str], allow_pickle: bool
) -> None:
    assert files_to_download([*left, *needed], allow_pickle) == sorted(needed)


def test_a_repository_with_only_pickles_is_refused_before_any_download() -> None:
    with pytest.raises(ModelError, match="allow_pickle=False forbids"):
        files_to_download(["config.json", "pytorch_model.bin"], allow_pickle=False)
    with pytest.raises(ModelError, match="no weights"):
        files_to_download(["config.json", "model.gguf"], allow_pickle=True)


PIPELINE = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
OWN = [
    "beholder.json",
    "encoder/beholder.json",
    "encoder/model.safetensors",
    "encoder/tokenizer.json",
    "model.safetensors",
]


@pytest.mark.parametrize("needed", [PIPELINE, OWN])
def test_of_an_image_generator_only_safetensors_of_known_parts_are_downloaded(needed: list[str]) -> None:
    left = ["unet/model.py", "pipeline.py", "unet/diffusion_pytorch_model.bin", "v1-5.safetensors.index.json"]
    left += ["text_encoder/model.fp16.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors", "README.md"]
    left += ["text_encoder/pytorch_model.bin", "vae_decoder/config.json", "vae_decoder/model.onnx"]
    assert generator_files([*left, *needed]) == sorted(needed)


def test_an_image_generator_without_safetensors_is_refused() -> None:
    with pytest.raises(ModelError, match="no weights in safetensors"):
        generator_files(["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"])
    with pytest.raises(ModelError, match="is no image generator"):
        generator_files(["config.json", "model.safetensors"])


def test_a_local_folder_is_used_in_place(tmp_path: Path) -> None:
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "/no/such/folder", "a/b/c", "", Path("a/b")])
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_not_found(name: str | Path) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        find_model(name)
    with pytest.raises(ModelNotFound, match="no such folder"):
        find_image_generator(name)


COMMIT = "a" * 40
FILES = {
    "config.json": b'{"model_type": "clip"}',
    "model.safetensors": b"the weights",
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"raise SystemExit",
}


class Hub(BaseHTTPRequestHandler):
    """A minimal hub with one model, owner/model."""

    received: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        type(self).received.append(f"{self.command} {path}")
        if path in ("/api/models/owner/model", "/api/models/owner/model/revision/main"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/owner/model/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": name} for name in FILES]
            self.answer(json.dumps(tree).encode())
        elif path.startswith(f"/owner/model/resolve/{COMMIT}/"):
            self.answer(FILES[path.rpartition("/")[2]], {"ETag": f'"{path}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.received = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def find_in_a_fresh_process(name: str, home: Path, endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Find a model in a new process, since huggingface_hub reads its variables on import."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and key[:3] != "HF_"}
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "3"}
    program = (
        "import sys; from beholder.errors import BeholderError; from beholder.weights.sources import find_model\n"
        "try: print(find_model(sys.argv[1]))\n"
        "except BeholderError as error: print(type(error).__name__, error)"
    )
    order = [sys.executable, "-c", program, name]
    return subprocess.run(order, env={**kept, **settings, **more}, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_hub_model_is_downloaded_once_into_hf_home_and_then_available_offline(hub: str, tmp_path: Path) -> None:
    fetched = find_in_a_fresh_process("owner/model", tmp_path, hub)
    folder = Path(fetched.stdout.strip())
    assert folder.is_relative_to(tmp_path), fetched.stdout + fetched.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    assert all(COMMIT in path for path in Hub.received if "/resolve/" in path)
    count = len(Hub.received)
    offline = find_in_a_fresh_process("owner/model", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert Path(offline.stdout.strip()) == folder, offline.stderr
    assert len(Hub.received) == count
    unreachable = find_in_a_fresh_process("owner/model", tmp_path, "http://127.0.0.1:9")
    assert Path(unreachable.stdout.strip()) == folder, unreachable.stderr


@pytest.mark.slow
def test_a_missing_model_and_an_unreachable_hub_are_different_errors(hub: str, tmp_path: Path) -> None:
    assert find_in_a_fresh_process("owner/other", tmp_path, hub).stdout.startswith("ModelNotFound owner/other: no such")
    offline = find_in_a_fresh_process("owner/model", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert offline.stdout.startswith("DownloadFailed owner/model: not in the cache")


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_refused_family_says_what_it_is_and_what_to_take_instead(tmp_path: Path, family: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(ModelError, match=r"this is an? .*([Tt]ake|Those|train) ") as raised:
        recognize(tmp_path)
    assert "/" in str(raised.value) or "(clip)" in str(raised.value)
