"""The OpenAI API's ``/v1/images/generations`` and ``/v1/images/variations``, for a server with an image generator.

What this server does not support is refused, never ignored.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from beholder.server.dependencies import get_service
from beholder.server.http_errors import HTTPError, to_http_error
from beholder.server.openai_schemas import OpenAIModel
from beholder.server.schemas import ImageURL
from beholder.server.served_generator import DrawingEvent, DrawingParams, Drawn, Preview, ServedGenerator
from beholder.server.settings import ServerSettings

if TYPE_CHECKING:
    from PIL.Image import Image

router = APIRouter(prefix="/v1/images")

Prompt = Annotated[str, Field(min_length=1, max_length=2000)]
Size = Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$")]
Count = Annotated[int, Field(ge=1, le=10)]
Candidates = Annotated[int, Field(ge=1, le=16)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # exact in JavaScript
Steps = Annotated[int, Field(ge=1, le=200)]
Guidance = Annotated[float, Field(ge=0, le=100)]
OutputFormat = Literal["png", "jpeg", "webp"]
MAX_SIDE = 2048
USUAL_STEPS = 25  # of models, for the limit


class ImageGenerationRequest(OpenAIModel):
    """A prompt, or pictures to resemble.

    ``like``, ``minus``, ``seed``, ``steps``, ``guidance`` and ``candidates`` are those of ``beholder generate``.
    """

    prompt: Prompt | None = None
    model: str | None = None
    n: Count = 1
    size: Size = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    quality: Literal["auto"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=50)] | None = None
    like: Annotated[list[ImageURL], Field(max_length=16)] = []  # noqa: RUF012 (pydantic copies it)
    minus: Annotated[list[Prompt], Field(max_length=16)] = []  # noqa: RUF012
    seed: Seed | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    candidates: Candidates = 1


class ImageVariationForm(BaseModel):
    """A picture; ``seed``, ``steps``, ``guidance`` and ``candidates`` are those of ``beholder generate``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image: UploadFile
    model: str | None = None
    n: Count = 1
    size: Size = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    candidates: Candidates = 1


@router.post("/generations", response_model=None)
async def generations(request: Request, body: ImageGenerationRequest) -> dict[str, Any] | StreamingResponse:
    """Pictures of a prompt, of ``like``, or of both; ``seed``, ``cosine`` and ``match`` are given beside each.

    With ``stream``, server-sent events: ``partial_images`` of each picture while it is drawn, then the picture.
    """
    service = get_service(request)
    generator = service.generator(body.model)
    if body.prompt is None and not body.like:
        raise HTTPError(400, "a prompt, or pictures in like, must be given", code="missing", param="prompt")
    if body.partial_images is not None and not body.stream:
        raise HTTPError(400, "partial_images requires stream: true", code="invalid_value", param="partial_images")
    if body.output_compression is not None and body.output_format == "png":
        raise HTTPError(
            400, "output_compression requires the format jpeg or webp", code="invalid_value", param="output_compression"
        )
    params = _params(body, service.settings, body.prompt, tuple(body.minus), body.partial_images or 0)
    answer = ImageAnswer(generator, body.output_format, body.output_compression)
    events = await started(generator.draw(params, body.like))
    if body.stream:
        return StreamingResponse(answer.stream(events), media_type="text/event-stream")
    return await answer.whole(events)


@router.post("/variations")
async def variations(
    request: Request, body: Annotated[ImageVariationForm, Form(media_type="multipart/form-data")]
) -> dict[str, Any]:
    """Pictures that resemble a picture; ``seed`` and ``cosine`` are given beside each."""
    service = get_service(request)
    generator = service.generator(body.model)
    events = await started(generator.draw(_params(body, service.settings), [await body.image.read()]))
    return await ImageAnswer(generator, "png").whole(events)


