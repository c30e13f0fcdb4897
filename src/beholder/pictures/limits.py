"""How much a single picture may ask of this machine."""

from dataclasses import dataclass

from beholder.errors import InvalidSetting, PictureTooLarge


@dataclass(frozen=True)
class Limits:
    """What a picture may cost before it is refused.

    Args:
        megapixels: millions of pixels, told from the header before anything is decoded. A pixel takes four bytes
            while it is decoded, and as many again for each step after.
        megabytes: millions of bytes of the file or of the answer from an address.
        aspect: how many times longer one side may be than the other. A strip of 1 x 100,000 pixels is no picture of
            anything, and enlarged until its shorter side fits a network it would take gigabytes.
        seconds: for an address: from looking it up to the last byte, redirects included.
    """

    megapixels: float = 100.0
    megabytes: float = 256.0
    aspect: float = 200.0
    seconds: float = 30.0

    def __post_init__(self) -> None:
        """Check the values."""
        for setting, value in vars(self).items():
            if not value > 0:
                raise InvalidSetting(f"{setting}: must be more than 0, is {value}")

    def check_bytes(self, size: int, name: str) -> None:
        """Raise ``PictureTooLarge`` for more bytes than allowed."""
        if size > self.megabytes * 1e6:
            raise PictureTooLarge(name, f"is larger than {self.megabytes:g} MB, the limit (megabytes)")

    def check_shape(self, width: int, height: int, name: str) -> None:
        """Raise ``PictureTooLarge`` for more pixels, or a longer shape, than allowed."""
        if width * height > self.megapixels * 1e6:
            raise PictureTooLarge(
                name, f"is {width} x {height} pixels; the limit is {self.megapixels:g} million (megapixels)"
            )
        if max(width, height) > self.aspect * min(width, height):
            raise PictureTooLarge(
                name, f"is {width} x {height} pixels: one side is over {self.aspect:g} times the other (aspect)"
            )
