"""A dual encoder from another project's folder, before and after its tokenizer is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beholder.models.dual_encoder import TwoTowers
from beholder.models.text_tower import TextTransformerSettings
from beholder.pictures.preprocess import AnyPreprocessing
from beholder.text.tokenizer_files import TokenizerKind, tokenizer_from_folder
from beholder.weights.loaded import LoadedDualEncoder


@dataclass(frozen=True)
class ForeignDualEncoder:
    """The network of a folder, how it takes its pictures, and the family of its tokenizer."""

    network: TwoTowers
    preprocessing: AnyPreprocessing
    tokenizer_kind: TokenizerKind


def load_dual_encoder(
    read: Callable[[Path, bool], ForeignDualEncoder], folder: Path, name: str, allow_pickle: bool
) -> LoadedDualEncoder:
    """Load a folder's network by ``read``, and its tokenizer.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape.
        ModelError: a file is missing or broken.
    """
    foreign = read(folder, allow_pickle)
    text = foreign.network.settings.text
    full_length = isinstance(text, TextTransformerSettings) and text.full_length
    tokenizer = tokenizer_from_folder(folder, foreign.tokenizer_kind, text.context_length, full_length)
    return LoadedDualEncoder(foreign.network, foreign.preprocessing, tokenizer, name=name)
