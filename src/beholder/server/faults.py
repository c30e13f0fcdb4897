"""The one place where an error becomes an answer: a status, and a body in the form of OpenAI's interface."""

from __future__ import annotations

from typing import Any

from beholder.errors import (
    AlbumBusy,
    AlbumError,
    BeholderError,
    InvalidSetting,
    MissingExtra,
    ModelError,
    NotFinite,
    PictureError,
    PictureTooLarge,
    WriteFailed,
)
from beholder.server.worker import Abandoned

REQUEST, SERVER, LIMIT = "invalid_request_error", "server_error", "rate_limit_error"


class Fault(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for a person.
        kind: OpenAI's ``type``.
        code: for a program.
        param: the parameter that is at fault.
        headers: further ones of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's interface words it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def fault_of(error: Exception) -> Fault:
    """The answer to an error. What is not known to be harmless is never shown."""
    match error:
        case Fault():
            return error
        case PictureTooLarge():
            return Fault(400, str(error), code="image_too_large")
        case PictureError():
            return Fault(400, str(error), code="invalid_image")
        case InvalidSetting():
            return Fault(400, str(error), code="invalid_value")
        case ModelError():
            return Fault(400, str(error), code="unsupported_by_model")
        case NotFinite():
            return Fault(500, "the network gave no numbers for this; its weights may be damaged", kind=SERVER)
        case AlbumBusy():
            busy_words = "another process is indexing into this album: try again when it is done"
            return Fault(409, busy_words, code="album_busy", headers={"Retry-After": "5"})
        case AlbumError():
            return Fault(409, "this album is empty or can't be used: beholder index --check", code="album_unusable")
        case WriteFailed():
            return Fault(507, "the album can't be written: is the disk full?", kind=SERVER, code="not_written")
        case MissingExtra():
            return Fault(501, str(error), kind=SERVER, code="not_installed")
        case Abandoned():
            return Fault(503, "the server is stopping", kind=SERVER, code="stopping", headers={"Retry-After": "5"})
        case MemoryError():
            return Fault(503, "not enough memory for this", kind=SERVER, code="memory", headers={"Retry-After": "5"})
        case TimeoutError():
            return Fault(504, "this took longer than the server's time limit", kind=SERVER, code="timeout")
        case BeholderError():
            return Fault(500, "the server could not do this", kind=SERVER)
    return Fault(500, "the server failed; its log has the reason", kind=SERVER)


def busy(seconds: int) -> Fault:
    """Too many requests at once."""
    return Fault(
        429,
        f"too many requests at once: try again in {seconds} s",
        kind=LIMIT,
        code="busy",
        headers={"Retry-After": str(seconds)},
    )
