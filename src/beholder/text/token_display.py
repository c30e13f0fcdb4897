"""Tokens as a person can read them."""

from collections.abc import Sequence

from tokenizers.models import BPE, Model, WordPiece

from beholder.text.byte_characters import BYTE_OF

GLUE = "·"  # this piece goes on with the word of the one before
SPACE = "␣"  # a space that is a token of its own, or inside one
UNKNOWN = "<unknown>"


def display_tokens(pieces: Sequence[str], model: Model) -> list[str]:
    """Pieces of a vocabulary without its marks: ``["a</w>", "dog", "go</w>"]`` becomes ``["a", "dog", "·go"]``.

    A byte that is no whole character stands as ``\\xf0``.
    """
    shown: list[str] = []
    inside_a_word = False
    for piece in pieces:
        unknown = piece == getattr(model, "unk_token", "<unk>")
        if isinstance(model, WordPiece):
            prefix = model.continuing_subword_prefix
            goes_on, text = piece.startswith(prefix), piece.removeprefix(prefix)
        elif isinstance(model, BPE) and model.end_of_word_suffix:
            goes_on, text = inside_a_word, _from_bytes(piece.removesuffix(model.end_of_word_suffix))
            inside_a_word = not unknown and not piece.endswith(model.end_of_word_suffix)
        else:  # SentencePiece marks where a word begins
            goes_on = bool(shown) and not piece.startswith("▁")
            text = piece.removeprefix("▁").replace("▁", SPACE) or SPACE
        shown.append(UNKNOWN if unknown else GLUE * goes_on + text)
    return shown


def _from_bytes(piece: str) -> str:
    if not set(piece) <= BYTE_OF.keys():
        return piece
    return bytes(BYTE_OF[character] for character in piece).decode(errors="backslashreplace")
