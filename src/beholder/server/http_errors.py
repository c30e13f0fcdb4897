"""Maps every error to an HTTP response: a status code and a body in the format of the OpenAI API."""

from __future__ import annotations

from typing import Any

from beholder.errors import (
    AlbumBusy,
    AlbumError,
    BeholderError,
    InvalidFilter,
    InvalidSetting,
    MissingExtra,
    ModelError,
    ModelUnreachable,
    NotFinite,
    PictureError,
    PictureTooLarge,
    RequestFailed,
    WriteFailed,
)
from beholder.server.decoding_scheduler import CacheFull, WorkCancelled

INVALID_REQUEST, SERVER_ERROR, RATE_LIMIT = "invalid_request_error", "server_error", "rate_limit_error"


class HTTPError(Exception):
    """An error response.

    Args:
        status: HTTP status code.
        message: Text for a person.
        type: The OpenAI API's ``type`` field.
        code: Machine-readable reason; never contains anything that was sent.
        param: Name of the offending request field.
        headers: Additional response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The response body in the format of the OpenAI API."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def to_http_error(error: Exception) -> HTTPError:
    """Return the response for an exception. Messages not known to be harmless are never exposed."""
    match error:
        case HTTPError():
            return error
        case RequestFailed() | ModelUnreachable():
            message = "the server of this model does not answer, or not as expected"
            return HTTPError(502, message, type=SERVER_ERROR, code="upstream_failed", headers={"Retry-After": "5"})
        case PictureTooLarge():
            return HTTPError(400, str(error), code="image_too_large")
        case PictureError():
            return HTTPError(400, str(error), code="invalid_image")
        case InvalidFilter():
            return HTTPError(400, str(error), param="where", code="invalid_filter")
        case InvalidSetting():
            return HTTPError(400, str(error), code="invalid_value")
        case ModelError():
            return HTTPError(400, str(error), code="unsupported_by_model")
        case NotFinite():
            return HTTPError(500, "the network returned NaN or infinity; its weights may be damaged", type=SERVER_ERROR)
        case AlbumBusy():
            message = "another process is indexing into this album: try again when it has finished"
            return HTTPError(409, message, code="album_busy", headers={"Retry-After": "5"})
        case AlbumError():
            return HTTPError(
                409, "this album is empty or cannot be used: run beholder index --check", code="album_unusable"
            )
        case WriteFailed():
            return HTTPError(
                507, "the album cannot be written: is the disk full?", type=SERVER_ERROR, code="not_written"
            )
        case MissingExtra():
            return HTTPError(501, str(error), type=SERVER_ERROR, code="not_installed")
        case WorkCancelled():
            return stopping()
        case CacheFull():
            return too_many_requests(error.seconds, code="cache_full")
        case MemoryError():
            return HTTPError(
                503,
                "not enough memory for this request",
                type=SERVER_ERROR,
                code="memory",
                headers={"Retry-After": "5"},
            )
        case TimeoutError():
            return HTTPError(504, "the request exceeded the server's time limit", type=SERVER_ERROR, code="timeout")
        case BeholderError():
            return HTTPError(500, "the server could not complete the request", type=SERVER_ERROR)
    return HTTPError(500, "internal server error; see the server's log", type=SERVER_ERROR)


def too_many_requests(seconds: int, code: str = "busy") -> HTTPError:
    """Return a 429 response that asks the client to retry after ``seconds``."""
    return HTTPError(
        429,
        f"too many requests: retry in {seconds} s",
        type=RATE_LIMIT,
        code=code,
        headers={"Retry-After": str(seconds)},
    )


def stopping() -> HTTPError:
    """Return the 503 response of a server that is shutting down."""
    return HTTPError(503, "the server is stopping", type=SERVER_ERROR, code="stopping", headers={"Retry-After": "5"})
