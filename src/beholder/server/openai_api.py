"""The part of OpenAI's interface that fits: ``/v1/models``, ``/v1/embeddings``, ``/v1/chat/completions``.

What a request asks for and this server does not do is refused, never passed over.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from beholder.server.faults import Fault, fault_of
from beholder.server.pictures import is_data
from beholder.server.service import Drawing, Ended, Service, Writer
from beholder.server.settings import ServerSettings

LONGEST = 20_000  # characters of a text; what the model reads is counted in tokens, after this
Text = Annotated[str, Field(max_length=LONGEST)]
Address = Annotated[str, Field(max_length=100_000_000)]
STARTED = int(time.time())

router = APIRouter(prefix="/v1")


class Strict(BaseModel):
    """A part of a request; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class ImageAddress(Strict):
    """Where a picture is: in a data address or, where the server allows it, on the web."""

    url: Address
    detail: Literal["auto", "low", "high"] = "auto"  # every model here sees pictures in one size


class TextPart(Strict):
    """Words."""

    type: Literal["text"]
    text: Text


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class EmbeddingsRequest(Strict):
    """Texts, and pictures as data addresses or as parts."""

    model: str
    input: Address | list[Address | Part]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class Message(Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(max_length=64)]
    name: str | None = None


class StreamOptions(Strict):
    """What a stream holds beside the words."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class PlainText(Strict):
    """The one form of answers here."""

    type: Literal["text"]


Stop = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(Strict):
    """A conversation about one picture."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: PlainText | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None


def service_of(request: Request) -> Service:
    """The service that the application was made with."""
    service: Service = request.app.state.service
    return service


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All models, with what each can do."""
    service = service_of(request)
    service.check_ready()
    return {"object": "list", "data": [_model(service, name) for name in _names(service)]}


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model."""
    service = service_of(request)
    service.check_ready()
    if name not in _names(service):
        raise Fault(404, "no model of this name here", code="model_not_found", param="model")
    return _model(service, name)


def _names(service: Service) -> list[str]:
    return list(dict.fromkeys([*service.encoders, *service.writers]))


def _model(service: Service, name: str) -> dict[str, Any]:
    can = (["embeddings", "classify", "similarity"] if name in service.encoders else []) + (
        ["chat.completions", "caption", "attention"] if name in service.writers else []
    )
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "beholder", "capabilities": can}


@router.post("/embeddings")
async def embeddings(request: Request, asked: EmbeddingsRequest) -> dict[str, Any]:
    """Vectors of unit length, in the order of the inputs."""
    service = service_of(request)
    encoder = service.encoder(asked.model)
    size = encoder.model.towers.embedding
    if asked.dimensions not in (None, size):
        raise Fault(400, f"the vectors of this model have {size} dimensions", code="invalid_value", param="dimensions")
    inputs = asked.input if isinstance(asked.input, list) else [asked.input]
    if not 1 <= len(inputs) <= 2048:
        raise Fault(400, "1 to 2048 inputs can be given", code="invalid_value", param="input")
    texts: dict[int, str] = {}
    pictures: dict[int, str] = {}
    for place, each in enumerate(inputs):
        if isinstance(each, ImagePart):
            pictures[place] = each.image_url.url
            continue
        text = each.text if isinstance(each, TextPart) else each
        if not isinstance(each, TextPart) and is_data(text):
            pictures[place] = text
        elif not text.strip():
            raise Fault(400, f"input {place + 1} is empty", code="invalid_value", param="input")
        elif len(text) > LONGEST:
            raise Fault(400, f"input {place + 1} is too long", code="context_length_exceeded", param="input")
        else:
            texts[place] = text
    tokens = await encoder.count(list(texts.values())) if texts else 0
    found: dict[int, Any] = {}
    if pictures:
        found |= zip(pictures, await encoder.embed_pictures(list(pictures.values())), strict=True)
    if texts:
        found |= zip(texts, await encoder.embed_texts(list(texts.values())), strict=True)
    service.metrics.tokens.labels("read").inc(tokens)
    data = []
    for place in range(len(inputs)):
        vector = found[place].astype("<f4")
        shown = base64.b64encode(vector.tobytes()).decode() if asked.encoding_format == "base64" else vector.tolist()
        data.append({"object": "embedding", "index": place, "embedding": shown})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": encoder.name, "data": data, "usage": usage}


@router.post("/chat/completions", response_model=None)
async def chat(request: Request, asked: ChatRequest) -> dict[str, Any] | StreamingResponse:
    """The next answer of a conversation about a picture."""
    service = service_of(request)
    writer = service.writer(asked.model)
    if asked.stream_options is not None and not asked.stream:
        raise Fault(400, "stream_options goes with stream: true", code="invalid_value", param="stream_options")
    picture, turns, question = conversation(asked.messages)
    pieces = _until_stopped(
        writer.talk([picture], turns, question, drawing(asked, service.settings)),
        [asked.stop] if isinstance(asked.stop, str) else asked.stop or [],
    )
    await anext(pieces)  # an empty piece, when everything is in order
    answer = _Answer(service, writer, asked)
    if asked.stream:
        return StreamingResponse(answer.stream(pieces), media_type="text/event-stream")
    return await answer.whole(pieces)


