"""Where JPEG, PNG and TIFF files keep their metadata, and how an XMP packet in a JPEG or PNG is replaced.

Source: ISO 10918-1 (JPEG markers), Adobe's *XMP Specification*, part 3 (packets in files, extended XMP), CIPA DC-007
(Multi-Picture Format, whose offsets have to follow), PNG (third edition).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from beholder.pictures.iptc import PHOTOSHOP, iptc_of_resources
from beholder.pictures.xmp import MAX_BYTES, TRAILER

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_JPEG_XMP, _JPEG_EXTENDED_XMP = b"http://ns.adobe.com/xap/1.0/\x00", b"http://ns.adobe.com/xmp/extension/\x00"
_PNG_XMP = b"XML:com.adobe.xmp\x00"
_MAX_SEGMENT = 65533  # bytes, without the two of the length
_TIFF_XMP, _TIFF_IPTC, _TIFF_PHOTOSHOP = 700, 33723, 34377


class ContainerError(ValueError):
    """A file does not have the structure of its format, or can't hold a packet."""


class Segment(NamedTuple):
    """A segment of a JPEG or a chunk of a PNG, by its offsets in the file."""

    kind: bytes  # the marker, or the chunk type
    start: int
    body: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of a JPEG up to its first scan, or the chunks of a PNG; nothing for other formats.

    Raises:
        ContainerError: The structure is damaged; what precedes has been yielded.
    """
    if data.startswith(JPEG_START):
        yield from _jpeg_segments(data)
    elif data.startswith(PNG_START):
        yield from _png_chunks(data)


def xmp_packets(data: bytes, info: dict[Any, Any] | None = None) -> list[bytes]:
    """Return the XMP packets of a file, the main one first. Damaged blocks are skipped.

    Args:
        data: The whole file.
        info: ``Image.info``, for the packet of formats whose structure is not read here.
    """
    packets: list[bytes] = []
    extended: dict[bytes, list[tuple[int, bytes]]] = {}
    with suppress(ContainerError):
        for segment in segments(data):
            body = data[segment.body : segment.end]
            if segment.kind == b"\xe1" and body.startswith(_JPEG_EXTENDED_XMP):
                head = len(_JPEG_EXTENDED_XMP)
                guid, offset = body[head : head + 32], int.from_bytes(body[head + 36 : head + 40], "big")
                extended.setdefault(guid, []).append((offset, body[head + 40 :]))
                continue
            with suppress(ContainerError):  # damage to one block
                packet = _packet_of(segment, body)
                if packet:
                    packets.append(packet)
    for parts in extended.values():
        whole = b"".join(part for _, part in sorted(parts))
        if len(whole) <= MAX_BYTES:
            packets.append(whole)
    from_pillow = (info or {}).get("xmp") or b""
    from_pillow = from_pillow.encode() if isinstance(from_pillow, str) else from_pillow
    if not packets and isinstance(from_pillow, bytes) and from_pillow:
        packets.append(from_pillow)
    return packets


def iptc_block(data: bytes, tags: Any = None) -> bytes:
    """Return the IPTC block of a JPEG or PNG, or that among the tags of a TIFF; empty if there is none."""
    resources: list[bytes] = []
    with suppress(ContainerError):
        for segment in segments(data):
            if segment.kind == b"\xed" and data.startswith(PHOTOSHOP, segment.body):
                resources.append(data[segment.body + len(PHOTOSHOP) : segment.end])
            elif segment.kind in (b"zTXt", b"tEXt"):
                profile = _raw_profile(data[segment.body : segment.end], b"iptc")
                if profile:
                    return iptc_of_resources(profile) or profile
    if resources:
        return iptc_of_resources(b"".join(resources))
    with suppress(Exception):  # Pillow raises errors of any type on damaged tags
        if tags is not None and _TIFF_IPTC in tags:
            return _bytes_of_tag(tags[_TIFF_IPTC])
        if tags is not None and _TIFF_PHOTOSHOP in tags:
            return iptc_of_resources(_bytes_of_tag(tags[_TIFF_PHOTOSHOP]))
    return b""


def main_packets(data: bytes) -> list[tuple[Segment, bytes]]:
    """Return the segments that hold an editable XMP packet, with their packets.

    Raises:
        ContainerError: The structure is damaged.
    """
    found = []
    for segment in segments(data):
        packet = _packet_of(segment, data[segment.body : segment.end])
        if packet is not None and segment.kind in (b"\xe1", b"iTXt"):
            found.append((segment, packet))
    return found


def with_packets(data: bytes, replaced: Sequence[tuple[Segment | None, bytes]]) -> bytes:
    """Return a JPEG or PNG with XMP packets replaced, or a new one inserted.

    All other bytes stay, but for the offsets of further pictures in a Multi-Picture Format index, which follow them.
    The length of the file changes even if that of the packet does not, so that programs which compare sizes notice.

    Args:
        data: The file.
        replaced: Segments and the packets to put there; None inserts one.

    Raises:
        ContainerError: A packet is too long for a JPEG, or the structure is damaged.
    """
    is_jpeg = data.startswith(JPEG_START)
    edits = []
    for segment, packet in replaced:
        block = _jpeg_block(packet) if is_jpeg else _png_block(packet)
        place = (segment.start, segment.end) if segment is not None else (_insertion(data),) * 2
        edits.append((*place, block))
    if sum(len(block) - (end - start) for start, end, block in edits) == 0:
        start, end, block = edits[0]
        packet = _padded(replaced[0][1])
        edits[0] = (start, end, _jpeg_block(packet) if is_jpeg else _png_block(packet))
    if is_jpeg:
        edits += _moved_pictures(data, edits)
    for start, end, block in sorted(edits, reverse=True):
        data = data[:start] + block + data[end:]
    return data


def _jpeg_segments(data: bytes) -> Iterator[Segment]:
    place = 2
    while data[place + 1 : place + 2] != b"\xda":  # start of scan
        if data[place : place + 1] != b"\xff" or place + 4 > len(data):
            raise ContainerError("its segments are not those of a JPEG")
        if data[place + 1] == 0xFF:  # a fill byte
            place += 1
            continue
        end = place + 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
        if end > len(data) or end < place + 4:
            raise ContainerError("it ends within a segment")
        yield Segment(data[place + 1 : place + 2], place, place + 4, end)
        place = end


def _png_chunks(data: bytes) -> Iterator[Segment]:
    place, kind = 8, b""
    while kind != b"IEND":
        body = place + 8
        end = body + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            raise ContainerError("its chunks are not those of a PNG")
        kind = data[place + 4 : body]
        yield Segment(kind, place, body, end + 4)
        place = end + 4


def _packet_of(segment: Segment, body: bytes) -> bytes | None:
    """Return the XMP packet in the body of a segment or chunk; None if it holds something else."""
    if segment.kind == b"\xe1" and body.startswith(_JPEG_XMP):
        return body[len(_JPEG_XMP) :]
    if segment.kind in (b"zTXt", b"tEXt"):
        return _raw_profile(body[:-4], b"xmp") or None
    if segment.kind != b"iTXt" or not body.startswith(_PNG_XMP):
        return None
    body = body[:-4]  # without the checksum
    text = body[len(_PNG_XMP) + 2 :].split(b"\x00", 2)[-1]  # after the compression flag and method, language, keyword
    return _decompressed(text) if body[len(_PNG_XMP) : len(_PNG_XMP) + 1] != b"\x00" else text


def _raw_profile(body: bytes, kind: bytes) -> bytes:
    """Return the contents of a text chunk with a hexadecimal profile, as ImageMagick writes it; empty if it is none."""
    keyword, _, rest = body.partition(b"\x00")
    if keyword.lower() != b"raw profile type " + kind:
        return b""
    with suppress(ContainerError, ValueError):
        text = _decompressed(rest[1:]) if rest[:1] == b"\x00" else rest
        fields = text.split(None, 2)  # name, length, hexadecimal digits
        return bytes.fromhex(fields[2].decode("ascii")) if len(fields) == 3 else b""
    return b""


def _decompressed(text: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        whole = decompressor.decompress(text, MAX_BYTES)
    except zlib.error as error:
        raise ContainerError(f"a compressed block can't be decompressed ({error})") from error
    if decompressor.unconsumed_tail:
        raise ContainerError(f"a compressed block is longer than {MAX_BYTES} bytes")
    return whole


def _bytes_of_tag(value: Any) -> bytes:
    """Return the bytes of a TIFF tag. Some writers declare bytes as 32-bit integers."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        return struct.pack(f"<{len(value)}I", *value)
    return b""


