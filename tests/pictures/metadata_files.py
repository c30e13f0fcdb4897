"""Pictures with metadata in every form that programs and cameras write, with the expected values.

``METADATA`` is a table of cases. Each is a folder of files, the first of which is the picture.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from beholder.pictures.xmp import NAMESPACES

WORDS, OTHERS = "Two boats in the harbor", "Something else"
DATE, OTHER_DATE = "1987-06-05T04:03:02", "2021-03-04T05:06:07"


@dataclass(frozen=True)
class Case:
    name: str
    files: dict[str, bytes]
    expected: dict[str, Any] = field(default_factory=dict)


def encoded(kind: str = "JPEG", size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, "teal").save(file, kind, **options)
    return file.getvalue()


def exif(tags: dict[int, Any], inner: dict[int, Any] | None = None, gps: dict[int, Any] | None = None) -> bytes:
    block = Image.Exif()
    for tag, value in tags.items():
        block[tag] = value
    for directory, values in ((0x8769, inner), (0x8825, gps)):
        if values:
            block.get_ifd(directory).update(values)
            block[directory] = values
    return block.tobytes()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """Insert segments into a JPEG after the JFIF header."""
    place = 4 + struct.unpack(">H", data[4:6])[0]
    return data[:place] + b"".join(segments) + data[place:]


def packet(inside: str = "", attributes: str = "", wrap: bool = True) -> bytes:
    names = "".join(
        f' xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items() if prefix not in ("x", "rdf", "xml")
    )
    body = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}">'
        f'<rdf:Description rdf:about=""{names} {attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>'
    )
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{body}<?xpacket end="w"?>' if wrap else body
    ).encode()


def description(text: str, language: str = "x-default") -> str:
    return f'<dc:description><rdf:Alt><rdf:li xml:lang="{language}">{text}</rdf:li></rdf:Alt></dc:description>'


def array(name: str, items: Iterable[str], kind: str = "Bag") -> str:
    return f"<{name}><rdf:{kind}>" + "".join(f"<rdf:li>{item}</rdf:li>" for item in items) + f"</rdf:{kind}></{name}>"


def xmp_segment(content: bytes) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + content)


def jpeg_with_xmp(inside: str = "", attributes: str = "") -> bytes:
    return with_segments(encoded(), xmp_segment(packet(inside, attributes)))


def iim(*datasets: tuple[int, bytes], utf8: bool = True) -> bytes:
    block = b"\x1c\x01\x5a\x00\x03\x1b%G" if utf8 else b""
    for number, content in datasets:
        block += b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(content)) + content
    return block


def resources(block: bytes) -> bytes:
    """Wrap an IPTC block as a Photoshop resource, after another resource."""
    other = b"8BIM\x03\xed\0\0" + struct.pack(">I", 3) + b"abc\0"
    return other + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block + b"\0" * (len(block) % 2)


def iptc_segment(block: bytes) -> bytes:
    return segment(0xED, b"Photoshop 3.0\0" + resources(block))


def extended_xmp(inside: str) -> tuple[bytes, bytes]:
    """Return a main XMP packet, and two segments of extended XMP in the wrong order."""
    whole, guid = packet(inside, wrap=False), b"0123456789ABCDEF" * 2
    head = b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">I", len(whole))
    half = len(whole) // 2
    parts = [
        segment(0xE1, head + struct.pack(">I", start) + whole[start:end]) for start, end in ((half, None), (0, half))
    ]
    note = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="' + guid.decode() + '"'
    return xmp_segment(packet("", note)), b"".join(parts)


def png_text(**chunks: Any) -> bytes:
    info = PngInfo()
    for keyword, value in chunks.items():
        info.add_text(keyword, value)
    return encoded("PNG", pnginfo=info)


def png_with_xmp(content: bytes, compressed: bool) -> bytes:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", content.decode(), zip=compressed)
    return encoded("PNG", pnginfo=info)


def png_with_raw_profile(kind: str, content: bytes) -> bytes:
    """Add a raw profile as ImageMagick writes it to PNG."""
    digits = content.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    text = f"\n{kind}\n{len(content):8d}\n{lines}\n".encode()
    body = b"zTXt" + f"Raw profile type {kind}".encode() + b"\0\0" + zlib.compress(text)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = encoded("PNG")
    return data[:33] + chunk + data[33:]


def regions(items: str, nested: bool = False) -> str:
    """Return regions of the Metadata Working Group, as a resource or as a nested description."""
    inside = f"<mwg-rs:RegionList><rdf:Bag>{items}</rdf:Bag></mwg-rs:RegionList>"
    if nested:
        return f"<mwg-rs:Regions><rdf:Description>{inside}</rdf:Description></mwg-rs:Regions>"
    return f'<mwg-rs:Regions rdf:parseType="Resource">{inside}</mwg-rs:Regions>'


def captioned(name: str, data: bytes, **more: Any) -> Case:
    return Case(name, {"photo" + (more.pop("suffix", ".jpg")): data}, {"caption": WORDS, **more})


def dated(name: str, data: bytes, taken: str | None = DATE) -> Case:
    return Case(name, {"scan.jpg": data}, {"taken": taken})


def tagged(name: str, inside: str, *tags: str) -> Case:
    return Case(name, {"photo.jpg": jpeg_with_xmp(inside)}, {"tags": tags})


def beside(name: str, sidecars: dict[str, bytes], picture: bytes, photo: str = "photo.jpg", **expected: Any) -> Case:
    return Case(name, {photo: picture} | sidecars, expected)


def user_comment(content: bytes) -> bytes:
    return encoded(exif=exif({}, {0x9286: content}))


def in_exif(tags: dict[int, Any], inner: dict[int, Any] | None = None, gps: dict[int, Any] | None = None) -> bytes:
    return encoded(exif=exif(tags, inner, gps))


FACE = 'mwg-rs:Name="Ann Lee" mwg-rs:Type="Face"'
SIDE = packet(description(WORDS) + array("dc:subject", ["pier"]))
PLAIN = encoded()
NORTH_EAST = {1: "N", 2: (52.0, 30.0, 30.0), 3: "E", 4: (13.0, 24.0, 0.0)}

CAPTIONS = [
    captioned("XMP alternative", jpeg_with_xmp(description(WORDS))),
    captioned("XMP attribute", jpeg_with_xmp("", f'dc:description="{WORDS}"')),
    captioned("XMP plain element", jpeg_with_xmp(f"<dc:description>{WORDS}</dc:description>")),
    captioned("XMP bag", jpeg_with_xmp(array("dc:description", [WORDS]))),
    captioned("XMP sequence", jpeg_with_xmp(array("dc:description", [WORDS], "Seq"))),
    captioned("XMP without language", jpeg_with_xmp(array("dc:description", [WORDS], "Alt"))),
    captioned("XMP other language alone", jpeg_with_xmp(description(WORDS, "en-GB"))),
    captioned(
        "XMP default after another language",
        jpeg_with_xmp(
            '<dc:description><rdf:Alt><rdf:li xml:lang="de">Zwei Boote</rdf:li>'
            f'<rdf:li xml:lang="x-default">{WORDS}</rdf:li></rdf:Alt></dc:description>'
        ),
    ),
    captioned(
        "XMP value with qualifier",
        jpeg_with_xmp(f'<dc:description rdf:parseType="Resource"><rdf:value>{WORDS}</rdf:value></dc:description>'),
    ),
    captioned(
        "XMP value in a nested description",
        jpeg_with_xmp(
            f"<dc:description><rdf:Description><rdf:value>{WORDS}</rdf:value></rdf:Description></dc:description>"
        ),
    ),
    captioned(
        "XMP items without an array", jpeg_with_xmp(f"<dc:description><rdf:li>{WORDS}</rdf:li></dc:description>")
    ),
    captioned(
        "XMP in a second description",
        with_segments(
            PLAIN,
            xmp_segment(
                packet(
                    f'</rdf:Description><rdf:Description rdf:about="">{description(WORDS)}', 'xmp:Rating="3"'
                ).replace(
                    b'<rdf:Description rdf:about="">',
                    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">',
                )
            ),
        ),
        rating=3,
    ),
    captioned("XMP without a wrapper", with_segments(PLAIN, xmp_segment(packet(description(WORDS), wrap=False)))),
    captioned("XMP with zeros after it", with_segments(PLAIN, xmp_segment(packet(description(WORDS)) + bytes(50)))),
    captioned(
        "XMP after a declaration",
        with_segments(PLAIN, xmp_segment(b'<?xml version="1.0"?>' + packet(description(WORDS), wrap=False))),
    ),
    captioned("XMP in UTF-16", with_segments(PLAIN, xmp_segment(packet(description(WORDS)).decode().encode("utf-16")))),
    captioned(
        "XMP in UTF-16 without a mark",
        with_segments(PLAIN, xmp_segment(packet(description(WORDS), wrap=False).decode().encode("utf-16-be"))),
    ),
    captioned("XMP with control characters", jpeg_with_xmp(description(WORDS + "&#0;\x01"))),
    captioned(
        "XMP without a namespace declaration",
        with_segments(
            PLAIN, xmp_segment(packet(description(WORDS)).replace(b' xmlns:dc="http://purl.org/dc/elements/1.1/"', b""))
        ),
    ),
    captioned(
        "XMP with other prefixes",
        with_segments(
            PLAIN,
            xmp_segment(
                packet(description(WORDS))
                .replace(b"rdf:", b"r:")
                .replace(b"xmlns:rdf", b"xmlns:r")
                .replace(b"dc:", b"core:")
                .replace(b"xmlns:dc", b"xmlns:core")
            ),
        ),
    ),
    captioned("XMP in CDATA", jpeg_with_xmp(description(f"<![CDATA[{WORDS}]]>"))),
    captioned(
        "XMP in a second packet",
        with_segments(PLAIN, xmp_segment(packet("", 'xmp:Rating="3"')), xmp_segment(packet(description(WORDS)))),
        rating=3,
    ),
    captioned("XMP extended", with_segments(PLAIN, *extended_xmp(description(WORDS)))),
    captioned(
        "XMP with an empty default",
        with_segments(PLAIN, xmp_segment(packet(description(""))), iptc_segment(iim((120, WORDS.encode())))),
    ),
    captioned(
        "XMP damaged, IPTC intact",
        with_segments(PLAIN, xmp_segment(b"<x:xmpmeta"), iptc_segment(iim((120, WORDS.encode())))),
    ),
    captioned("XMP in PNG", png_with_xmp(packet(description(WORDS)), False), suffix=".png"),
    captioned("XMP compressed in PNG", png_with_xmp(packet(description(WORDS)), True), suffix=".png"),
    captioned("XMP in a PNG's raw profile", png_with_raw_profile("xmp", packet(description(WORDS))), suffix=".png"),
    captioned("XMP in WebP", encoded("WEBP", xmp=packet(description(WORDS))), suffix=".webp"),
    captioned("XMP in TIFF", encoded("TIFF", tiffinfo={700: packet(description(WORDS))}), suffix=".tif"),
    captioned("XMP in AVIF", encoded("AVIF", xmp=packet(description(WORDS))), suffix=".avif"),
    captioned("IPTC", with_segments(PLAIN, iptc_segment(iim((120, WORDS.encode()))))),
    Case(
        "IPTC in UTF-8 undeclared",
        {"a.jpg": with_segments(PLAIN, iptc_segment(iim((120, "Zürich 東京".encode()), utf8=False)))},
        {"caption": "Zürich 東京"},
    ),
    Case(
        "IPTC in Windows-1252",
        {"a.jpg": with_segments(PLAIN, iptc_segment(iim((120, "Zürich – 5 €".encode("cp1252")), utf8=False)))},
        {"caption": "Zürich – 5 €"},
    ),
    captioned(
        "IPTC in two segments",
        with_segments(
            PLAIN,
            *(
                segment(0xED, b"Photoshop 3.0\0" + part)
                for part in (resources(iim((120, WORDS.encode())))[:30], resources(iim((120, WORDS.encode())))[30:])
            ),
        ),
    ),
    captioned(
        "IPTC with an extended length",
        with_segments(PLAIN, iptc_segment(b"\x1c\x02\x78\x80\x04" + struct.pack(">I", len(WORDS)) + WORDS.encode())),
    ),
    captioned("IPTC in TIFF", encoded("TIFF", tiffinfo={33723: iim((120, WORDS.encode()))}), suffix=".tif"),
    captioned(
        "IPTC in a TIFF's resources",
        encoded("TIFF", tiffinfo={34377: resources(iim((120, WORDS.encode())))}),
        suffix=".tif",
    ),
    captioned(
        "IPTC in a PNG's raw profile",
        png_with_raw_profile("iptc", resources(iim((120, WORDS.encode())))),
        suffix=".png",
    ),
    captioned("EXIF description", in_exif({0x010E: WORDS})),
    Case("EXIF description in UTF-8", {"a.jpg": in_exif({0x010E: "Zürich 東京".encode()})}, {"caption": "Zürich 東京"}),
    captioned("EXIF description in PNG", encoded("PNG", exif=exif({0x010E: WORDS})), suffix=".png"),
    captioned("EXIF description in WebP", encoded("WEBP", exif=exif({0x010E: WORDS})), suffix=".webp"),
    captioned("EXIF description in TIFF", encoded("TIFF", tiffinfo={0x010E: WORDS}), suffix=".tif"),
    captioned("EXIF description in AVIF", encoded("AVIF", exif=exif({0x010E: WORDS})), suffix=".avif"),
    *(
        Case(f"EXIF placeholder {text!r}", {"a.jpg": in_exif({0x010E: text})}, {"caption": None})
        for text in (
            "OLYMPUS DIGITAL CAMERA",
            "SONY DSC",
            "Exif_JPEG_PICTURE",
            "SAMSUNG CAMERA PICTURES",
            "oznorWO",
            "   ",
            "- -",
        )
    ),
    captioned(
        "EXIF placeholder before a comment",
        in_exif({0x010E: "KODAK DIGITAL STILL CAMERA"}, {0x9286: b"ASCII\0\0\0" + WORDS.encode()}),
    ),
    captioned("user comment in ASCII", user_comment(b"ASCII\0\0\0" + WORDS.encode() + bytes(20))),
    captioned("user comment in Unicode, little-endian", user_comment(b"UNICODE\0" + WORDS.encode("utf-16-le"))),
    captioned("user comment in Unicode, big-endian", user_comment(b"UNICODE\0" + WORDS.encode("utf-16-be"))),
    captioned("user comment without a character set", user_comment(bytes(8) + WORDS.encode())),
    Case(
        "user comment in JIS",
        {"a.jpg": user_comment(b"JIS\0\0\0\0\0" + "東京の港".encode("iso2022_jp"))},
        {"caption": "東京の港"},
    ),
    Case("user comment of an app", {"a.jpg": user_comment(b'ASCII\0\0\0{"beautyLevel": 3}')}, {"caption": None}),
    Case("user comment of bytes", {"a.jpg": user_comment(b"ASCII\0\0\0" + bytes(range(1, 30)) * 4)}, {"caption": None}),
    Case("screenshot's comment", {"a.jpg": user_comment(b"ASCII\0\0\0Screenshot")}, {"caption": None}),
    captioned(
        "Windows' comment and keywords",
        in_exif({0x9C9C: WORDS.encode("utf-16le") + b"\0\0", 0x9C9E: "boat;harbor".encode("utf-16le")}),
        tags=("boat", "harbor"),
    ),
    captioned("Windows' title", in_exif({0x9C9B: WORDS.encode("utf-16le")})),
    captioned("Windows' subject", in_exif({0x9C9F: WORDS.encode("utf-16le")})),
    captioned("PNG's own description", png_text(Description=WORDS), suffix=".png"),
    Case(
        "newlines stay",
        {"a.jpg": jpeg_with_xmp(description("Harbor at dawn&#xA;Boats&#xD;&#xA;return"))},
        {"caption": "Harbor at dawn\nBoats\nreturn"},
    ),
    Case(
        "joined emoji and half-spaces stay",
        {
            "a.jpg": jpeg_with_xmp(
                description("کتاب\u200cها 👨\u200d👩\u200d👧") + array("dc:subject", ["10\u00a0km", "red\tboat"])
            )
        },
        {"caption": "کتاب\u200cها 👨\u200d👩\u200d👧", "tags": ("10 km", "red boat")},
    ),
    Case(
        "nothing at all",
        {"a.jpg": PLAIN},
        {"caption": None, "tags": (), "taken": None, "rating": None, "label": None, "latitude": None},
    ),
]
SIDECARS = [
    *(
        beside(f"sidecar {name}", {name: SIDE}, PLAIN, caption=WORDS, tags=("pier",))
        for name in ("photo.xmp", "photo.jpg.xmp", "photo.XMP", "photo.jpg.XMP", "PHOTO.JPG.xmp", "Photo.Xmp")
    ),
    beside("sidecar before the file", {"photo.jpg.xmp": SIDE}, jpeg_with_xmp(description(OTHERS)), caption=WORDS),
    beside(
        "the more specific sidecar first",
        {"photo.jpg.xmp": SIDE, "photo.xmp": packet(description(OTHERS))},
        PLAIN,
        caption=WORDS,
    ),
    beside(
        "a sidecar without a caption",
        {"photo.jpg.xmp": packet("", 'xmp:Rating="4"')},
        jpeg_with_xmp(description(WORDS)),
        caption=WORDS,
        rating=4,
    ),
    beside("an empty sidecar", {"photo.jpg.xmp": b""}, jpeg_with_xmp(description(WORDS)), caption=WORDS),
    beside("a damaged sidecar", {"photo.jpg.xmp": b"<x:xmp"}, jpeg_with_xmp(description(WORDS)), caption=WORDS),
    beside("a RAW file's sidecar by stem", {"photo.CR2": b"", "photo.xmp": SIDE}, PLAIN, caption=WORDS),
    beside("a RAW file's sidecar by name", {"photo.NEF": b"", "photo.NEF.xmp": SIDE}, PLAIN, caption=WORDS),
    beside("another picture's sidecar", {"photo.png.xmp": SIDE, "photo2.xmp": SIDE}, PLAIN, caption=None),
    beside(
        "a sidecar's date",
        {"photo.xmp": packet("", f'exif:DateTimeOriginal="{DATE}"')},
        in_exif({}, {0x9003: "2021:03:04 05:06:07"}),
        taken=DATE,
    ),
    beside(
        "a sidecar's place",
        {"photo.xmp": packet("", 'exif:GPSLatitude="52,30.5S" exif:GPSLongitude="13,24.0W"')},
        in_exif({}, gps=NORTH_EAST),
        latitude=-52.508333,
        longitude=-13.4,
    ),
    beside(
        "a sidecar's digitization date",
        {"photo.xmp": packet("", f'xmp:CreateDate="{OTHER_DATE}"')},
        in_exif({}, {0x9003: "1987:06:05 04:03:02"}),
        taken=DATE,
    ),
]
DATES = [
    dated(
        "EXIF original",
        in_exif({0x0132: "2021:03:04 05:06:07"}, {0x9003: "1987:06:05 04:03:02", 0x9004: "2021:03:04 05:06:07"}),
    ),
    dated("EXIF digitized", in_exif({0x0132: "2021:03:04 05:06:07"}, {0x9004: "1987:06:05 04:03:02"})),
    dated("EXIF modified", in_exif({0x0132: "1987:06:05 04:03:02"})),
    dated("EXIF with dashes", in_exif({}, {0x9003: "1987-06-05T04:03:02+02:00"})),
    dated("EXIF with slashes", in_exif({}, {0x9003: "1987/06/05 04:03:02"})),
    dated("EXIF of a scanner", in_exif({}, {0x9003: "Fri Jun 05 04:03:02 1987"})),
    dated("EXIF with a 12-hour clock", in_exif({}, {0x9003: "1987:06:05 04:03:02 PM"}), "1987-06-05T16:03:02"),
    dated(
        "EXIF with a Chinese 12-hour clock",
        in_exif({}, {0x9003: "1987:06:05 下午 04:03:02".encode()}),
        "1987-06-05T16:03:02",
    ),
    dated("EXIF of the Thai calendar", in_exif({}, {0x9003: "2567:06:05 04:03:02"}), "2024-06-05T04:03:02"),
    dated("EXIF date alone", in_exif({}, {0x9003: "1987:06:05"}), "1987-06-05T00:00:00"),
    dated("EXIF zeros", in_exif({}, {0x9003: "0000:00:00 00:00:00"}), None),
    dated("EXIF blanks", in_exif({}, {0x9003: "    :  :     :  :  "}), None),
    dated("EXIF year 1", in_exif({}, {0x9003: "0001:01:01 00:00:00"}), None),
    dated("XMP alone", jpeg_with_xmp("", f'exif:DateTimeOriginal="{DATE}" photoshop:DateCreated="1987-06-05"')),
    dated(
        "XMP day completed by another field",
        jpeg_with_xmp("", f'photoshop:DateCreated="1987-06-05" exif:DateTimeOriginal="{DATE}"'),
    ),
    dated("XMP of a scan", jpeg_with_xmp("", f'photoshop:DateCreated="{DATE}" xmp:CreateDate="{OTHER_DATE}"')),
    dated(
        "XMP before the date of scanning in EXIF",
        with_segments(
            in_exif({0x0132: "2021:03:04 05:06:07"}), xmp_segment(packet("", f'photoshop:DateCreated="{DATE}"'))
        ),
    ),
    dated("XMP as element", jpeg_with_xmp(f"<exif:DateTimeOriginal>{DATE}</exif:DateTimeOriginal>")),
    dated("XMP with zone and fraction", jpeg_with_xmp("", f'exif:DateTimeOriginal="{DATE}.25-05:00"')),
    dated("XMP year alone", jpeg_with_xmp("", 'photoshop:DateCreated="1987"'), "1987-01-01T00:00:00"),
    dated("XMP month alone", jpeg_with_xmp("", 'photoshop:DateCreated="1987-06"'), "1987-06-01T00:00:00"),
    dated("IPTC date and time", with_segments(PLAIN, iptc_segment(iim((55, b"19870605"), (60, b"040302+0100"))))),
    dated("IPTC date alone", with_segments(PLAIN, iptc_segment(iim((55, b"19870605")))), "1987-06-05T00:00:00"),
]
PLACES = [
    Case("EXIF place", {"a.jpg": in_exif({}, gps=NORTH_EAST)}, {"latitude": 52.508333, "longitude": 13.4}),
    Case(
        "EXIF south-west",
        {"a.jpg": in_exif({}, gps=NORTH_EAST | {1: "S", 3: "W"})},
        {"latitude": -52.508333, "longitude": -13.4},
    ),
    Case(
        "EXIF zero, zero",
        {"a.jpg": in_exif({}, gps={1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)})},
        {"latitude": None, "longitude": None},
    ),
    Case(
        "EXIF latitude alone",
        {"a.jpg": in_exif({}, gps={1: "N", 2: (52.0, 0.0, 0.0)})},
        {"latitude": None, "longitude": None},
    ),
    *(
        Case(
            f"XMP place {north}",
            {"a.jpg": jpeg_with_xmp("", f'exif:GPSLatitude="{north}" exif:GPSLongitude="{east}"')},
            {"latitude": 52.508333, "longitude": 13.4},
        )
        for north, east in (("52,30.5N", "13,24.0E"), ("52,30,30N", "13,24,0E"), ("52.508333", "13.4"))
    ),
    Case(
        "XMP place with a reference",
        {"a.jpg": jpeg_with_xmp("", 'exif:GPSLatitude="52.5" exif:GPSLatitudeRef="S" exif:GPSLongitude="13.4"')},
        {"latitude": -52.5, "longitude": 13.4},
    ),
    Case(
        "XMP place that is none",
        {"a.jpg": jpeg_with_xmp("", 'exif:GPSLatitude="99,0N" exif:GPSLongitude="13,24.0E"')},
        {"latitude": None},
    ),
]
KEYWORDS = [
    tagged("keywords in a bag", array("dc:subject", ["pier", "boat", "pier"]), "pier", "boat"),
    tagged("keywords in a sequence", array("dc:subject", ["pier", "boat"], "Seq"), "pier", "boat"),
    tagged("one plain keyword", "<dc:subject>pier</dc:subject>", "pier"),
    tagged(
        "Lightroom's hierarchy", array("lr:hierarchicalSubject", ["Places|Germany|Köln"]), "Köln", "Places/Germany/Köln"
    ),
    tagged("digiKam's tags", array("digiKam:TagsList", ["Places/Köln"], "Seq"), "Köln", "Places/Köln"),
    tagged(
        "Microsoft's keywords",
        array("MicrosoftPhoto:LastKeywordXMP", ["pier", "Places/Köln"]),
        "pier",
        "Köln",
        "Places/Köln",
    ),
    tagged(
        "flat keywords and their hierarchy",
        array("dc:subject", ["Köln"]) + array("lr:hierarchicalSubject", ["Places|Köln"]),
        "Köln",
        "Places/Köln",
    ),
    tagged(
        "a person's region",
        regions(f"<rdf:li><rdf:Description {FACE}/></rdf:li>"),
        "person:Ann Lee",
    ),
    tagged(
        "a person's region as attributes",
        regions(f"<rdf:li {FACE}/>", nested=True),
        "person:Ann Lee",
    ),
    tagged(
        "a person's region as resource",
        regions(
            '<rdf:li rdf:parseType="Resource"><mwg-rs:Name>Ann Lee</mwg-rs:Name>'
            "<mwg-rs:Type>Face</mwg-rs:Type></rdf:li>"
        ),
        "person:Ann Lee",
    ),
    tagged(
        "a pet's region",
        regions('<rdf:li mwg-rs:Name="Rex" mwg-rs:Type="Pet"/>'),
    ),
    tagged(
        "Microsoft's region",
        '<MP:RegionInfo rdf:parseType="Resource"><MPRI:Regions><rdf:Bag><rdf:li MPReg:PersonDisplayName="Ann Lee"/>'
        "</rdf:Bag></MPRI:Regions></MP:RegionInfo>",
        "person:Ann Lee",
    ),
    tagged(
        "persons without regions",
        array("dc:subject", ["pier"]) + array("Iptc4xmpExt:PersonInImage", ["Ann Lee"]),
        "pier",
        "person:Ann Lee",
    ),
    Case(
        "IPTC keywords",
        {"a.jpg": with_segments(PLAIN, iptc_segment(iim((25, b"pier"), (25, "Köln".encode()))))},
        {"tags": ("pier", "Köln")},
    ),
    Case(
        "IPTC's other fields",
        {
            "a.jpg": with_segments(
                PLAIN, iptc_segment(iim((105, b"Dawn"), (80, b"Ann Lee"), (90, "Köln".encode()), (101, b"Germany")))
            )
        },
        {"headline": "Dawn", "creator": "Ann Lee", "city": "Köln", "country": "Germany"},
    ),
    Case(
        "XMP's other fields",
        {
            "a.jpg": jpeg_with_xmp(
                array("dc:creator", ["Ann Lee"], "Seq"),
                'photoshop:Headline="Dawn" photoshop:City="Köln" photoshop:Country="Germany"',
            )
        },
        {"headline": "Dawn", "creator": "Ann Lee", "city": "Köln", "country": "Germany"},
    ),
    Case("EXIF artist", {"a.jpg": in_exif({0x013B: "Ann Lee"})}, {"creator": "Ann Lee"}),
    Case(
        "camera in XMP", {"a.jpg": jpeg_with_xmp("", 'tiff:Make="NIKON" tiff:Model="NIKON D3"')}, {"camera": "NIKON D3"}
    ),
    *(
        Case(f"XMP rating {stars}", {"a.jpg": jpeg_with_xmp("", f'xmp:Rating="{stars}"')}, {"rating": rating})
        for stars, rating in (("4", 4), ("-1", -1), ("0", 0), ("5.0", 5), ("nan", None), ("many", None))
    ),
    *(
        Case(
            f"Microsoft's rating {percent}",
            {"a.jpg": jpeg_with_xmp("", f'MicrosoftPhoto:Rating="{percent}"')},
            {"rating": rating},
        )
        for percent, rating in (("1", 1), ("25", 2), ("50", 3), ("75", 4), ("99", 5))
    ),
    Case("EXIF rating", {"a.jpg": in_exif({0x4746: 4})}, {"rating": 4}),
    Case("EXIF rating in percent", {"a.jpg": in_exif({0x4749: 75})}, {"rating": 4}),
    *(
        Case(f"label by {name}", {"a.jpg": jpeg_with_xmp(inside, attributes)}, {"label": "Red"})
        for name, inside, attributes in (
            ("XMP", "", 'xmp:Label="Red"'),
            ("digiKam", "", 'digiKam:ColorLabel="1"'),
            ("darktable", array("darktable:colorlabels", ["0"], "Seq"), ""),
        )
    ),
    Case("label none", {"a.jpg": jpeg_with_xmp("", 'digiKam:ColorLabel="0"')}, {"label": None}),
]
SIZES = [
    Case(f"upright {kind}", {f"a.{kind.lower()}": encoded(kind, exif=exif({0x0112: 6}))}, {"width": 20, "height": 40})
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
]
NAMES = [
    Case(name, {name: encoded("PNG" if name.endswith("png") else "JPEG")}, {"taken": taken})
    for name, taken in {
        "IMG-20240501-WA0001.jpg": "2024-05-01T00:00:00",
        "WhatsApp Image 2024-05-01 at 10.11.12.jpeg": "2024-05-01T10:11:12",
        "WhatsApp Image 2024-05-01 at 1.11.12 PM.jpeg": "2024-05-01T13:11:12",
        "Screenshot_20240501-101112.png": "2024-05-01T10:11:12",
        "Screenshot_2024-05-01-10-11-12-123_com.app.png": "2024-05-01T10:11:12",
        "Screenshot 2024-05-01 at 10.11.12 AM.png": "2024-05-01T10:11:12",
        "Screenshot from 2024-05-01 10-11-12.png": "2024-05-01T10:11:12",
        "Screenshot 2024-05-01 101112.png": "2024-05-01T10:11:12",
        "Bildschirmfoto 2024-05-01 um 10.11.12.png": "2024-05-01T10:11:12",
        "截屏2024-05-01 10.11.12.png": "2024-05-01T10:11:12",
        "PXL_20240501_101112345.jpg": "2024-05-01T10:11:12",
        "IMG20240501101112.jpg": "2024-05-01T10:11:12",
        "20240501_101112(0).jpg": "2024-05-01T10:11:12",
        "2024-05-01 10.11.12.jpg": "2024-05-01T10:11:12",
        "signal-2024-05-01-10-11-12-123.jpg": "2024-05-01T10:11:12",
        "photo_2024-05-01_10-11-12.jpg": "2024-05-01T10:11:12",
        "FB_IMG_1714557072000.jpg": "2024-05-01T09:51:12",
        "mmexport1714557072000.jpg": "2024-05-01T09:51:12",
        "IMG_12345678.jpg": None,
        "DSC_0001.jpg": None,
        "sku-4006381333931.jpg": None,
        "article 19991231999.jpg": None,
        "2024-13-45.jpg": None,
    }.items()
]
METADATA = [*CAPTIONS, *SIDECARS, *DATES, *PLACES, *KEYWORDS, *SIZES, *NAMES]
