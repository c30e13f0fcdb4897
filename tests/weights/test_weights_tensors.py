import json
import pickle
from pathlib import Path

import pytest
import torch
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
def test_safetensors_come_before_pickles(names: list[str], allow_pickle: bool, expected: list[str]) -> None:
    assert weight_files(names, STEMS, allow_pickle) == expected


def test_a_pickle_is_opened_only_where_it_is_allowed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model.bin\).*allow_pickle=True"):
        read_tensors(tmp_path, STEMS)
    tensors = read_tensors(tmp_path, STEMS, allow_pickle=True)
    assert list(tensors) == ["a"]
    assert torch.equal(tensors["a"], torch.ones(2))


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_even_where_pickles_are_allowed(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "ran")}, tmp_path / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(ModelError, match="cannot be read as a pickle of tensors"):
        read_tensors(tmp_path, STEMS, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": "text"}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="something else than named tensors"):
        read_tensors(tmp_path, STEMS, allow_pickle=True)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.randn(100)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="only half"):
            read_tensors(tmp_path, STEMS)


def test_a_folder_without_weights_says_which_file_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_tensors(tmp_path, STEMS)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "missing.safetensors", "/etc/passwd"])
def test_an_index_may_name_only_shards_beside_it(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ModelError, match="not in the same folder"):
        read_tensors(folder, STEMS)


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"weight_map": 3}'):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ModelError, match="not an index"):
            read_tensors(tmp_path, STEMS)
