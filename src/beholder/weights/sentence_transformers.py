"""sentence-transformers' CLIP layout: ``modules.json`` points to the folder of a Hugging Face CLIP."""

import json
from pathlib import Path

from beholder.errors import ModelError

LIST = "modules.json"
# Modules that may follow: they don't change an embedding of unit length.
NO_EFFECT = ("Normalize",)


def clip_folder(folder: Path) -> Path:
    """Return the folder of the checkpoint itself.

    Raises:
        ModelError: the modules are not one CLIP.
    """
    path = folder / LIST
    try:
        modules = [
            (module["type"].rpartition(".")[2], module["path"]) for module in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a list of modules ({error})") from None
    if not modules:
        raise ModelError(f"{path}: lists no module")
    others = [kind for kind, _ in modules[1:] if kind not in NO_EFFECT]
    if modules[0][0] not in ("CLIPModel", "Transformer") or others:
        raise ModelError(f"{path}: {', '.join(kind for kind, _ in modules)} is not a CLIP by itself")
    inner = (folder / modules[0][1]).resolve()
    if not inner.is_relative_to(folder.resolve()) or not inner.is_dir():
        raise ModelError(f"{path}: points to {modules[0][1]}, which is not a folder beside it")
    return inner
