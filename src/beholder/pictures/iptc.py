"""IPTC IIM: the captions and keywords that news agencies and older photo programs embed.

Source: IPTC-NAA *Information Interchange Model* 4.2; Adobe's *Photoshop File Formats* for image resource blocks.
"""

import struct

PHOTOSHOP = b"Photoshop 3.0\x00"  # starts the JPEG segment with image resource blocks
IPTC_RESOURCE = 0x0404
KEYWORDS, CAPTION, HEADLINE, BYLINE, CITY, COUNTRY = 25, 120, 105, 80, 90, 101
DATE_CREATED, TIME_CREATED = 55, 60
_CHARACTER_SET = (1, 90)
_UTF8 = b"\x1b%G"  # ISO 2022 escape sequence
_MAX_DATASETS = 10_000


def iptc_of_resources(resources: bytes) -> bytes:
    """Return the IPTC block among Photoshop's image resource blocks; empty if there is none."""
    place = 0
    while resources[place : place + 4] in (b"8BIM", b"PHUT", b"AgHg", b"DCSR", b"MeSa"):
        if place + 12 > len(resources):
            break
        identifier = int.from_bytes(resources[place + 4 : place + 6], "big")
        name_length = resources[place + 6] + 1
        body = place + 6 + name_length + name_length % 2
        size = int.from_bytes(resources[body : body + 4], "big")
        if identifier == IPTC_RESOURCE:
            return resources[body + 4 : body + 4 + size]
        place = body + 4 + size + size % 2
    return b""


def parse_iptc(block: bytes) -> dict[int, list[str]]:
    """Return the texts of the application record (2) by dataset number.

    Text is decoded as UTF-8 if it is declared or valid, else as Windows-1252. Parsing stops at the first damage.
    """
    raw: list[tuple[int, bytes]] = []
    is_utf8 = False
    place = 0
    while block[place : place + 1] == b"\x1c" and place + 5 <= len(block) and len(raw) < _MAX_DATASETS:
        record, dataset, size = struct.unpack(">BBH", block[place + 1 : place + 5])
        place += 5
        if size & 0x8000:  # an extended dataset: the size of the size
            width = size & 0x7FFF
            if width > 4:
                break
            size = int.from_bytes(block[place : place + width], "big")
            place += width
        content = block[place : place + size]
        place += size
        if (record, dataset) == _CHARACTER_SET:
            is_utf8 = content == _UTF8
        elif record == 2:
            raw.append((dataset, content))
    texts: dict[int, list[str]] = {}
    for dataset, content in raw:
        texts.setdefault(dataset, []).append(_decoded(content, is_utf8))
    return texts


def _decoded(content: bytes, is_utf8: bool) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("utf-8", "replace") if is_utf8 else content.decode("cp1252", "replace")
