"""The errors that a user of Beholder meets.

    BeholderError
    ├── InvalidSetting        a setting or an option has a value that can't be used
    ├── MissingExtra          an optional dependency is needed; the message holds the pip command
    ├── PictureError          one picture can't be used; the others of the same call can
    │   ├── PictureNotFound     nothing is there
    │   ├── PictureUnreadable   something is there but can't be opened: permissions, a directory, an address that fails
    │   ├── NotAPicture         the bytes are no picture in a format that Beholder reads
    │   ├── PictureBroken       the bytes begin as a picture and end or decode wrongly
    │   ├── PictureTooLarge     more pixels, bytes or sides than the limits allow
    │   └── PictureRefused      a format or an address that is off unless an option asks for it
    ├── ModelError            a model can't be used
    │   ├── ModelNotFound       no folder, no name and no hub id leads to it
    │   ├── WeightsMismatch     a tensor is missing, unexpected or of another shape
    │   └── DownloadFailed      a part could not be fetched, or its checksum is wrong
    ├── AlbumError            an album can't be used
    │   ├── AlbumNotFound       there is none in this folder
    │   ├── AlbumBusy           another process is indexing into it
    │   └── AlbumDamaged        its file is no album, is damaged, or was made by a newer Beholder
    ├── WriteFailed           a result can't be written; what was written before stays
    └── NotFinite             a network gave NaN or infinity where numbers are needed

Every message names the input, says what is wrong with it, and says what to do.
"""


class BeholderError(Exception):
    """Base of every error that Beholder raises on purpose."""


class InvalidSetting(BeholderError, ValueError):
    """A setting or an option has a value that can't be used."""


class MissingExtra(BeholderError, ImportError):
    """An optional dependency is needed for what was asked.

    Args:
        what: what was asked for, for instance ``"reading HEIC pictures"``.
        extra: the extra of the ``beholder`` package that brings it.
    """

    def __init__(self, what: str, extra: str):
        super().__init__(f'{what} needs an optional part: pip install "beholder[{extra}]"')
        self.extra = extra


class PictureError(BeholderError):
    """One picture can't be used.

    Args:
        name: what the user called the picture: a path, an address or ``"picture 3"``.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class PictureNotFound(PictureError):
    """Nothing is there."""


class PictureUnreadable(PictureError):
    """Something is there but can't be opened."""


class NotAPicture(PictureError):
    """The bytes are no picture in a format that Beholder reads."""


class PictureBroken(PictureError):
    """The bytes begin as a picture and end or decode wrongly."""


class PictureTooLarge(PictureError):
    """The picture is larger than the limits allow."""


class PictureRefused(PictureError):
    """The format or the address is off unless an option asks for it."""


class ModelError(BeholderError):
    """A model can't be used."""


class ModelNotFound(ModelError):
    """No folder, no name and no hub id leads to this model."""


class WeightsMismatch(ModelError):
    """A tensor is missing, unexpected or of another shape."""


class DownloadFailed(ModelError):
    """A part of a model could not be fetched, or its checksum is wrong."""


class NotFinite(BeholderError):
    """A network gave NaN or infinity where numbers are needed."""


class WriteFailed(BeholderError):
    """A result can't be written; what was written before stays."""


class AlbumError(BeholderError):
    """An album can't be used."""


class AlbumNotFound(AlbumError):
    """There is no album in this folder."""


class AlbumBusy(AlbumError):
    """Another process is indexing into the album."""


class AlbumDamaged(AlbumError):
    """The album's file is no album, is damaged, or was made by a newer Beholder."""
