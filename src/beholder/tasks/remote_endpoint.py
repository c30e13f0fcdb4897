"""A vision-language model behind an address that speaks the OpenAI API, and requests to it that are tried again."""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from beholder.errors import (
    InvalidAnswer,
    InvalidSetting,
    MissingExtra,
    ModelError,
    ModelUnreachable,
    PictureRefused,
    RequestFailed,
)
from beholder.tasks.thinking import without_thinking

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)
KEY = "BEHOLDER_API_KEY"  # environment variable with the key of the server
TRY_AGAIN = {408, 409, 425, 429}  # and everything from 500
TEXT_ONLY = (  # how servers say that a model takes no pictures, some of them with status 500
    "image input is not supported",  # llama.cpp
    "missing data required for image input",  # Ollama
    "model does not support image",  # LM Studio
    "is not a multimodal model",  # vLLM
)
LONGEST_RETRY_AFTER = 60.0  # seconds that a server may make us wait


def is_address(name: object) -> bool:
    """Return whether a model's name is an address."""
    return isinstance(name, str) and name.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class RemoteEndpoint:
    """A model behind an address.

    Attributes:
        url: where the API is, such as ``http://127.0.0.1:11434/v1``.
        model: what the server calls the model; empty for the only one that it has.
        timeout: seconds without a byte after which a request is given up.
        attempts: how often a request is tried.
        delay: seconds before the second attempt, doubled for each further one.
        max_delay: the longest of them.
    """

    url: str
    model: str = ""
    timeout: float = 300.0
    attempts: int = 8
    delay: float = 0.5
    max_delay: float = 20.0

    @classmethod
    def parse(cls, name: str) -> RemoteEndpoint:
        """Return the endpoint of an address such as ``http://127.0.0.1:11434/v1#qwen3-vl:8b``.

        Raises:
            InvalidSetting: it is no such address, or holds a password.
        """
        try:
            parts = urlsplit(name)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise InvalidSetting("a model's address has the form http://127.0.0.1:11434/v1#MODEL")
        if parts.username is not None or parts.password is not None or parts.query:
            raise InvalidSetting(f"a model's address holds no key: set the environment variable {KEY}")
        url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        return cls(url, parts.fragment)

    @property
    def name(self) -> str:
        """The address with the model's name."""
        return f"{self.url}#{self.model}" if self.model else self.url

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class RemoteClient:
    """Sends requests to an endpoint. Redirects are not followed: pictures go to the given address and nowhere else."""

    def __init__(self, endpoint: RemoteEndpoint):
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise MissingExtra("a model behind an address", "remote") from error
        self.endpoint = endpoint

    @cached_property
    def client(self) -> openai.OpenAI:
        """The client of the OpenAI API, without retries of its own."""
        import openai

        return openai.OpenAI(
            base_url=self.endpoint.url,
            api_key=os.environ.get(KEY) or "none",
            max_retries=0,
            timeout=self.endpoint.timeout,
            default_headers={"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()},  # type: ignore[dict-item]
            http_client=openai.DefaultHttpxClient(follow_redirects=False, trust_env=not self.endpoint.is_loopback),
        )

    @cached_property
    def model(self) -> str:
        """What the server calls the model.

        Raises:
            ModelUnreachable: the address names none, and the server does not have just one.
        """
        if self.endpoint.model:
            return self.endpoint.model
        listed = self.attempt(lambda: list(self.client.models.list()), self.endpoint.url)
        names = [str(getattr(each, "id", "")) for each in listed]
        if len(names) != 1 or not names[0]:
            known = f"it has {', '.join(names[:10])}" if any(names) else "it lists none"
            raise ModelUnreachable(f"{self.endpoint.url}: name a model after a #; {known}")
        return names[0]

    def complete(self, messages: list[dict[str, Any]], name: str, **settings: Any) -> tuple[str, bool]:
        """Return the answer to a conversation, and whether it is whole.

        Args:
            messages: as the OpenAI API takes them.
            name: what the request is about, for the log.
            **settings: of the request.

        Raises:
            RequestFailed: the server failed at each attempt.
            PictureRefused: the server refuses the request.
            InvalidAnswer: the answer had not begun at its greatest length, since the model was still thinking.
            ModelError: the model takes no pictures.
            ModelUnreachable: nothing answers at the address, or something else.
        """
        model = self.model
        create: Any = self.client.chat.completions.create
        completion = self.attempt(lambda: create(model=model, messages=messages, **settings), name)
        try:
            choice = completion.choices[0]
            text = choice.message.content
        except (AttributeError, IndexError, TypeError):
            raise self._something_else() from None
        if not isinstance(text, str):
            text = ""
        _check_begun(text, choice.finish_reason, name)
        return text, choice.finish_reason != "length"

    def stream(self, messages: list[dict[str, Any]], name: str, **settings: Any) -> Iterator[tuple[str, bool]]:
        """Yield the pieces of an answer, each with whether the answer is whole; errors are those of `complete`."""
        import openai

        model = self.model
        create: Any = self.client.chat.completions.create
        chunks = self.attempt(lambda: create(model=model, messages=messages, stream=True, **settings), name)
        told, text, reason = False, "", None
        try:
            for chunk in chunks:
                for choice in getattr(chunk, "choices", None) or ():
                    told, reason = True, choice.finish_reason
                    piece = (choice.delta.content or "") if choice.delta else ""
                    text += piece
                    yield piece, reason == "stop"
        except (openai.APIError, AttributeError) as error:
            raise self._broken_off(error) from None
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if not told:
            raise self._something_else()
        _check_begun(text, reason, name)

    def attempt(self, request: Any, name: str, stop: Event | None = None) -> Any:
        """Return what a request returns; it is sent again, ever later, after failures that may pass.

        Nothing of what is sent and of the key is logged.

        Args:
            request: sends it.
            name: what it is about.
            stop: gives up waiting when set.
        """
        import openai

        endpoint = self.endpoint
        failure: Exception = RequestFailed(name, "was not tried")
        for number in range(1, endpoint.attempts + 1):
            wait = min(endpoint.max_delay, endpoint.delay * 2 ** (number - 1)) * random.uniform(0.75, 1.25)
            try:
                return request()
            except openai.APITimeoutError:
                reason = f"no answer within {endpoint.timeout:g} s"
                failure = RequestFailed(name, f"{reason}, {number} times")
            except openai.APIConnectionError as error:
                reason = f"no connection ({type(error.__cause__ or error).__name__})"
                failure = ModelUnreachable(f"{endpoint.url}: nothing answers there: {reason}")
            except openai.APIStatusError as error:
                reason = f"status {error.status_code}"
                said = _message(error)
                if _is_text_only(said):
                    raise self._text_only(said) from None
                if error.status_code < 500 and error.status_code not in TRY_AGAIN:
                    raise self._refusal(error, name) from None
                failed = f"the server failed with {reason}, {number} times"
                failure = RequestFailed(name, f"{failed}: {said}" if said else failed)
                wait = max(wait, _retry_after(error))
            except openai.APIError:
                raise self._something_else() from None
            except ValueError:  # what answers is not JSON
                raise self._something_else() from None
            logger.warning("%s: attempt %d of %d failed: %s", name, number, endpoint.attempts, reason)
            if number < endpoint.attempts:
                time.sleep(wait)
        raise failure from None

    def _refusal(self, error: openai.APIStatusError, name: str) -> Exception:
        status = error.status_code
        if status in (401, 403):
            return ModelUnreachable(f"{self.endpoint.url}: asks for a key, or refuses it: set {KEY}")
        if status == 404:
            if not self.endpoint.model:
                return self._something_else()
            return ModelUnreachable(
                f"{self.endpoint.url}: has no model {self.endpoint.model!r}, or is no OpenAI API (is it …/v1?)"
            )
        if 300 <= status < 400:
            return ModelUnreachable(f"{self.endpoint.url}: leads to another address, which is not followed")
        said = _message(error) or "no reason given"
        return PictureRefused(name, f"the server refuses it with status {status}: {said}")

    def _text_only(self, said: str) -> ModelError:
        return ModelError(
            f"{self.endpoint.name}: the model takes no pictures: choose a vision-language model, and start llama.cpp's "
            f"server with its projector (--mmproj); the server says: {said}"
        )

    def _broken_off(self, error: Exception) -> ModelError:
        said = _message(error)
        if _is_text_only(said):
            return self._text_only(said)
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        return ModelUnreachable(f"{self.endpoint.name}: the answer broke off ({reason})")

    def _something_else(self) -> ModelUnreachable:
        return ModelUnreachable(f"{self.endpoint.url}: what answers there is no OpenAI API (is it …/v1?)")


def _retry_after(error: openai.APIStatusError) -> float:
    """Return the seconds after which the server wants to be asked again; 0 if it does not say."""
    try:
        return min(LONGEST_RETRY_AFTER, float(error.response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def _message(error: Exception) -> str:
    """Return what a server says about an error, which is an object or a text; empty if it does not say."""
    body = getattr(error, "body", None)
    said = (body.get("message") or body.get("detail") or "") if isinstance(body, dict) else body or ""
    text = " ".join(str(said).split())
    return "" if text.startswith("<") else text[:300]  # not a proxy's page


def _is_text_only(said: str) -> bool:
    return any(phrase in said.casefold() for phrase in TEXT_ONLY)


def _check_begun(text: str, reason: str | None, name: str) -> None:
    if reason == "length" and not without_thinking(text).strip():
        problem = "the model was still thinking, or silent, at the greatest number of tokens"
        raise InvalidAnswer(name, f"{problem}: raise max_new_tokens, or take a model that does not think")
