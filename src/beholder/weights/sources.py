"""Finds the folder of a model: a local one, the default model, or a repository of the Hugging Face hub.

huggingface_hub does the downloading, so HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT and the usual
proxy variables apply. No code is ever downloaded, and all files are of one revision.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from beholder.errors import DownloadFailed, ModelError, ModelNotFound
from beholder.weights.tensors import weight_files

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SMALL_FILES = (".json", ".txt", ".txt.gz", ".model", "calibration.safetensors")


def find_model(name: str | Path, *, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """Return the folder of a model, downloading it if needed.

    Args:
        name: a folder, ``"mini"``, or a hub id such as ``"openai/clip-vit-base-patch32"``.
        revision: for a hub id, a branch, tag or commit; the main branch by default.
        allow_pickle: for a hub id without safetensors, download pickles.

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
    if not isinstance(name, str) or not HUB_ID.fullmatch(name):
        raise ModelNotFound(f"{name}: no such folder; a model is a folder, mini, or a hub id such as owner/name")
    return _from_hub(name, revision, allow_pickle)


def files_to_download(names: Sequence[str], allow_pickle: bool = False) -> list[str]:
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
            "it has only pickled weights, which can run code when they are opened: pass allow_pickle=True if you "
            "trust where they come from"
            if pickled
            else "it has no weights in a file that is known"
        )
    return sorted({*needed, *weights})


def _from_hub(name: str, revision: str | None, allow_pickle: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        listed = [file.rfilename for file in HfApi().model_info(name, revision=revision).siblings or ()]
        try:
            files = files_to_download(listed, allow_pickle)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from None
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
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
    except (
        Exception
    ) as error:  # offline, timeouts, broken answers: the library below raises its HTTP client's own errors
        cached = _cached(name, revision)
        if cached is None:
            raise DownloadFailed(f"{name}: not in the cache, and the hub could not be reached ({error})") from error
        return cached


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    from beholder.weights.formats import MARKERS

    for marker in MARKERS:
        path = try_to_load_from_cache(name, marker, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None
