"""Request bodies of the OpenAI-compatible API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from beholder.server.schemas import ImageURL, StrictModel, Text


class ImageReference(StrictModel):
    """The URL of a picture: a data URL or, where the server allows it, an http(s) URL."""

    url: ImageURL
    detail: Literal["auto", "low", "high"] = "auto"  # every model here has a single input size


class TextPart(StrictModel):
    """Text content."""

    type: Literal["text"]
    text: Text


class ImagePart(StrictModel):
    """Image content."""

    type: Literal["image_url"]
    image_url: ImageReference


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class EmbeddingsRequest(StrictModel):
    """Texts, and pictures as data URLs or as content parts."""

    model: str
    input: ImageURL | list[ImageURL | Part]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class Message(StrictModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(max_length=64)]
    name: str | None = None


class StreamOptions(StrictModel):
    """What a stream contains besides text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(StrictModel):
    """The only supported response format."""

    type: Literal["text"]


StopSequence = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(StrictModel):
    """A conversation about one picture."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopSequence | Annotated[list[StopSequence], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
