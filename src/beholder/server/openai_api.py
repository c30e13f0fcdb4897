"""The supported part of the OpenAI API: ``/v1/models``, ``/v1/embeddings``, ``/v1/chat/completions``.

What this server does not support is refused, never ignored.
"""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse

from beholder.server.chat_completions import ChatCompletion, parse_messages, sampling_params, truncate_at_stop
from beholder.server.dependencies import get_service
from beholder.server.http_errors import HTTPError
from beholder.server.openai_schemas import ChatRequest, EmbeddingsRequest, ImagePart, TextPart
from beholder.server.picture_loading import is_data_url
from beholder.server.schemas import MAX_TEXT_LENGTH
from beholder.server.service import Service

MAX_INPUTS = 2048
STARTED = int(time.time())

router = APIRouter(prefix="/v1")


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All models, with what each can do."""
    service = get_service(request)
    service.check_ready()
    return {"object": "list", "data": [_model(service, name) for name in service.model_names]}


@router.get("/models/{name:path}")
async def model(request: Request, name: Annotated[str, Path(max_length=500)]) -> dict[str, Any]:
    """One model."""
    service = get_service(request)
    service.check_ready()
    if name not in service.model_names:
        raise HTTPError(404, "there is no model with this name", code="model_not_found", param="model")
    return _model(service, name)


def _model(service: Service, name: str) -> dict[str, Any]:
    capabilities = ["embeddings", "classify", "similarity"] if name in service.encoders else []
    capabilities += ["chat.completions", "caption", "attention"] if name in service.vlms else []
    capabilities += ["images.generations", "images.variations"] if name in service.generators else []
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "beholder", "capabilities": capabilities}


@router.post("/embeddings")
async def embeddings(request: Request, body: EmbeddingsRequest) -> dict[str, Any]:
    """Unit-length embeddings, in the order of the inputs."""
    service = get_service(request)
    encoder = service.encoder(body.model)
    dimensions = encoder.model.towers.embedding
    if body.dimensions not in (None, dimensions):
        raise HTTPError(
            400, f"the embeddings of this model have {dimensions} dimensions", code="invalid_value", param="dimensions"
        )
    inputs = body.input if isinstance(body.input, list) else [body.input]
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise HTTPError(400, f"between 1 and {MAX_INPUTS} inputs are allowed", code="invalid_value", param="input")
    texts: dict[int, str] = {}
    urls: dict[int, str] = {}
    for index, each in enumerate(inputs):
        if isinstance(each, ImagePart):
            urls[index] = each.image_url.url
            continue
        text = each.text if isinstance(each, TextPart) else each
        if not isinstance(each, TextPart) and is_data_url(text):
            urls[index] = text
        elif not text.strip():
            raise HTTPError(400, f"input {index + 1} is empty", code="invalid_value", param="input")
        elif len(text) > MAX_TEXT_LENGTH:
            raise HTTPError(400, f"input {index + 1} is too long", code="context_length_exceeded", param="input")
        else:
            texts[index] = text
    tokens = await encoder.count_tokens(list(texts.values())) if texts else 0
    vectors: dict[int, Any] = {}
    if urls:
        vectors |= zip(urls, await encoder.embed_images(list(urls.values())), strict=True)
    if texts:
        vectors |= zip(texts, await encoder.embed_texts(list(texts.values())), strict=True)
    service.metrics.tokens.labels("read").inc(tokens)
    data = []
    for index in range(len(inputs)):
        vector = vectors[index].astype("<f4")
        encoded = base64.b64encode(vector.tobytes()).decode() if body.encoding_format == "base64" else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": encoder.name, "data": data, "usage": usage}


@router.post("/chat/completions", response_model=None)
async def chat(request: Request, body: ChatRequest) -> dict[str, Any] | StreamingResponse:
    """The next answer of a conversation about a picture."""
    service = get_service(request)
    vlm = service.vlm(body.model)
    if body.stream_options is not None and not body.stream:
        raise HTTPError(400, "stream_options requires stream: true", code="invalid_value", param="stream_options")
    url, turns, question = parse_messages(body.messages)
    pieces = truncate_at_stop(
        vlm.chat([url], turns, question, sampling_params(body, service.settings)),
        [body.stop] if isinstance(body.stop, str) else body.stop or [],
    )
    await anext(pieces)  # an empty piece: the request is valid
    completion = ChatCompletion(service.metrics, vlm.name, body)
    if body.stream:
        return StreamingResponse(completion.stream(pieces), media_type="text/event-stream")
    return await completion.whole(pieces)
