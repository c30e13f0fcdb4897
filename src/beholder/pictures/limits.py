"""Resource limits for a single picture."""

from dataclasses import dataclass

from beholder.errors import InvalidSetting, PictureTooLarge

_MAX_REDUCED = 4  # times the limit on pixels that are decoded at reduced scale


@dataclass(frozen=True)
class Limits:
    """Limits above which a picture is refused.

    Args:
        megapixels: Millions of pixels, read from the header before decoding. Decoding takes up to four bytes per
            pixel, and each further processing step as many again. A JPEG that is decoded at a half of its scale or
            less may have four times as many: then a picture takes at most ``megabytes`` and 8 bytes per pixel of
            ``megapixels``, 1.3 GB by default; a progressive JPEG, 3 bytes per pixel of the file more.
        megabytes: Millions of bytes of the file or of the HTTP response.
        aspect_ratio: Maximum ratio of the longer to the shorter side. A strip of 1 x 100,000 pixels shows nothing, and
            resizing its shorter side to a network's input would take gigabytes.
        timeout: Seconds that fetching a URL may take, from DNS lookup to the last byte, redirects included.
    """

    megapixels: float = 100.0
    megabytes: float = 512.0
    aspect_ratio: float = 200.0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Validate the values."""
        for setting, value in vars(self).items():
            if not value > 0:
                raise InvalidSetting(f"{setting}: must be greater than 0, got {value}")

    def check_bytes(self, size: int, name: str) -> None:
        """Raise ``PictureTooLarge`` if ``size`` bytes exceed the limit."""
        if size > self.megabytes * 1e6:
            raise PictureTooLarge(name, f"is larger than {self.megabytes:g} MB, the limit (megabytes)")

    def check_shape(self, width: int, height: int, name: str, reduction: int = 1) -> None:
        """Raise ``PictureTooLarge`` if the number of pixels or the aspect ratio exceeds the limit.

        Args:
            width: In pixels, at full scale.
            height: In pixels, at full scale.
            name: The name of the picture in the error message.
            reduction: The factor by which both sides are reduced while decoding. Decoding still reads every pixel, so
                that four times the limit is never exceeded.
        """
        allowed = self.megapixels * min(reduction**2, _MAX_REDUCED)
        if width * height > allowed * 1e6:
            raise PictureTooLarge(name, f"is {width} x {height} pixels; the limit is {allowed:g} million (megapixels)")
        if max(width, height) > self.aspect_ratio * min(width, height):
            raise PictureTooLarge(
                name,
                f"is {width} x {height} pixels: one side is over {self.aspect_ratio:g} times the other (aspect_ratio)",
            )
