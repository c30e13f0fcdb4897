"""XLM-RoBERTa (arXiv:1911.02116) as a text tower of open_clip: a BERT whose positions start after the padding's id.

open_clip's files name the model and hold its tensors, but not its config, so its sizes follow from the tensors.
"""

from collections.abc import Mapping

from torch import Tensor

from beholder.errors import ModelError
from beholder.models.bert import BertSettings
from beholder.models.layers import HeadSettings
from beholder.weights import bert
from beholder.weights.table import Row

NAME = "xlm-roberta"
FIRST_POSITION = 2  # the rows before it belong to the padding, whose id is 1
HEAD_WIDTH = 64  # in all published sizes
NORM_EPS = 1e-5

TRANSFORMER = "text.transformer."
_WORDS = f"{TRANSFORMER}embeddings.word_embeddings.weight"
_POSITIONS = f"{TRANSFORMER}embeddings.position_embeddings.weight"
_TYPES = f"{TRANSFORMER}embeddings.token_type_embeddings.weight"
_UP = ".intermediate.dense.weight"  # of a layer
_PROJECTION = "text.proj."


def settings(tensors: Mapping[str, Tensor], context_length: int) -> BertSettings:
    """Return the settings of the tower that open_clip's tensors belong to.

    Raises:
        ModelError: an embedding table is missing.
    """
    missing = [name for name in (_WORDS, _POSITIONS, _TYPES) if name not in tensors]
    if missing:
        raise ModelError(f"open_clip: {', '.join(missing)} is missing")
    vocabulary, width = tensors[_WORDS].shape
    up = [tensor for name, tensor in tensors.items() if name.startswith(TRANSFORMER) and name.endswith(_UP)]
    return BertSettings(
        vocabulary=vocabulary,
        context_length=min(context_length, len(tensors[_POSITIONS]) - FIRST_POSITION),
        width=width,
        layers=len(up),
        heads=width // HEAD_WIDTH,
        mlp_width=len(up[0]) if up else 4 * width,
        norm_eps=NORM_EPS,
        pooling="mean",
        token_types=len(tensors[_TYPES]),
    )


def head_settings(tensors: Mapping[str, Tensor]) -> HeadSettings:
    """Return the settings of the projection into the shared space."""
    hidden = tensors.get(f"{_PROJECTION}0.weight")
    if hidden is not None:
        return HeadSettings("two_layers", hidden=len(hidden))
    return HeadSettings("linear" if f"{_PROJECTION}weight" in tensors else "none")


def without_padding_positions(tensors: Mapping[str, Tensor], context_length: int) -> dict[str, Tensor]:
    """Return the tensors with the position embeddings of a text's tokens alone."""
    return {**tensors, _POSITIONS: tensors[_POSITIONS][FIRST_POSITION : FIRST_POSITION + context_length]}


def rows() -> tuple[Row, ...]:
    """Return the table of names."""
    return (
        *bert.rows("text.", TRANSFORMER),
        Row("text_head.linear.weight", f"{_PROJECTION}weight"),
        Row("text_head.up.weight", f"{_PROJECTION}0.weight"),
        Row("text_head.down.weight", f"{_PROJECTION}2.weight"),
    )
