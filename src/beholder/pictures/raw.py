"""RAW files of cameras: their embedded preview where it is large enough, else developed at half size."""

from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from beholder.pictures.orientation import exif_without_orientation

RAW_EXTENSIONS = {
    ".3fr",
    ".arw",
    ".cr2",
    ".cr3",
    ".crw",
    ".dcr",
    ".dng",
    ".erf",
    ".fff",
    ".iiq",
    ".k25",
    ".kdc",
    ".mef",
    ".mos",
    ".mrw",
    ".nef",
    ".nrw",
    ".orf",
    ".pef",
    ".raf",
    ".raw",
    ".rw2",
    ".rwl",
    ".sr2",
    ".srf",
    ".srw",
    ".x3f",
}

_MIN_PREVIEW = 1000  # pixels of the longer side; smaller previews are thumbnails
_ORIENTATION = 0x0112
_FLIPS = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.ROTATE_90, 6: Image.Transpose.ROTATE_270}  # LibRaw's
_TURNS = {3: 3, 8: 5, 6: 6}  # EXIF orientations as flips


def can_read_raw() -> bool:
    """Return whether rawpy is installed."""
    try:
        return find_spec("rawpy") is not None
    except ValueError:  # it is blocked
        return False


class RawDevelopedWarning(UserWarning):
    """A RAW file without a large preview is developed here, with the camera's white balance and at half size."""


class RawImageFile(ImageFile.ImageFile):
    """A RAW file, opened lazily: size, EXIF and preview are read from its header. Its size and pixels are upright."""

    format = "RAW"

    def _open(self) -> None:
        from rawpy import LibRawError, ThumbFormat, imread

        self._data = self.fp.read()  # type: ignore[union-attr]
        self._preview: bytes | None = None
        with imread(BytesIO(self._data)) as raw:
            sizes = raw.sizes
            self._flip = int(sizes.flip)
            try:
                thumbnail = raw.extract_thumb()
            except LibRawError:  # none, or of an unknown kind
                thumbnail = None
        size = ((sizes.width + 1) // 2, (sizes.height + 1) // 2)
        if thumbnail is not None and thumbnail.format == ThumbFormat.JPEG:
            preview = JpegImageFile(BytesIO(bytes(thumbnail.data)))
            if max(preview.size) >= min(_MIN_PREVIEW, *size):
                self._preview, size = bytes(thumbnail.data), preview.size
                turned = _TURNS.get(preview.getexif().get(_ORIENTATION, 1), 0)
                is_turned = (preview.width < preview.height) != (sizes.width < sizes.height)
                self._flip = turned or (0 if is_turned else self._flip)
        self._size = size[::-1] if self._flip in (5, 6) else size
        self._mode = "RGB"
        self.tile = []

    @property
    def has_large_preview(self) -> bool:
        """Whether a preview is shown in place of the samples."""
        return self._preview is not None

    def getexif(self) -> Image.Exif:
        """Return the EXIF of the file or of its preview, without the orientation, which is applied."""
        is_tiff = self._data[:2] in (b"II", b"MM")
        exif = exif_without_orientation(b"Exif\x00\x00" + self._data if is_tiff else b"")
        if not exif and self._preview is not None:
            exif = exif_without_orientation(JpegImageFile(BytesIO(self._preview)).info.get("exif", b""))
        return exif

    def load(self) -> Any:
        """Decode the preview, or develop the RAW samples at half size with the camera's white balance."""
        if self._im is None:
            image: Image.Image
            if self._preview is not None:
                image = JpegImageFile(BytesIO(self._preview))
                image.load()
                flip = _FLIPS.get(self._flip)
                self.info |= {"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}
                image = image.convert("RGB") if image.mode not in ("RGB", "L") else image
                image = image if flip is None else image.transpose(flip)
            else:
                from rawpy import imread

                with imread(BytesIO(self._data)) as raw:
                    image = Image.fromarray(np.asarray(raw.postprocess(half_size=True, use_camera_wb=True)))
            self._mode, self._size = image.mode, image.size
            self.im = image.im
        return Image.Image.load(self)
