"""Which models are on this machine."""

from dataclasses import dataclass
from pathlib import Path

from beholder.errors import ModelError
from beholder.weights import mini, mini_bridge, sentence_transformers
from beholder.weights.formats import DUAL_ENCODER, IMAGE_ENCODER, VISION_LANGUAGE_MODEL, Kind, recognize
from beholder.weights.sources import files_to_download


@dataclass(frozen=True)
class InstalledModel:
    """A model that ``--model`` can name: its folder (None if not downloaded yet), its bytes on disk, and its kind."""

    name: str
    path: Path | None
    size: int
    kind: Kind = DUAL_ENCODER


def installed_models() -> list[InstalledModel]:
    """List ``mini``'s two models and the usable ones in the Hugging Face cache, by name. Nothing is downloaded."""
    own = []
    for finished, kind in ((mini.model_folder(), DUAL_ENCODER), (mini_bridge.model_folder(), VISION_LANGUAGE_MODEL)):
        here = finished.is_dir()
        size = sum(file.stat().st_size for file in finished.rglob("*") if file.is_file()) if here else 0
        own.append(InstalledModel("mini", finished if here else None, size, kind))
    return [*own, *_in_hub_cache()]


def _in_hub_cache() -> list[InstalledModel]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        cached = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    found = []
    for repository in cached.repos:
        if repository.repo_type != "model" or not repository.revisions:
            continue
        newest = max(repository.revisions, key=lambda revision: revision.last_modified)
        kind = kind_of(newest.snapshot_path)
        if kind is not None:
            found.append(InstalledModel(repository.repo_id, newest.snapshot_path, repository.size_on_disk, kind))
    return sorted(found, key=lambda model: model.name)


def kind_of(folder: Path) -> Kind | None:
    """Return the kind of model in a folder; None if there is none of a known format with weights."""
    try:
        files_to_download([path.relative_to(folder).as_posix() for path in folder.rglob("*")], allow_pickle=True)
        row = recognize(folder)
        if row.marker == sentence_transformers.LIST:
            recognize(sentence_transformers.clip_folder(folder), in_modules=True)
    except ModelError:
        return None
    return row.kind if row.kind != IMAGE_ENCODER else None
