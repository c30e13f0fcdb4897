"""Tokens in a form that a person can read."""

from collections.abc import Sequence

from tokenizers.models import BPE, Model, WordPiece

from beholder.text.byte_characters import CHARACTER_TO_BYTE

CONTINUATION = "·"  # this token continues the word of the one before
SPACE = "␣"  # a space that is a token of its own, or inside one
UNKNOWN = "<unknown>"


def display_tokens(tokens: Sequence[str], model: Model) -> list[str]:
    r"""Return vocabulary tokens without the model's markers: ``["a</w>", "dog", "go</w>"]`` → ``["a", "dog", "·go"]``.

    A byte that is part of a character only is shown as ``\xf0``.
    """
    shown: list[str] = []
    inside_a_word = False
    for token in tokens:
        unknown = token == getattr(model, "unk_token", "<unk>")
        if isinstance(model, WordPiece):
            prefix = model.continuing_subword_prefix
            continues, text = token.startswith(prefix), token.removeprefix(prefix)
        elif isinstance(model, BPE) and model.end_of_word_suffix:
            continues, text = inside_a_word, _decode_bytes(token.removesuffix(model.end_of_word_suffix))
            inside_a_word = not unknown and not token.endswith(model.end_of_word_suffix)
        else:  # SentencePiece marks where a word begins
            continues = bool(shown) and not token.startswith("▁")
            text = token.removeprefix("▁").replace("▁", SPACE) or SPACE
        shown.append(UNKNOWN if unknown else CONTINUATION * continues + text)
    return shown


def _decode_bytes(token: str) -> str:
    if not set(token) <= CHARACTER_TO_BYTE.keys():
        return token
    return bytes(CHARACTER_TO_BYTE[character] for character in token).decode(errors="backslashreplace")
