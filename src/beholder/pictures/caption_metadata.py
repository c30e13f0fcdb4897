"""Captions in the metadata of picture files, as photo programs read them: XMP's ``dc:description``.

In JPEG and PNG the XMP packet is put into the file; every other byte of the file stays as it is. Next to all others,
and to read-only formats of cameras, goes a sidecar, ``photo.heic.xmp``. Files are written aside, brought to disk, and
put in the place of the old one as a whole.

Source: Adobe's *XMP Specification*, part 1 (the packet) and part 3 (where it lies in JPEG and PNG).
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast
from xml.etree import ElementTree

from beholder.errors import PictureBroken, PictureUnreadable

META, RDF, DC = "adobe:ns:meta/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://purl.org/dc/elements/1.1/"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
PACKET = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n', b'\n<?xpacket end="w"?>'
JPEG_START, JPEG_XMP = b"\xff\xd8", b"http://ns.adobe.com/xap/1.0/\x00"
PNG_START, PNG_XMP = b"\x89PNG\r\n\x1a\n", b"XML:com.adobe.xmp\x00"
LONGEST_SEGMENT = 65533  # bytes of a JPEG segment, its own length left out

LONGEST_XMP = 16_000_000  # bytes of a packet that a PNG holds compressed


class Piece(NamedTuple):
    """A segment or chunk of a file: its bytes as they stand there, and the XMP in it, if it is one."""

    raw: bytes
    xmp: bytes | None


def sidecar(path: Path) -> Path:
    """Where the caption goes that a file can't hold."""
    return path.with_name(path.name + ".xmp")


def read_caption(path: Path) -> str | None:
    """The caption in a picture's metadata or its sidecar; None where there is none that can be read."""
    try:
        if sidecar(path).is_file():
            return description_of(sidecar(path).read_bytes())
        data = path.read_bytes()
        return next((description_of(piece.xmp) for piece in _pieces(data, path) if piece.xmp is not None), None)
    except (OSError, ElementTree.ParseError, PictureBroken):
        return None


def write_caption(path: Path, caption: str) -> Path:
    """Puts a caption into a JPEG or PNG, or next to any other file, in the place of an older one.

    Other properties that the XMP holds stay. The picture's own bytes are not touched.

    Returns:
        The file that was written: the picture or its sidecar.

    Raises:
        PictureBroken: the file is not built as a file of its kind is, or its XMP can't be read.
        PictureUnreadable: it can't be read or written; it is as it was.
    """
    try:
        data = path.read_bytes()
        beside = sidecar(path)
        try:
            if beside.is_file() or not data.startswith((JPEG_START, PNG_START)):
                replace_file(beside, PACKET[0] + _described(beside.read_bytes() if beside.is_file() else b"", caption))
                return beside
            pieces = list(_pieces(data, path))
            old = next((piece.xmp for piece in pieces if piece.xmp is not None), b"")
            packet = PACKET[0] + _described(old, caption) + PACKET[1]
        except ElementTree.ParseError as error:
            raise PictureBroken(str(path), f"the XMP that it has can't be read ({error}); it was left alone") from error
        if data.startswith(JPEG_START):
            if len(JPEG_XMP) + len(packet) > LONGEST_SEGMENT:
                raise PictureBroken(str(path), "its XMP fills the segment that JPEG has for it; it was left alone")
            length = struct.pack(">H", len(JPEG_XMP) + len(packet) + 2)
            new = b"\xff\xe1" + length + JPEG_XMP + packet
        else:
            body = b"iTXt" + PNG_XMP + b"\x00\x00\x00\x00" + packet
            new = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        kept = [piece.raw for piece in pieces if piece.xmp is None]
        first = 2 if data.startswith(JPEG_START) and kept[1][:2] == b"\xff\xe0" else 1  # behind JFIF's header
        if data.startswith(PNG_START):
            first = 2  # behind the start and IHDR
        elif len(kept) > first and kept[first][:2] == b"\xff\xe1" and kept[first][4:10] == b"Exif\x00\x00":
            first += 1
        replace_file(path, b"".join([*kept[:first], new, *kept[first:]]))
        return path
    except OSError as error:
        reason = f"its caption can't be written: {error.strerror or error}; the file is as it was"
        raise PictureUnreadable(str(path), reason) from error


def replace_file(path: Path, content: bytes) -> None:
    """The file with new content, whole or not at all, with the old one's permissions."""
    aside = path.with_name(f".{path.name}.writing")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            aside.chmod(path.stat().st_mode & 0o7777)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _pieces(data: bytes, path: Path) -> Iterator[Piece]:
    if data.startswith(JPEG_START):
        yield from _jpeg(data, path)
    elif data.startswith(PNG_START):
        yield from _png(data, path)


