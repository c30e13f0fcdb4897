"""Detect an image format from the first bytes and open the image with the one decoder for that format.

Only the decoders listed below are ever used, whatever the file name says; Pillow's plugin registry is left alone.
Opening reads the header and decodes no pixels.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from beholder.errors import NotAPicture, PictureRefused
from beholder.pictures.jpeg_xl import JpegXlImageFile, can_read_jpeg_xl
from beholder.pictures.raw import RAW_EXTENSIONS, RawImageFile, can_read_raw
from beholder.pictures.tiff import DeepTiffImageFile

READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC, JPEG 2000"

_OPENERS: dict[str, Callable[[BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": DeepTiffImageFile,
    "AVIF": AvifImageFile,
    "JPEG 2000": Jpeg2KImageFile,
}

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0\x10\0\0\0CR", "RAW"),  # Canon CR2
    (b"FUJIFILMCCD-RAW", "RAW"),
    (b"IIRO", "RAW"),  # Olympus ORF
    (b"IIRS", "RAW"),
    (b"MMOR", "RAW"),
    (b"IIU\0", "RAW"),  # Panasonic RW2
    (b"FOVb", "RAW"),  # Sigma X3F
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "icon"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
)
_CODECS = {"AVIF": "avif", "JPEG 2000": "jpg_2000"}  # that a build of Pillow may lack
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)  # "BM" alone also starts ordinary text files
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}


def detect_format(data: bytes) -> str | None:
    """Return the name of the format, whether it can be decoded here or not; None if it is unknown."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if data[4:8] == b"ftyp":  # ISO/IEC 14496-12: size, "ftyp", major brand, version, compatible brands
        size = min(int.from_bytes(data[:4], "big"), 1024)
        brands = {data[8:12], *(data[start : start + 4] for start in range(16, size, 4))}
        if b"crx " in brands:  # Canon CR3
            return "RAW"
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in text:
        return "SVG"
    return None


def open_image(data: bytes, name: str) -> tuple[Image.Image, str]:
    """Open an image lazily: read its header, decode no pixels.

    Args:
        data: The whole file.
        name: The name of the picture in error messages.

    Returns:
        The image and the name of its format.

    Raises:
        NotAPicture: The data is in no known image format.
        PictureRefused: The format is not supported, or needs an optional dependency.
        Exception: Whatever the decoder raises on a damaged header.
    """
    found = detect_format(data)
    if found is None:
        raise NotAPicture(name, f"not a picture in a format that can be read ({READABLE})")
    if found == "HEIC":
        return _open_heic(data, name), found
    if found == "RAW":
        return _open_raw(data, name), found
    if found == "JPEG XL":
        if not can_read_jpeg_xl():
            raise PictureRefused(name, 'cannot read JPEG XL pictures: pip install "beholder[jxl]"')
        return JpegXlImageFile(BytesIO(data)), found
    if found not in _OPENERS:
        raise PictureRefused(name, f"{found} files are not read: save it as one of {READABLE}")
    codec = _CODECS.get(found)
    if codec is not None and not features.check(codec):
        raise PictureRefused(name, f"this build of Pillow can't read {found}: pip install --force-reinstall pillow")
    image = _OPENERS[found](BytesIO(data))
    if isinstance(image, DeepTiffImageFile) and image.is_raw:
        return _open_raw(data, name), "RAW"
    return image, found


def header_damage(name: str) -> str:
    """Return what to say of a file whose header a decoder refused: of a RAW file, it may be a kind that is unknown."""
    damage = "its header is damaged or truncated"
    is_raw = Path(name).suffix.lower() in RAW_EXTENSIONS
    return f"{damage}, or it is a kind of RAW file that is not read" if is_raw else damage


def _open_raw(data: bytes, name: str) -> Image.Image:
    if not can_read_raw():
        raise PictureRefused(name, 'cannot read RAW pictures: pip install "beholder[raw]"')
    return RawImageFile(BytesIO(data))


def _open_heic(data: bytes, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise PictureRefused(name, 'cannot read HEIC pictures: pip install "beholder[heic]"') from error
    return HeifImageFile(BytesIO(data))
