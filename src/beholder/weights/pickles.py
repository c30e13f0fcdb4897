"""Pickled weights, read once by torch's restricted unpickler and kept as safetensors in the cache.

torch's ``weights_only`` unpickler builds tensors and plain containers and calls nothing else; before torch 2.6 it could
be bypassed (CVE-2025-32434), so older versions are refused. The copy in the cache records the SHA-256 of the pickle.
"""

import hashlib
import logging
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from beholder.errors import ModelError
from beholder.files import atomic_file
from beholder.weights.cache import cache_folder

SAFE_SINCE = (2, 6)
logger = logging.getLogger(__name__)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickle by name, from the safetensors in the cache if it was read before.

    Raises:
        ModelError: the file is broken, holds something other than named tensors, or this torch is too old.
    """
    copy = converted(path)
    if copy.is_file():
        return load_file(copy)
    tensors = unpickle(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(copy) as scratch:
            save_file(tensors, scratch, metadata={"format": "pt", "source": path.name, "source_sha256": digest})
    except OSError as error:  # a full disk only means that the pickle is read again next time
        logger.warning("%s: a pickle, read by torch's restricted unpickler; not kept (%s)", path, error)
        return tensors
    logger.warning(
        "%s: a pickle, read by torch's restricted unpickler and kept as %s (SHA-256 of the pickle: %s)",
        *(path, copy, digest),
    )
    return load_file(copy)


def converted(path: Path) -> Path:
    """Return where the safetensors of a pickle are kept, whether or not they exist yet.

    A pickle is identified by its resolved path, size and time; a blob of the hub's cache also carries its hash as name.
    """
    status = path.stat()
    identity = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    return cache_folder() / "converted" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"


def unpickle(path: Path) -> dict[str, Tensor]:
    """Read a pickle of named tensors by torch's restricted unpickler; no two tensors share memory.

    Raises:
        ModelError: as of `read_pickle`.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < SAFE_SINCE:
        raise ModelError(f"{path}: a pickle; torch {torch.__version__} can't read it safely: pip install -U torch")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as a pickle of tensors ({error})") from None
    stored = stored.get("state_dict", stored) if isinstance(stored, dict) else stored
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ModelError(f"{path}: is not a dictionary of named tensors")
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in stored.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.numel() * tensor.element_size() and storage.data_ptr() not in storages
        storages.add(storage.data_ptr())
        tensors[name.removeprefix("module.")] = tensor if whole else tensor.clone()
    return tensors
