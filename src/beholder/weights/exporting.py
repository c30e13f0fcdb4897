"""What the exporters of all formats share: the comparison of two networks, warnings, and the files' common parts."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beholder.errors import ModelError
from beholder.models.dual_encoder import TwoTowersSettings
from beholder.pictures.transform import Preprocessing
from beholder.weights.card import model_card
from beholder.weights.loaded import LoadedDualEncoder

WEIGHTS, CARD = "model.safetensors", "README.md"
OTHER_KIND = "altogether:"

Writer = Callable[[Path], None]  # writes a checkpoint's files into an empty folder


class ExportWarning(UserWarning):
    """The export succeeds, but the model behaves slightly differently in the other software."""


class DoesNotFit(ModelError):
    """A format has no such network.

    Args:
        differences: between the network and the closest that the format has.
        closest: the name of that one.
    """

    def __init__(self, differences: Sequence[str], closest: str = ""):
        super().__init__("; ".join(differences))
        self.differences = differences
        self.closest = closest

    @property
    def distance(self) -> tuple[bool, int, str]:
        """Sorts from close to far: networks of another kind are the farthest."""
        return self.differences[0].startswith(OTHER_KIND), len(self.differences), self.closest


def fixed_preprocessing(loaded: LoadedDualEncoder) -> Preprocessing:
    """Return the preprocessing of a model whose pictures have one size, which is what other software knows.

    Raises:
        ModelError: its pictures keep their own shape.
    """
    if isinstance(loaded.preprocessing, Preprocessing):
        return loaded.preprocessing
    raise ModelError(
        f"{loaded.name or 'this model'}: its pictures keep their own shape (NaFlex), which can't be exported; "
        "save_pretrained keeps it"
    )


def differences(ours: TwoTowersSettings, theirs: TwoTowersSettings) -> list[str]:
    """Return the settings, in words, by which two networks would compute different embeddings."""
    flat = _flat(ours.to_dict()), _flat(theirs.to_dict())
    for tower in ("image", "text"):
        kinds = [settings.get(f"{tower}.kind") for settings in flat]
        if kinds[0] != kinds[1]:
            return [f"{OTHER_KIND} its {tower} tower is of the kind {kinds[0]} and not {kinds[1]}"]
    for settings in flat:
        if settings.get("image.pooling") == "class":  # normalizing all tokens or only the pooled one is the same
            settings["image.final_norm"] = "pooled"
        if settings.get("text.pooling") != "end":
            settings.pop("text.end_id", None)
        settings.pop("image.antialias", None)  # matters only for pictures of another size
    names = sorted(flat[0].keys() | flat[1].keys())
    return [
        f"{name} is {flat[0].get(name)} and not {flat[1].get(name)}"
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def warn_of_preprocessing(loaded: LoadedDualEncoder, there: Preprocessing) -> None:
    """Warn where the exported config prepares pictures differently."""
    here = asdict(loaded.preprocessing)
    different = [f"{name} {here[name]} becomes {value}" for name, value in asdict(there).items() if here[name] != value]
    if different:
        warn(loaded.name, f"pictures are prepared a little differently there: {', '.join(different)}")


def warn_of_cleaning(loaded: LoadedDualEncoder, lost: str) -> None:
    """Warn of a cleaning step of texts that the exported tokenizer lacks, if there is one."""
    if lost:
        warn(loaded.name, f"texts are not {lost} there, as they are here before they are cut into tokens")


def warn(name: str, sentence: str) -> None:
    """Warn that an export of the model ``name`` loses something."""
    warnings.warn(f"{name or 'this model'}: {sentence}", ExportWarning, stacklevel=5)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a config, readable by people."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def exported_card(loaded: LoadedDualEncoder, example: str) -> str:
    """Return the model card with ``example``, Python code for the other software."""
    card = model_card(loaded)
    return card[: card.index("```python")] + f"```python\n{example}\n```\n"


def transformers_example(architecture: str) -> str:
    """Return the code that opens an exported model in transformers."""
    return (
        f"from transformers import AutoImageProcessor, AutoTokenizer, {architecture}\n\n"
        f'model = {architecture}.from_pretrained("this folder")\n'
        'processor = AutoImageProcessor.from_pretrained("this folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("this folder")'
    )