def conversation(messages: list[Message]) -> tuple[str, list[tuple[str, str]], str]:
    """The picture's address, the turns before, and the question; what the system is told stands before the first.

    Raises:
        Fault: no picture or several, an answer without a question, or no question in the end.
    """

    def wrong(reason: str) -> Fault:
        return Fault(400, reason, code="invalid_value", param="messages")

    pictures: dict[str, None] = {}
    turns: list[tuple[str, str]] = []
    said: list[str] = []
    for message in messages:
        words = [message.content] if isinstance(message.content, str) else []
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, TextPart):
                words.append(part.text)
            elif message.role == "user":
                pictures[part.image_url.url] = None
            else:
                raise wrong("pictures stand in the user's messages")
        text = "\n".join(word for word in words if word.strip())
        if message.role != "assistant":
            said += [text] if text else []
            continue
        if not said:
            raise wrong("an assistant's message answers nothing: a question stands before it")
        turns.append((" ".join(said), text))
        said = []
    if messages[-1].role != "user" or not said:
        raise wrong("the last message is the user's, with a question in words")
    if len(pictures) != 1:
        raise wrong(f"a conversation is about one picture; this one has {len(pictures)}")
    return next(iter(pictures)), turns, " ".join(said)


def drawing(asked: ChatRequest, settings: ServerSettings) -> Drawing:
    """How to choose words: the likeliest, unless a temperature above 0 or ``top_p`` asks to draw."""
    tokens = min(asked.max_completion_tokens or asked.max_tokens or 64, settings.tokens)
    if asked.temperature == 0 or (asked.temperature is None and asked.top_p is None):
        return Drawing(tokens)
    seed = secrets.randbits(63) if asked.seed is None else asked.seed % 2**63
    return Drawing(tokens, asked.top_p or 1.0, max(0.01, 1.0 if asked.temperature is None else asked.temperature), seed)


async def _until_stopped(pieces: AsyncIterator[str | Ended], stops: list[str]) -> AsyncIterator[str | Ended]:
    """The pieces up to the first of some texts. What may be the beginning of one is held back until it is not."""
    held = ""
    count = read = 0
    try:
        async for piece in pieces:
            if isinstance(piece, Ended):
                if held:
                    yield held
                yield piece
                return
            count += bool(piece)
            held += piece
            found = [held.index(stop) for stop in stops if stop in held]
            if found:
                if min(found):
                    yield held[: min(found)]
                yield Ended(True, read, count)
                return
            keep = max(
                (size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])), default=0
            )
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


class _Answer:
    """One answer in the interface's form, whole or as a stream."""

    def __init__(self, service: Service, writer: Writer, asked: ChatRequest):
        self.service = service
        self.model = writer.name
        self.number = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.stream_usage = asked.stream_options is not None and asked.stream_options.include_usage

    def usage(self, ended: Ended) -> dict[str, int]:
        self.service.metrics.tokens.labels("read").inc(ended.read)
        self.service.metrics.tokens.labels("written").inc(ended.written)
        return {
            "prompt_tokens": ended.read,
            "completion_tokens": ended.written,
            "total_tokens": ended.read + ended.written,
        }

    async def whole(self, pieces: AsyncIterator[str | Ended]) -> dict[str, Any]:
        text = ""
        ended = Ended(True, 0, 0)
        async for piece in pieces:
            if isinstance(piece, Ended):
                ended = piece
            else:
                text += piece
        return {
            "id": self.number,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text.strip(), "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop" if ended.finished else "length",
                }
            ],
            "usage": self.usage(ended),
        }

    async def stream(self, pieces: AsyncIterator[str | Ended]) -> AsyncIterator[str]:
        yield self._event({"role": "assistant", "content": ""})
        begun = False
        try:
            async for piece in pieces:
                if isinstance(piece, Ended):
                    usage = self.usage(piece)
                    yield self._event({}, "stop" if piece.finished else "length")
                    if self.stream_usage:
                        yield self._line({"choices": [], "usage": usage})
                    continue
                shown = piece if begun else piece.lstrip()
                begun = begun or bool(shown)
                if shown:
                    yield self._event({"content": shown})
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield f"data: {json.dumps(fault_of(error).body)}\n\n"
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    def _event(self, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._line({"choices": [choice], **({"usage": None} if self.stream_usage else {})})

    def _line(self, fields: dict[str, Any]) -> str:
        head = {"id": self.number, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return f"data: {json.dumps({**head, **fields}, ensure_ascii=False)}\n\n"
