"""Finds the folder of a model: a local one, the default model, or a repository of the Hugging Face hub.

huggingface_hub does the downloading, so HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT and the usual
proxy variables apply. No code is ever downloaded, and all files are of one revision.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.errors import DownloadFailed, ModelError, ModelNotFound
from beholder.weights.download_progress import reporting_bar
from beholder.weights.known_models import known_model
from beholder.weights.tensors import weight_files

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

logger = logging.getLogger(__name__)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PICKLES = (".bin", ".pt")
# Of the pull requests by which the hub adds safetensors to repositories; the same that transformers looks for.
CONVERSION_BOT, CONVERSION_TITLE = "SFconvertbot", "Adding `safetensors` variant of this model"
PIPELINE_INDEX = "model_index.json"  # of a pipeline of diffusers
PIPELINE_PARTS = (
    *("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "movq", "scheduler"),
    *("safety_checker", "feature_extractor", "image_encoder"),
)
GENERATOR_ENCODER = "encoder/beholder.json"  # of an image generator in Beholder's format
GENERATOR_STEMS = ("diffusion_pytorch_model", "model")
Select = Callable[[Sequence[str], bool], list[str]]  # of a repository's files, those that loading needs
SMALL_FILES = (".json", ".jinja", ".txt", ".txt.gz", ".model", "calibration.safetensors")


def find_model(name: str | Path, *, revision: str | None = None, allow_pickle: bool = True) -> Path:
    """Return the folder of a model, downloading it if needed.

    Args:
        name: a folder, ``"mini"``, a short name such as ``"clip"`` (`known_models`), or a hub id such as
            ``"openai/clip-vit-base-patch32"``.
        revision: for a hub id, a branch, tag or commit; the main branch by default.
        allow_pickle: for a hub id with neither safetensors nor a conversion by the hub's bot, download a pickle.

    Raises:
        ModelNotFound: neither a folder nor a model of the hub has this name.
        DownloadFailed: the hub could not be reached, and the model is not in the cache.
    """
    if name == "mini":  # a folder that happens to have this name is ./mini
        from beholder.weights import mini

        return mini.folder()
    folder = Path(name).expanduser()
    if str(name) and folder.is_dir():
        return folder
    return _from_hub(hub_id(name), revision, allow_pickle)


def find_any_model(name: str | Path) -> Path:
    """Return the folder of a model of any kind, downloading it if needed; raises what `find_model` raises."""
    if name == "mini" or Path(name).expanduser().is_dir():
        return find_model(name)
    return _from_hub(hub_id(name), None, allow_pickle=True, select=model_files)


def find_image_generator(name: str | Path) -> Path:
    """Return the folder of an image generator: a folder, or a hub id, from which it is downloaded if needed.

    Raises:
        ModelNotFound: neither a folder nor a model of the hub has this name.
        ModelError: it is no image generator, or not in safetensors.
        DownloadFailed: the hub could not be reached, and the model is not in the cache.
    """
    folder = Path(name).expanduser()
    if str(name) and folder.is_dir():
        return folder
    return _from_hub(hub_id(name), None, allow_pickle=False, select=generator_files)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline of diffusers."""
    return (folder / PIPELINE_INDEX).is_file()


def hub_id(name: str | Path) -> str:
    """Return the hub id that a short name or a hub id leads to.

    Raises:
        ModelNotFound: it is neither.
    """
    known = known_model(name) if isinstance(name, str) else None
    if known is not None:
        return known.repository
    if not isinstance(name, str) or not HUB_ID.fullmatch(name):
        raise ModelNotFound(
            f"{name}: no such folder; a model is a folder, mini, a short name (beholder models --known) or a hub id "
            "such as owner/name"
        )
    return name


@dataclass(frozen=True)
class Download:
    """What is still to be downloaded of a model of the hub.

    Attributes:
        repository: hub id.
        size: bytes that are not in the cache yet.
        licence: as the model card states it; empty where it states none.
    """

    repository: str
    size: int
    licence: str


