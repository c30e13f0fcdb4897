"""Reads the tensors of a checkpoint: safetensors, whole or sharded, and pickles only if they are allowed."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from beholder.errors import ModelError
from beholder.weights.pickles import read_pickle

HALF = 2  # bytes a number


def weight_files(names: Sequence[str], stems: Sequence[str], allow_pickle: bool = False) -> list[str]:
    """Return the files among ``names`` that hold the weights, by the first stem that exists; empty if there are none.

    For the stem ``model``: ``model.safetensors``, or an index and ``model-00001-of-00002.safetensors`` and so on.
    Pickles (``.bin``, ``.pt``) come last.
    """
    for suffix in (".safetensors", *((".bin", ".pt") if allow_pickle else ())):
        for stem in stems:
            whole, index = stem + suffix, f"{stem}{suffix}.index.json"
            if whole in names:
                return [whole]
            if index in names:
                shards = [name for name in names if name.startswith(f"{stem}-") and name.endswith(suffix)]
                return [index, *sorted(shards)]
    return []


def read_tensors(
    folder: Path, stems: Sequence[str], allow_pickle: bool = True, *, separately: bool = False
) -> dict[str, Tensor]:
    """Return all tensors of a folder's weights by name, on the CPU and in their stored dtype.

    Safetensors are memory-mapped, so a tensor costs nothing until it is used.

    Args:
        folder: the folder.
        stems: of the files, the preferred one first.
        allow_pickle: whether pickles may be read.
        separately: give each tensor of a file in half precision memory of its own, which is free again when the tensor
            is converted and dropped. The pages of a mapped file stay resident as long as any of its tensors is used.

    Raises:
        ModelError: there are no weights, only pickles without ``allow_pickle``, or a file is broken.
    """
    names = [path.name for path in folder.iterdir()]
    files = weight_files(names, stems, allow_pickle)
    if not files:
        pickles = weight_files(names, stems, allow_pickle=True)
        if pickles:
            raise ModelError(
                f"{folder}: the weights are a pickle ({pickles[0]}), and allow_pickle=False forbids it; allowed, "
                "it is read by torch's restricted unpickler"
            )
        raise ModelError(f"{folder}: no weights here; {' or '.join(f'{stem}.safetensors' for stem in stems)} is needed")
    if files[0].endswith(".index.json"):
        files = _listed_shards(folder / files[0])
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(_read_file(folder / file, separately))
    return tensors


def _listed_shards(index: Path) -> list[str]:
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: not an index of shards ({error})") from None
    for shard in shards:
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise ModelError(f"{index}: names the shard {shard}, which is not in the same folder")
    return shards


def _read_file(path: Path, separately: bool) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return _read_separately(path) if separately else load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path}: cannot be read as safetensors, perhaps only half of it is here ({error})"
            ) from None
    return read_pickle(path)


def _read_separately(path: Path) -> dict[str, Tensor]:
    """Copy the tensors, mapping the file anew for each, so that no more of it is resident; without a half, map them."""
    tensors = load_file(path)
    if all(tensor.dtype.itemsize != HALF for tensor in tensors.values()):
        return tensors
    for name in tensors:
        with safe_open(path, "pt") as file:
            tensors[name] = file.get_tensor(name).clone()
    return tensors