def _jpeg_block(packet: bytes) -> bytes:
    if len(_JPEG_XMP) + len(packet) > _MAX_SEGMENT:  # give up the padding that the packet has
        head, mark, tail = packet.rpartition(b"<?xpacket end")
        packet = head.rstrip(b" \t\r\n") + b"\n" + mark + tail if mark else packet
    if len(_JPEG_XMP) + len(packet) > _MAX_SEGMENT:
        raise ContainerError("its XMP is full: a JPEG segment holds no more")
    return b"\xff\xe1" + struct.pack(">H", len(_JPEG_XMP) + len(packet) + 2) + _JPEG_XMP + packet


def _png_block(packet: bytes) -> bytes:
    body = b"iTXt" + _PNG_XMP + b"\x00\x00\x00\x00" + packet
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _padded(packet: bytes) -> bytes:
    head, mark, tail = packet.rpartition(b"<?xpacket end")
    return head + b"\n" + mark + tail if mark else packet + TRAILER[:1]


def _insertion(data: bytes) -> int:
    """Return where a new packet goes: after JFIF's header and EXIF in a JPEG, after the header in a PNG."""
    place = 2
    for segment in segments(data):
        if data.startswith(PNG_START):
            return segment.end
        head = data[segment.body : segment.body + 6]
        if segment.kind == b"\xe0" or (segment.kind == b"\xe1" and head == b"Exif\x00\x00"):
            place = segment.end
        else:
            break
    return place


