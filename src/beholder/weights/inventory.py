"""Which models are on this machine."""

from dataclasses import dataclass
from pathlib import Path

from beholder.errors import ModelError
from beholder.weights import huggingface, mini, open_clip, ours, sentence_transformers
from beholder.weights.sources import needed_files

DUAL_ENCODERS = ("clip", "siglip", "chinese_clip")


@dataclass(frozen=True)
class Inventoried:
    """A model that ``--model`` can name: where it lies (None: not fetched yet) and its size on disk in bytes."""

    name: str
    path: Path | None
    size: int


def inventory() -> list[Inventoried]:
    """``mini``, and the dual encoders in the Hugging Face cache, sorted by name. Nothing is fetched."""
    finished = mini.finished_folder()
    here = finished.is_dir()
    size = sum(file.stat().st_size for file in finished.iterdir()) if here else 0
    return [Inventoried("mini", finished if here else None, size), *_in_hub_cache()]


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
        if is_dual_encoder(newest.snapshot_path):
            found.append(Inventoried(repository.repo_id, newest.snapshot_path, repository.size_on_disk))
    return sorted(found, key=lambda model: model.name)


def is_dual_encoder(folder: Path) -> bool:
    """Whether a folder's configs say that a dual encoder is in it, and its weights are there."""
    try:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        needed_files(names, allow_pickle=True)
        if ours.CONFIG in names or open_clip.CONFIG in names:
            return True
        if sentence_transformers.LIST in names:
            folder = sentence_transformers.clip_folder(folder)
        return huggingface.read_json(folder / "config.json").get("model_type") in DUAL_ENCODERS
    except ModelError:
        return False