def _jpeg(data: bytes, path: Path) -> Iterator[Piece]:
    yield Piece(data[:2], None)
    place = 2
    while data[place + 1 : place + 2] != b"\xda":  # the picture itself begins
        if data[place : place + 1] != b"\xff" or place + 4 > len(data):
            raise PictureBroken(str(path), "its segments are not those of a JPEG; it was left alone")
        if data[place + 1] == 0xFF:  # fill bytes before a marker
            yield Piece(data[place : place + 1], None)
            place += 1
            continue
        end = place + 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
        raw = data[place:end]
        if end > len(data):
            raise PictureBroken(str(path), "it ends within a segment; it was left alone")
        is_xmp = raw[1] == 0xE1 and raw[4:].startswith(JPEG_XMP)
        yield Piece(raw, raw[4 + len(JPEG_XMP) :] if is_xmp else None)
        place = end
    yield Piece(data[place:], None)


def _png(data: bytes, path: Path) -> Iterator[Piece]:
    yield Piece(data[:8], None)
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        raw = data[place : place + 12 + length]
        if len(raw) < 12 + length:
            raise PictureBroken(str(path), "its chunks are not those of a PNG; it was left alone")
        kind, body = raw[4:8], raw[8 : 8 + length]
        xmp = None
        if kind == b"iTXt" and body.startswith(PNG_XMP):
            packed = body[len(PNG_XMP)]
            text = body[len(PNG_XMP) + 2 :].split(b"\x00", 2)[-1]
            xmp = _unpacked(text, path) if packed else text
        yield Piece(raw, xmp)
        place += len(raw)
        if kind == b"IEND":
            yield Piece(data[place:], None)
            return


def _unpacked(text: bytes, path: Path) -> bytes:
    packer = zlib.decompressobj()
    try:
        whole = packer.decompress(text, LONGEST_XMP)
    except zlib.error as error:
        raise PictureBroken(str(path), f"its XMP can't be unpacked ({error}); it was left alone") from error
    if packer.unconsumed_tail:
        raise PictureBroken(str(path), f"its XMP is longer than {LONGEST_XMP} bytes; it was left alone")
    return whole


def description_of(packet: bytes) -> str | None:
    """The description in an XMP packet."""
    items = _parse(packet).findall(f".//{{{DC}}}description/{{{RDF}}}Alt/{{{RDF}}}li")
    default = next((item for item in items if item.get(LANGUAGE) == "x-default"), items[0] if items else None)
    return None if default is None or not (default.text or "").strip() else default.text


def _parse(packet: bytes) -> ElementTree.Element:
    """The tree of a packet, its namespaces registered under the names that it gives them."""
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(["start-ns"])
    text = packet.strip(b"\x00 \n\r\t")
    parser.feed(text)
    for event in parser.read_events():
        _, (prefix, address) = cast("tuple[str, tuple[str, str]]", event)
        if prefix and not prefix.startswith("ns"):
            ElementTree.register_namespace(prefix, address)
    return ElementTree.fromstring(text)


def _described(packet: bytes, caption: str) -> bytes:
    """The packet's tree with the description replaced, in UTF-8."""
    for prefix, address in (("x", META), ("rdf", RDF), ("dc", DC)):
        ElementTree.register_namespace(prefix, address)
    root = _parse(packet) if packet else ElementTree.Element(f"{{{META}}}xmpmeta")
    rdf = root if root.tag == f"{{{RDF}}}RDF" else root.find(f"{{{RDF}}}RDF")
    if rdf is None:
        rdf = ElementTree.SubElement(root, f"{{{RDF}}}RDF")
    for described in rdf.findall(f"{{{RDF}}}Description"):
        described.attrib.pop(f"{{{DC}}}description", None)
        for old in described.findall(f"{{{DC}}}description"):
            described.remove(old)
    holder = rdf.find(f"{{{RDF}}}Description")
    if holder is None:
        holder = ElementTree.SubElement(rdf, f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    choice = ElementTree.SubElement(ElementTree.SubElement(holder, f"{{{DC}}}description"), f"{{{RDF}}}Alt")
    item = ElementTree.SubElement(choice, f"{{{RDF}}}li", {LANGUAGE: "x-default"})
    item.text = "".join(letter for letter in caption if letter.isprintable())
    return ElementTree.tostring(root, "utf-8")
