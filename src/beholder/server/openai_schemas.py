"""Request bodies of the OpenAI-compatible API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from beholder.server.schemas import ImageURL, StrictModel, Text


class OpenAIModel(StrictModel):
    """A part of a request in which null means absent, as clients of the OpenAI API send it."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class ImageReference(OpenAIModel):
    """The URL of a picture: a data URL or, where the server allows it, an http(s) URL."""

    url: ImageURL
    detail: Literal["auto", "low", "high"] = "auto"  # every model here has a single input size


class TextPart(OpenAIModel):
    """Text content."""

    type: Literal["text"]
    text: Text


class ImagePart(OpenAIModel):
    """Image content."""

    type: Literal["image_url"]
    image_url: ImageReference


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class EmbeddingsRequest(OpenAIModel):
    """Texts, and pictures as data URLs or as content parts."""

    model: str
    input: ImageURL | list[ImageURL | Part]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_token_ids(cls, data: Any) -> Any:
        inputs = data.get("input") if isinstance(data, dict) else None
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], int | list):
            raise PydanticCustomError(
                "token_ids", "input: token ids are not supported, since tokenizers differ between models; send text"
            )
        return data


class Message(OpenAIModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(max_length=64)]
    name: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


class StreamOptions(OpenAIModel):
    """What a stream contains besides text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(OpenAIModel):
    """The only supported response format."""

    type: Literal["text"]


StopSequence = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(OpenAIModel):
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
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    top_logprobs: Literal[0] | None = None