def plan_download(name: str | Path, *, revision: str | None = None, allow_pickle: bool = True) -> Download | None:
    """Return what `find_any_model` would download; None for a folder, ``"mini"``, and if the hub can't be reached."""
    if name == "mini" or Path(name).expanduser().is_dir():
        return None
    repository = hub_id(name)
    try:
        info, _, files = _plan(repository, revision, allow_pickle, model_files)
    except Exception as error:  # find_model says what is wrong, or finds the model in the cache
        logger.info("%s: size and licence are not known (%s)", repository, error)
        return None
    missing = set(_missing(repository, info, files))
    size = sum(file.size or 0 for file in info.siblings or () if file.rfilename in missing)
    stated = info.card_data.get("license") if info.card_data is not None else None
    return Download(repository, size, str(stated or ""))


def files_to_download(names: Sequence[str], allow_pickle: bool = True) -> list[str]:
    """Return the files of a repository that loading it needs: configs, tokenizer, and one copy of the weights.

    Raises:
        ModelError: there are no weights that may be read.
    """
    from beholder.weights.formats import STEMS

    folders = ["", *sorted({module[0] for name in names if (module := re.match(r"\d+_\w+/", name))})]
    needed: list[str] = []
    weights: list[str] = []
    for folder in folders:  # the root, and the modules of a sentence-transformers repository
        here = [name.removeprefix(folder) for name in names if name.startswith(folder)]
        here = [name for name in here if "/" not in name]
        found = weight_files(here, STEMS, allow_pickle)
        weights += [folder + name for name in found]
        needed += [folder + name for name in here if name.endswith(SMALL_FILES) and not name.endswith(".index.json")]
    if not weights:
        pickled = any(name.endswith((".bin", ".pt")) for name in names)
        raise ModelError(
            "it has only pickled weights, which can run code when they are opened, and allow_pickle=False forbids "
            "them; allowed, they are read by torch's restricted unpickler"
            if pickled
            else "it has no weights in a file that is known"
        )
    return sorted({*needed, *weights})


def generator_files(names: Sequence[str], allow_pickle: bool = False) -> list[str]:
    """Return the files of an image generator that loading it needs: configs, tokenizers, and safetensors of each part.

    Args:
        names: of all files of the repository, of a pipeline of diffusers or in Beholder's own format.
        allow_pickle: is not heeded: an image generator is read from safetensors only.

    Raises:
        ModelError: it is no image generator, or not in safetensors.
    """
    if PIPELINE_INDEX in names:
        folders, needed = [f"{part}/" for part in PIPELINE_PARTS], [PIPELINE_INDEX]
    elif GENERATOR_ENCODER in names:
        folders, needed = ["", GENERATOR_ENCODER.rpartition("/")[0] + "/"], []
    else:
        raise ModelError(f"it is no image generator: it has neither {PIPELINE_INDEX} nor {GENERATOR_ENCODER}")
    weights: list[str] = []
    for folder in folders:
        here = [name.removeprefix(folder) for name in names if name.startswith(folder)]
        here = [name for name in here if "/" not in name]
        weights += [folder + name for name in weight_files(here, GENERATOR_STEMS)]
        needed += [folder + name for name in here if name.endswith(SMALL_FILES) and not name.endswith(".index.json")]
    if not weights:
        raise ModelError("it has no weights in safetensors, and an image generator is read from nothing else")
    return sorted({*needed, *weights})


def model_files(names: Sequence[str], allow_pickle: bool = True) -> list[str]:
    """Return the files of a repository that loading it needs, whatever kind of model it is.

    Raises:
        ModelError: there are no weights that may be read.
    """
    is_generator = PIPELINE_INDEX in names or GENERATOR_ENCODER in names
    return generator_files(names) if is_generator else files_to_download(names, allow_pickle)


def _from_hub(name: str, revision: str | None, allow_pickle: bool, select: Select = files_to_download) -> Path:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info, at, files = _plan(name, revision, allow_pickle, select)
        return _download(name, at, info, files)
    except ModelError:
        raise
    except GatedRepoError as error:
        raise ModelNotFound(f"{name}: its owner asks you to accept conditions on the hub; then set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{name}: has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{name}: no such folder here, and no such model on the hub (a private one needs HF_TOKEN)"
        ) from error
    except Exception as error:  # offline, timeouts, broken answers: huggingface_hub passes on its HTTP client's errors
        cached = _cached(name, revision, allow_pickle, select)
        if cached is None:
            raise DownloadFailed(f"{name}: not in the cache, and the hub could not be reached ({error})") from error
        return cached


