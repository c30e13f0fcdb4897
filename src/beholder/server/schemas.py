"""Types that the request bodies of several routes share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT_LENGTH = 20_000  # characters, checked before tokens are counted
Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH)]
ImageURL = Annotated[str, Field(max_length=100_000_000)]


class StrictModel(BaseModel):
    """A request body, or a part of one, that rejects unknown fields and does not convert types."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def parse_digits(text: str) -> int:
    """Parse a number that consists of ASCII digits alone; `int` also takes signs, spaces and underscores."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a number in digits is expected")
    return int(text[:30])
