"""Which models are on this machine."""

from dataclasses import dataclass
from pathlib import Path

from beholder.errors import ModelError
from beholder.weights import huggingface, mini, mini_bridge, open_clip, ours, sentence_transformers, vision_language
from beholder.weights.sources import needed_files

ENCODER, WRITER = "dual encoder", "vision-language model"
KINDS = {"blip-2": WRITER, "clip": ENCODER, "siglip": ENCODER, "chinese_clip": ENCODER}


@dataclass(frozen=True)
class Inventoried:
    """A model that ``--model`` can name: where it lies (None: not fetched yet), its bytes on disk, and its kind."""

    name: str
    path: Path | None
    size: int
    kind: str = ENCODER


def inventory() -> list[Inventoried]:
    """``mini``'s two models, and those in the Hugging Face cache that can be used, by name. Nothing is fetched."""
    own = []
    for finished, kind in ((mini.finished_folder(), ENCODER), (mini_bridge.finished_folder(), WRITER)):
        here = finished.is_dir()
        size = sum(file.stat().st_size for file in finished.rglob("*") if file.is_file()) if here else 0
        own.append(Inventoried("mini", finished if here else None, size, kind))
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
        kind = kind_of(newest.snapshot_path)
        if kind is not None:
            found.append(Inventoried(repository.repo_id, newest.snapshot_path, repository.size_on_disk, kind))
    return sorted(found, key=lambda model: model.name)


def kind_of(folder: Path) -> str | None:
    """The kind of model that a folder's configs say is in it; None where none that is known is there with weights."""
    try:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        needed_files(names, allow_pickle=True)
        if ours.CONFIG in names:
            own = huggingface.read_json(folder / ours.CONFIG).get("format")
            return WRITER if own == vision_language.FORMAT else ENCODER
        if open_clip.CONFIG in names:
            return ENCODER
        if sentence_transformers.LIST in names:
            folder = sentence_transformers.clip_folder(folder)
        return KINDS.get(huggingface.read_json(folder / "config.json").get("model_type", ""))
    except ModelError:
        return None
