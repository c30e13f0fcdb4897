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