def _params(
    body: ImageGenerationRequest | ImageVariationForm,
    settings: ServerSettings,
    text: str | None = None,
    minus: tuple[str, ...] = (),
    previews: int = 0,
) -> DrawingParams:
    from beholder.tasks.generate import random_seed

    steps = body.n * body.candidates * (body.steps or USUAL_STEPS)
    if steps > settings.drawing_steps:
        message = f"n times candidates times steps is {steps}; the limit is {settings.drawing_steps}"
        raise HTTPError(400, message, code="invalid_value", param="n")
    size = None
    if body.size != "auto":
        width, height = (int(side) for side in body.size.split("x"))
        if max(width, height) > MAX_SIDE:
            raise HTTPError(400, f"size: sides may have up to {MAX_SIDE} pixels", code="invalid_value", param="size")
        size = width, height
    seed = random_seed() if body.seed is None else body.seed
    return DrawingParams(text, minus, body.n, body.candidates, seed, body.steps, body.guidance, size, previews)


async def started(events: AsyncIterator[DrawingEvent]) -> AsyncIterator[DrawingEvent]:
    """Wait until a request turns out to be valid, and return its other events; raises what `ServedGenerator.draw` does.

    So that an invalid one gets a status of its own, the response starts after this.
    """
    await anext(events)
    return events


class ImageAnswer:
    """The pictures of one request as an object, or as a stream of server-sent events.

    Args:
        generator: Draws them.
        output_format: Of the files.
        quality: Of JPEG and WebP, 0 to 100.
    """

    def __init__(self, generator: ServedGenerator, output_format: OutputFormat, quality: int | None = None):
        self.generator = generator
        self.output_format = output_format
        self.quality = quality
        self.created = int(time.time())

    async def whole(self, events: AsyncIterator[DrawingEvent]) -> dict[str, Any]:
        """Return the object that holds all pictures."""
        data: list[dict[str, Any]] = []
        size = ""
        try:
            async for event in events:
                if isinstance(event, Drawn):
                    data.append({"b64_json": await self._encode(event.generated.picture), **_facts(event)})
                    size = _size(event.generated.picture)
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        return {
            "created": self.created,
            "background": "opaque",
            "output_format": self.output_format,
            "size": size,
            "data": data,
        }

    async def stream(self, events: AsyncIterator[DrawingEvent]) -> AsyncIterator[str]:
        """Yield server-sent events; an error after the first becomes an event, too."""
        try:
            async for event in events:
                if isinstance(event, Preview):
                    numbers = {"partial_image_index": event.number, "step": event.step, "steps": event.steps}
                    yield await self._event("partial_image", event.picture, {"index": event.index, **numbers})
                elif isinstance(event, Drawn):
                    picture = event.generated.picture
                    yield await self._event("completed", picture, {"index": event.index, **_facts(event)})
        except Exception as error:
            yield f"event: error\ndata: {json.dumps(to_http_error(error).body)}\n\n"
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def _event(self, kind: str, picture: Image, fields: dict[str, Any]) -> str:
        name = f"image_generation.{kind}"
        data = {
            "type": name,
            "b64_json": await self._encode(picture),
            "created_at": self.created,
            "size": _size(picture),
            "quality": "auto",
            "background": "opaque",
            "output_format": self.output_format,
            **fields,
        }
        return f"event: {name}\ndata: {json.dumps(data)}\n\n"

    async def _encode(self, picture: Image) -> str:
        return await self.generator.reader.run(encode_picture, picture, self.output_format, self.quality)


def encode_picture(picture: Image, output_format: OutputFormat, quality: int | None) -> str:
    """Return a file of a picture, in base64."""
    file = BytesIO()
    picture.save(file, output_format, **({} if quality is None else {"quality": quality}))
    return base64.b64encode(file.getvalue()).decode()


def _facts(event: Drawn) -> dict[str, Any]:
    generated = event.generated
    return {"seed": generated.seed, "cosine": generated.cosine, "match": generated.match}


def _size(picture: Image) -> str:
    width, height = picture.size
    return f"{width}x{height}"
