"""The exceptions of Beholder.

    BeholderError
    ├── InvalidSetting        a setting, an option or an argument has an invalid value
    │   └── InvalidFilter       a search filter has a syntax error
    ├── MissingExtra          an optional dependency is missing; the message has the pip command
    ├── PictureError          one picture can't be used; the others of the call can
    │   ├── PictureNotFound     there is no such file
    │   ├── PictureUnreadable   it can't be opened: permissions, a directory, an address that fails
    │   ├── NotAPicture         the bytes are not a picture in a supported format
    │   ├── PictureBroken       the picture is truncated or corrupt
    │   ├── PictureTooLarge     more pixels, bytes or longer sides than the limits allow
    │   ├── PictureRefused      a format or an address that must be allowed by an option
    │   ├── RequestFailed       a server that was asked about it failed again and again
    │   └── InvalidAnswer       a model's answer about it is not of the form that was asked for
    ├── ModelError            a model can't be used
    │   ├── ModelNotFound       no folder, known name or hub id is called that
    │   ├── WeightsMismatch     a tensor is missing, unexpected or has another shape
    │   ├── DownloadFailed      a file could not be fetched, or its checksum is wrong
    │   └── ModelUnreachable    nothing answers at a model's address, or something else does
    ├── AlbumError            an album can't be used
    │   ├── AlbumNotFound       there is no album in this folder
    │   ├── AlbumBusy           another process is indexing into it
    │   └── AlbumDamaged        its file is not an album, is damaged, or is of a newer version of Beholder
    ├── WriteFailed           a result can't be written; results written before stay
    └── NotFinite             a network returned NaN or infinity

Every message names the input, says what is wrong with it, and what to do about it. All of them can be pickled.
"""


class BeholderError(Exception):
    """Base class of all exceptions that Beholder raises."""


class InvalidSetting(BeholderError, ValueError):
    """A setting, an option or an argument has an invalid value."""


class InvalidFilter(InvalidSetting):
    """A search filter has a syntax error, an unknown field or an invalid value."""


class MissingExtra(BeholderError, ImportError):
    """An optional dependency is missing.

    Args:
        what: what needs it, such as ``"reading HEIC pictures"``.
        extra: the extra of the ``beholder`` package that installs it.
    """

    def __init__(self, what: str, extra: str):
        super().__init__(f'{what} needs an optional dependency: pip install "beholder[{extra}]"')
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtra"], tuple[str, str]]:
        return type(self), (self.what, self.extra)


class PictureError(BeholderError):
    """One picture can't be used.

    Args:
        name: the picture: a path, an address, or ``"picture 3"``.
        reason: what is wrong with it, and what to do about it.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["PictureError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class PictureNotFound(PictureError):
    """There is no such file."""


class PictureUnreadable(PictureError):
    """The picture can't be opened."""


class NotAPicture(PictureError):
    """The bytes are not a picture in a supported format."""


class PictureBroken(PictureError):
    """The picture is truncated or corrupt."""


class PictureTooLarge(PictureError):
    """The picture is larger than the limits allow."""


class PictureRefused(PictureError):
    """The format or the address must be allowed by an option."""


class RequestFailed(PictureError):
    """A server that was asked about the picture failed again and again."""


class InvalidAnswer(PictureError):
    """A model's answer about the picture is not of the form that was asked for."""


class ModelError(BeholderError):
    """A model can't be used."""


class ModelNotFound(ModelError):
    """No folder, known name or hub id is called that."""


class WeightsMismatch(ModelError):
    """A tensor is missing, unexpected or has another shape."""


class DownloadFailed(ModelError):
    """A file of a model could not be fetched, or its checksum is wrong."""


class ModelUnreachable(ModelError):
    """Nothing answers at a model's address, or something else than a model does."""


class NotFinite(BeholderError):
    """A network returned NaN or infinity."""


class WriteFailed(BeholderError):
    """A result can't be written; results written before stay."""


class AlbumError(BeholderError):
    """An album can't be used."""


class AlbumNotFound(AlbumError):
    """There is no album in this folder."""


class AlbumBusy(AlbumError):
    """Another process is indexing into the album."""


class AlbumDamaged(AlbumError):
    """The album's file is not an album, is damaged, or is of a newer version of Beholder."""
