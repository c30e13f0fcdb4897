"""Which models are on this machine."""

from dataclasses import dataclass
from pathlib import Path

from beholder.errors import ModelError
from beholder.weights import huggingface, mini, mini_bridge, open_clip, ours, sentence_transformers
from beholder.weights.sources import needed_files

KNOWN = ("blip-2", "clip", "siglip", "chinese_clip")


@dataclass(frozen=True)
class Inventoried:
    """A model that ``--model`` can name: where it lies (None: not fetched yet) and its size on disk in bytes."""

    name: str
    path: Path | None
    size: int


def inventory() -> list[Inventoried]:
    """``mini``'s two models, and those in the Hugging Face cache that can be used, by name. Nothing is fetched."""
    own = []
    for finished in (mini.finished_folder(), mini_bridge.finished_folder()):
        here = finished.is_dir()
        size = sum(file.stat().st_size for file in finished.rglob("*") if file.is_file()) if here else 0
        own.append(Inventoried("mini", finished if here else None, size))
    return [*own, *_in_hub_cache()]


def _in_hub_cache() -> list[Inventoried]:
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
        if is_known(newest.snapshot_path):
            found.append(Inventoried(repository.repo_id, newest.snapshot_path, repository.size_on_disk))
    return sorted(found, key=lambda model: model.name)


def is_known(folder: Path) -> bool:
    """Whether a folder's configs say that a model of a known kind is in it, and its weights are there."""
    try:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        needed_files(names, allow_pickle=True)
        if ours.CONFIG in names or open_clip.CONFIG in names:
            return True
        if sentence_transformers.LIST in names:
            folder = sentence_transformers.clip_folder(folder)
        return huggingface.read_json(folder / "config.json").get("model_type") in KNOWN
    except ModelError:
        return False
