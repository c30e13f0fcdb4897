"""Checks of what a caller passes, before anything is computed."""

from collections.abc import Iterable

from beholder.errors import InvalidSetting


def text_list(texts: Iterable[str] | str, what: str = "texts") -> list[str]:
    """Return the texts as a list; a single text is a list of one.

    Args:
        texts: texts, or one text.
        what: what messages call them.

    Raises:
        InvalidSetting: they are not strings.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable):
        raise InvalidSetting(f"{what} must be a str or a list of them, not {type(texts).__name__}")
    found = list(texts)
    for number, text in enumerate(found, start=1):
        if not isinstance(text, str):
            raise InvalidSetting(f"{what}: number {number} must be a str, not {type(text).__name__}")
    return found


def checked_batch_size(batch_size: int) -> int:
    """Return the batch size.

    Raises:
        InvalidSetting: it is not a positive integer.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidSetting(f"batch_size must be an integer of at least 1, not {batch_size!r}")
    return batch_size