def _moved_pictures(data: bytes, edits: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return the edits that keep a Multi-Picture Format index right: offsets count from its own header."""

    def moved(place: int) -> int:
        return place + sum(len(block) - (end - start) for start, end, block in edits if end <= place)

    found: list[tuple[int, int, bytes]] = []
    for segment in segments(data):
        if segment.kind != b"\xe2" or not data.startswith(b"MPF\x00", segment.body):
            continue
        base = segment.body + 4
        with suppress(struct.error, IndexError):
            order = {b"II": "<", b"MM": ">"}.get(data[base : base + 2])
            if order is None:
                continue
            directory = base + struct.unpack_from(order + "I", data, base + 4)[0]
            for entry in range(struct.unpack_from(order + "H", data, directory)[0]):
                tag, _, count, offset = struct.unpack_from(order + "HHII", data, directory + 2 + 12 * entry)
                if tag != 0xB002:  # MPEntry
                    continue
                for picture in range(min(count // 16, 1000)):
                    place = base + offset + 16 * picture
                    size, start = struct.unpack_from(order + "II", data, place + 4)
                    if place + 16 > segment.end:
                        break
                    if start == 0:  # the first picture, in which the packet is
                        size = moved(size) if 0 < size <= len(data) else size
                    elif base + start < len(data):
                        start = moved(base + start) - moved(base)
                    new = struct.pack(order + "II", size & 0xFFFFFFFF, start & 0xFFFFFFFF)
                    if new != data[place + 4 : place + 12]:
                        found.append((place + 4, place + 12, new))
    return found
