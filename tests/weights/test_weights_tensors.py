import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from beholder.errors import ModelError
from beholder.weights.tensors import read_tensors, weight_files

STEMS = ("model", "pytorch_model")


@pytest.mark.parametrize(
    ("names", "allow_pickle", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], True, ["model.safetensors"]),
        (["pytorch_model.bin"], True, ["pytorch_model.bin"]),
        (["pytorch_model.bin"], False, []),
        (["other.safetensors"], True, []),
        (
            ["model-2-of-2.safetensors", "model.safetensors.index.json", "model-1-of-2.safetensors", "x.safetensors"],
            False,
            ["model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"],
        ),
    ],
)
def test_safetensors_are_preferred_to_pickles(names: list[str], allow_pickle: bool, expected: list[str]) -> None:
    assert weight_files(names, STEMS, allow_pickle) == expected


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BEHOLDER_CACHE", str(folder))
    return folder


def test_a_pickle_is_read_only_if_allowed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model.bin\).*allow_pickle=False forbids"):
        read_tensors(tmp_path, STEMS, allow_pickle=False)
    tensors = read_tensors(tmp_path, STEMS, allow_pickle=True)
    assert list(tensors) == ["a"]
    assert torch.equal(tensors["a"], torch.ones(2))


def test_a_pickle_is_read_once_and_cached_as_safetensors(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = torch.randn(4, 3)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": shared, "tied": shared, "part": shared[1], "half": torch.ones(2, dtype=torch.float16)}, path)
    first = read_tensors(tmp_path, STEMS)
    [copy] = (cache / "converted").iterdir()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(copy, "pt") as file:
        assert file.metadata()["source_sha256"] == digest
    [record] = caplog.records
    assert digest in record.message and str(copy) in record.message
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled again"))
        again = read_tensors(tmp_path, STEMS)
    for tensors in (first, again):
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {
            "a": torch.float32,
            "tied": torch.float32,
            "part": torch.float32,
            "half": torch.float16,
        }
        assert torch.equal(tensors["a"], shared) and torch.equal(tensors["tied"], shared)
        assert torch.equal(tensors["part"], shared[1])
    torch.save({"a": torch.zeros(1)}, path)  # a changed file with the same name is converted again
    assert list(read_tensors(tmp_path, STEMS)) == ["a"]


def test_a_pickle_is_refused_with_a_vulnerable_torch_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ModelError, match=r"torch 2\.5\.1\+cpu can't read it safely"):
        read_tensors(tmp_path, STEMS)


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_refused_even_if_pickles_are_allowed(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "ran")}, tmp_path / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(ModelError, match="cannot be read as a pickle of tensors"):
        read_tensors(tmp_path, STEMS, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": "text"}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not a dictionary of named tensors"):
        read_tensors(tmp_path, STEMS, allow_pickle=True)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.randn(100)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="only half"):
            read_tensors(tmp_path, STEMS)


def test_missing_weights_are_reported_with_the_expected_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_tensors(tmp_path, STEMS)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "missing.safetensors", "/etc/passwd"])
def test_an_index_may_only_refer_to_shards_in_its_folder(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match="not in the same folder"):
        read_tensors(folder, STEMS)


def test_an_invalid_index_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"weight_map": 3}'):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ModelError, match="not an index"):
            read_tensors(tmp_path, STEMS)
