"""From the messages of a chat request to a conversation, and from generated text to chat completion objects."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from beholder.server.http_errors import HTTPError, to_http_error
from beholder.server.metrics import Metrics
from beholder.server.openai_schemas import ChatRequest, Message, TextPart
from beholder.server.served_models import SamplingParams, StreamEnd
from beholder.server.settings import ServerSettings

DEFAULT_MAX_TOKENS = 64
MIN_TEMPERATURE = 0.01


def parse_messages(messages: list[Message]) -> tuple[str, list[tuple[str, str]], str]:
    """Return the picture's URL, the earlier turns, and the question. System messages become part of the next question.

    Raises:
        HTTPError: There is not exactly one picture, an answer lacks a question, or the last message is no question.
    """

    def invalid(reason: str) -> HTTPError:
        return HTTPError(400, reason, code="invalid_value", param="messages")

    urls: dict[str, None] = {}
    turns: list[tuple[str, str]] = []
    question: list[str] = []
    for message in messages:
        texts = [message.content] if isinstance(message.content, str) else []
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, TextPart):
                texts.append(part.text)
            elif message.role == "user":
                urls[part.image_url.url] = None
            else:
                raise invalid("only user messages may contain pictures")
        text = "\n".join(each for each in texts if each.strip())
        if message.role != "assistant":
            question += [text] if text else []
            continue
        if not question:
            raise invalid("an assistant message must follow a user message with text")
        turns.append((" ".join(question), text))
        question = []
    if messages[-1].role != "user" or not question:
        raise invalid("the last message must be a user message with text")
    if len(urls) != 1:
        raise invalid(f"a conversation is about one picture; this one contains {len(urls)}")
    return next(iter(urls)), turns, " ".join(question)


def sampling_params(request: ChatRequest, settings: ServerSettings) -> SamplingParams:
    """Return greedy decoding unless a temperature above 0 or ``top_p`` asks for sampling."""
    max_tokens = min(request.max_completion_tokens or request.max_tokens or DEFAULT_MAX_TOKENS, settings.tokens)
    if request.temperature == 0 or (request.temperature is None and request.top_p is None):
        return SamplingParams(max_tokens)
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    temperature = max(MIN_TEMPERATURE, 1.0 if request.temperature is None else request.temperature)
    return SamplingParams(max_tokens, request.top_p or 1.0, temperature, seed)


async def truncate_at_stop(
    pieces: AsyncIterator[str | StreamEnd], stop_sequences: list[str]
) -> AsyncIterator[str | StreamEnd]:
    """Yield pieces up to the first stop sequence. Text that may be the start of one is withheld until it is not."""
    withheld = ""
    tokens = prompt_tokens = 0
    try:
        async for piece in pieces:
            if isinstance(piece, StreamEnd):
                if withheld:
                    yield withheld
                yield piece
                return
            tokens += bool(piece)
            withheld += piece
            positions = [withheld.index(stop) for stop in stop_sequences if stop in withheld]
            if positions:
                if min(positions):
                    yield withheld[: min(positions)]
                yield StreamEnd(True, prompt_tokens, tokens)
                return
            keep = max(
                (
                    length
                    for stop in stop_sequences
                    for length in range(1, len(stop))
                    if withheld.endswith(stop[:length])
                ),
                default=0,
            )
            yield withheld[: len(withheld) - keep]
            withheld = withheld[len(withheld) - keep :]
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


class ChatCompletion:
    """One answer as a chat completion object, or as a stream of chunks (server-sent events)."""

    def __init__(self, metrics: Metrics, model: str, request: ChatRequest):
        self.metrics = metrics
        self.model = model
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.stream_usage = request.stream_options is not None and bool(request.stream_options.include_usage)

    def usage(self, end: StreamEnd) -> dict[str, int]:
        """Return the usage object, and count its tokens in the metrics."""
        self.metrics.tokens.labels("read").inc(end.prompt_tokens)
        self.metrics.tokens.labels("written").inc(end.completion_tokens)
        return {
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": end.completion_tokens,
            "total_tokens": end.prompt_tokens + end.completion_tokens,
        }

    async def whole(self, pieces: AsyncIterator[str | StreamEnd]) -> dict[str, Any]:
        """Return the completion object."""
        text = ""
        end = StreamEnd(True, 0, 0)
        async for piece in pieces:
            if isinstance(piece, StreamEnd):
                end = piece
            else:
                text += piece
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text.strip(), "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop" if end.finished else "length",
                }
            ],
            "usage": self.usage(end),
        }

    async def stream(self, pieces: AsyncIterator[str | StreamEnd]) -> AsyncIterator[str]:
        """Yield server-sent events; an error after the first piece becomes an event, too."""
        yield self._chunk({"role": "assistant", "content": ""})
        started = False
        try:
            async for piece in pieces:
                if isinstance(piece, StreamEnd):
                    usage = self.usage(piece)
                    yield self._chunk({}, "stop" if piece.finished else "length")
                    if self.stream_usage:
                        yield self._event({"choices": [], "usage": usage})
                    continue
                text = piece if started else piece.lstrip()
                started = started or bool(text)
                if text:
                    yield self._chunk({"content": text})
            yield "data: [DONE]\n\n"
        except Exception as error:
            yield f"data: {json.dumps(to_http_error(error).body)}\n\n"
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event({"choices": [choice], **({"usage": None} if self.stream_usage else {})})

    def _event(self, fields: dict[str, Any]) -> str:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return f"data: {json.dumps({**head, **fields}, ensure_ascii=False)}\n\n"