def _plan(
    name: str, revision: str | None, allow_pickle: bool, select: Select = files_to_download
) -> tuple[ModelInfo, str | None, list[str]]:
    """Return what the hub tells about the revision to take, that revision, and its files that loading needs."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    try:
        files = select(_names(info), True)
        if any(file.endswith(PICKLES) for file in files):
            conversion = _conversion(name, info, files)
            if conversion is not None:
                info, revision = conversion
            files = select(_names(info), allow_pickle)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    return info, revision, files


def _missing(name: str, info: ModelInfo, files: Sequence[str]) -> list[str]:
    """Return those of the files that are not in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return [file for file in files if not isinstance(try_to_load_from_cache(name, file, revision=info.sha), str)]


def _names(info: ModelInfo) -> list[str]:
    return [file.rfilename for file in info.siblings or ()]


def _conversion(name: str, info: ModelInfo, files: Sequence[str]) -> tuple[ModelInfo, str] | None:
    """Return the pull request by which the hub's bot adds safetensors, and its revision; None if there is none.

    Every file that loading needs has to be the same, byte for byte, as in the revision that was asked for: so it is a
    conversion of these weights and no others.
    """
    from huggingface_hub import HfApi

    hashes = {file.rfilename: file.blob_id for file in info.siblings or ()}
    try:
        requests = HfApi().get_repo_discussions(
            name, author=CONVERSION_BOT, discussion_type="pull_request", discussion_status="open"
        )
        for request in requests:
            if request.title != CONVERSION_TITLE or request.author != CONVERSION_BOT:
                continue
            revision = f"refs/pr/{request.num}"
            converted = HfApi().model_info(name, revision=revision, files_metadata=True)
            theirs = {file.rfilename: file.blob_id for file in converted.siblings or ()}
            safe = files_to_download(_names(converted), allow_pickle=True)
            if not any(file.endswith(PICKLES) for file in safe) and all(
                hashes[file] is not None and hashes[file] == theirs.get(file) for file in files
            ):
                return converted, revision
    except Exception as error:  # some hubs have no discussions; the conversion is only a convenience
        logger.info("%s: no conversion to safetensors found (%s)", name, error)
    return None


def _download(name: str, revision: str | None, info: ModelInfo, files: Sequence[str]) -> Path:
    """Download the files that are not in the cache, and check those against the hub's hashes."""
    from huggingface_hub import snapshot_download

    new = _missing(name, info, files)
    folder = Path(
        snapshot_download(name, revision=revision, allow_patterns=list(files), tqdm_class=reporting_bar(name))
    )
    for file in info.siblings or ():
        wanted = file.lfs.sha256 if file.lfs is not None else None
        path = folder / file.rfilename
        if wanted is None or file.rfilename not in new:
            continue
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != wanted:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise DownloadFailed(
                f"{name}: the SHA-256 of {file.rfilename} is {found} and not {wanted}, as the hub says; it was removed"
            )
    return folder


def _cached(name: str, revision: str | None, allow_pickle: bool, select: Select = files_to_download) -> Path | None:
    """Return the folder of a model in the hub's cache if all its weights are there; a conversion counts, too."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    repository = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    refs = [repository / "refs" / (revision or "main")]
    if revision is None:
        refs += sorted((repository / "refs" / "refs" / "pr").glob("*"))
    commits = [ref.read_text("utf-8").strip() for ref in refs if ref.is_file()] + ([revision] if revision else [])
    for pickle in (False, True)[: 1 + allow_pickle]:
        for folder in (repository / "snapshots" / commit for commit in commits):
            if folder.is_dir() and _whole(folder, pickle, select):
                return folder
    return None


def _whole(folder: Path, allow_pickle: bool, select: Select = files_to_download) -> bool:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        files = select(names, allow_pickle)
    except ModelError:
        return False
    return all(
        (folder / index).with_name(shard).is_file()
        for index in files
        if index.endswith(".index.json")
        for shard in set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
    )
