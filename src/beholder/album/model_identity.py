"""Which model an album's vectors are of, told without loading it where that is possible.

A folder of our own format whose files have kept their names, sizes and times since its fingerprint was taken still has
that fingerprint. So an index run without anything new loads no model, and a search by words only what was compiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from beholder.album.store import IndexedModel, Store
from beholder.errors import AlbumError

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision
    from beholder.tasks.dual_encoder import DualEncoder

CONFIG = "beholder.json"


def native_folder(name: str) -> Path | None:
    """The folder in our own format that a model's name leads to, if it does and is there."""
    if name == "mini":
        from beholder.weights.mini_parts import model_folder

        folder = model_folder()
    else:
        folder = Path(name).expanduser().absolute()
    return folder if (folder / CONFIG).is_file() else None


def stamp(folder: Path) -> str:
    """Names, sizes and times of a model's files."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if not path.name.startswith("."))
    return " ".join(f"{name}:{status.st_size}:{status.st_mtime_ns}" for name, status in files)


def recognize(store: Store, name: str) -> IndexedModel | None:
    """The model of the album that has this name, if its files are those that it had."""
    folder = native_folder(name)
    if folder is None:
        return None
    now = stamp(folder)
    return next((model for model in store.models() if model.folder == str(folder) and model.stamp == now), None)


def register(store: Store, encoder: DualEncoder, name: str) -> IndexedModel:
    """The album's entry for a loaded model, made if it is new."""
    folder = native_folder(name)
    return store.add_model(
        encoder.fingerprint,
        name,
        encoder.towers.embedding,
        None if folder is None else str(folder),
        None if folder is None else stamp(folder),
    )


def load_encoder(model: IndexedModel, precision: Precision = "exact") -> DualEncoder:
    """One of the album's models, as near to its own vectors as the precision says.

    Raises:
        AlbumError: the model that is there now is another than the one that made the vectors.
    """
    from beholder.tasks.dual_encoder import DualEncoder

    name = model.folder if model.folder is not None and Path(model.folder).is_dir() else model.name
    encoder = DualEncoder.from_pretrained(name, precision=precision)
    if encoder.fingerprint != model.fingerprint:
        raise AlbumError(
            f"{model.name}: has changed since the album's vectors were made with it; index again: "
            f"beholder index FOLDER --model {model.name}"
        )
    return encoder
