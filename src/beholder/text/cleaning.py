"""What is done to a sentence before its vocabulary is looked up, where the vocabulary's own rules do not do it.

A tokenizer names the steps that it was trained with, in order; its settings file keeps the names.
"""

import html
from collections.abc import Callable
from string import punctuation
from typing import Literal

Step = Literal["repair", "lower", "no_punctuation", "single_spaces"]

# SigLIP (arXiv:2303.15343) keeps neither capitals nor ASCII punctuation: "canonicalize" in its evaluation code.
SIGLIP: tuple[Step, ...] = ("lower", "no_punctuation", "single_spaces")
# SigLIP 2 (arXiv:2502.14786, section 2) took Gemma's vocabulary and lower-cases what goes in. Hugging Face's tokenizer
# lowers letter by letter; this one knows, like the training code, that a Greek sigma ends a word as ς.
SIGLIP2: tuple[Step, ...] = ("lower",)
# OpenAI's and open_clip's own tokenizer. Hugging Face's CLIP tokenizer leaves the repair out.
OPEN_CLIP: tuple[Step, ...] = ("repair", "single_spaces", "lower")


def clean(text: str, steps: tuple[Step, ...]) -> str:
    """The sentence after the steps, in order."""
    for step in steps:
        text = STEPS[step](text)
    return text


def _repair(text: str) -> str:
    """Undoes wrong decodings and curly quotes, and HTML's names of characters, twice (``&amp;amp;``)."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _no_punctuation(text: str) -> str:
    return text.translate(_WITHOUT)


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


_WITHOUT = str.maketrans("", "", punctuation)
STEPS: dict[Step, Callable[[str], str]] = {
    "repair": _repair,
    "lower": str.lower,
    "no_punctuation": _no_punctuation,
    "single_spaces": _single_spaces,
}
