"""What a reasoning model thinks before its answer, between tags, is no part of the answer."""

import re

OPEN, CLOSE = "<think>", "</think>"
_THOUGHT = re.compile(f"{OPEN}.*?(?:{CLOSE}|$)", re.DOTALL)


def starts_thinking(prompt: str) -> bool:
    """Return whether a prompt ends within a thought, which the model then continues."""
    return prompt.rfind(OPEN) > prompt.rfind(CLOSE)


def without_thinking(text: str, inside: bool = False) -> str:
    """Return a text without the thoughts in it; with ``inside``, it begins within one."""
    if inside:
        text = text.partition(CLOSE)[2]
    return _THOUGHT.sub("", text)


def visible(text: str, inside: bool = False) -> str:
    """Return what may be shown of a text that is still being generated: nothing that may yet become a tag."""
    shown = without_thinking(text, inside)
    for length in range(len(OPEN) - 1, 0, -1):
        if shown.endswith(OPEN[:length]):
            return shown[:-length]
    return shown
