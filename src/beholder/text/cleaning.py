"""Text cleaning before tokenization, where the rules in the vocabulary's own file do not include it.

A tokenizer names the steps that it was trained with, in order; its settings file holds the names.
"""

import html
from collections.abc import Callable
from string import punctuation
from typing import Literal

Step = Literal["repair", "lower", "no_punctuation", "single_spaces"]

# SigLIP (arXiv:2303.15343) removes capitals and ASCII punctuation: "canonicalize" in its evaluation code.
SIGLIP: tuple[Step, ...] = ("lower", "no_punctuation", "single_spaces")
# SigLIP 2 (arXiv:2502.14786, section 2) uses Gemma's vocabulary on lowercase text. Hugging Face's tokenizer lowercases
# letter by letter; like the training code, this one writes a Greek sigma at the end of a word as ς.
SIGLIP2: tuple[Step, ...] = ("lower",)
# OpenAI's and open_clip's own tokenizer. Hugging Face's CLIP tokenizer leaves the repair out.
OPEN_CLIP: tuple[Step, ...] = ("repair", "single_spaces", "lower")
# open_clip's for text towers of transformers, whose vocabularies know capitals.
OPEN_CLIP_CASED: tuple[Step, ...] = ("repair", "single_spaces")


def clean(text: str, steps: tuple[Step, ...]) -> str:
    """Apply the steps in order."""
    for step in steps:
        text = STEPS[step](text)
    return text


def _repair(text: str) -> str:
    """Undo wrong decodings and curly quotes, and HTML entities twice (``&amp;amp;``)."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _no_punctuation(text: str) -> str:
    return text.translate(_REMOVE_PUNCTUATION)


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


_REMOVE_PUNCTUATION = str.maketrans("", "", punctuation)
STEPS: dict[Step, Callable[[str], str]] = {
    "repair": _repair,
    "lower": str.lower,
    "no_punctuation": _no_punctuation,
    "single_spaces": _single_spaces,
}
