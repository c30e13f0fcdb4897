"""Which model an album's embeddings come from, determined without loading it where possible.

A folder of our own format whose files have the same names, sizes and times as when its fingerprint was computed still
has that fingerprint. So an index run with nothing new loads no model, and a text search loads only compiled parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel, add_model, list_models
from beholder.errors import AlbumError

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision
    from beholder.tasks.dual_encoder import DualEncoder

CONFIG = "beholder.json"


def native_folder(name: str) -> Path | None:
    """Return the folder in our own format that a model's name refers to, or None."""
    if name == "mini":
        from beholder.weights.mini_parts import model_folder

        folder = model_folder()
    else:
        folder = Path(name).expanduser().absolute()
    return folder if (folder / CONFIG).is_file() else None


def folder_stamp(folder: Path) -> str:
    """Return names, sizes and modification times of a model's files."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if not path.name.startswith("."))
    return " ".join(f"{name}:{status.st_size}:{status.st_mtime_ns}" for name, status in files)


def recognize(store: Store, name: str) -> IndexedModel | None:
    """Return the album's model of this name if its files are unchanged, else None."""
    folder = native_folder(name)
    if folder is None:
        return None
    stamp = folder_stamp(folder)
    return next((model for model in list_models(store) if model.folder == str(folder) and model.stamp == stamp), None)


def register(store: Store, encoder: DualEncoder, name: str) -> IndexedModel:
    """Return the album's entry of a loaded model, added if it is new."""
    folder = native_folder(name)
    return add_model(
        store,
        encoder.fingerprint,
        name,
        encoder.towers.embedding,
        None if folder is None else str(folder),
        None if folder is None else folder_stamp(folder),
    )


def load_encoder(model: IndexedModel, precision: Precision = "exact") -> DualEncoder:
    """Load one of the album's models.

    Raises:
        AlbumError: the model at that place is no longer the one that made the embeddings.
    """
    from beholder.tasks.dual_encoder import DualEncoder

    name = model.folder if model.folder is not None and Path(model.folder).is_dir() else model.name
    encoder = DualEncoder.from_pretrained(name, precision=precision)
    if encoder.fingerprint != model.fingerprint:
        raise AlbumError(
            f"{model.name}: has changed since it made the album's embeddings; index again: "
            f"beholder index FOLDER --model {model.name}"
        )
    return encoder
