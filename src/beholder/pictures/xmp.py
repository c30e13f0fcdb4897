"""XMP packets: read properties in every RDF form, replace ``dc:description``, and add others, nothing else touched.

A packet is parsed with expat into elements that know their byte offsets. Editing splices bytes, so comments, padding,
prefixes and unknown namespaces stay as they are.

Source: ISO 16684-1 (the data model and its RDF serialization, section 7; packet wrappers, section 7.3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XML = "http://www.w3.org/XML/1998/namespace"
NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": RDF,
    "xml": XML,
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "darktable": "http://darktable.sf.net/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
DESCRIPTION = "dc:description"
SUBJECT = "dc:subject"
HEADER = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
TRAILER = b'\n<?xpacket end="w"?>'
MAX_BYTES = 16_000_000
_MAX_DEPTH = 64
_PREFIXES = {uri: prefix for prefix, uri in NAMESPACES.items()}
_ARRAYS = ("rdf:Alt", "rdf:Bag", "rdf:Seq")
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # XML 1.0, section 2.2
_REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]{1,8})|([0-9]{1,8}));")
_TAG = re.compile(rb"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")
_ATTRIBUTE = re.compile(rb"""\s+([^\s=/>]+)\s*=\s*("[^"]*"|'[^']*')""")


class XmpError(ValueError):
    """A packet can't be parsed, or can't be edited safely."""


@dataclass
class _Element:
    """An XML element; names are ``prefix:local`` with the prefixes of `NAMESPACES`, or ``{uri}local``."""

    name: str
    tag: str  # as spelled in the file
    attributes: list[tuple[str, str, str]]  # name, value, spelling
    prefixes: dict[str, str]  # in scope
    start: int  # offset of "<"
    inner: int = 0  # offset after the start tag
    close: int = 0  # offset of "</"; equal to ``end`` for an empty-element tag
    end: int = 0  # offset after the element
    children: list[_Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        return next((value for key, value, _ in self.attributes if key == name), None)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(frozen=True)
class Value:
    """The value of a property: a text, the items of an array, or the fields of a structure."""

    text: str = ""
    items: tuple[Value, ...] = ()
    fields: dict[str, Value] = field(default_factory=dict)
    language: str | None = None

    @property
    def default(self) -> str:
        """The text; of an array, the item for ``x-default``, or else the first that is not empty."""
        if not self.items:
            return self.text
        ordered = sorted(self.items, key=lambda item: (item.language or "x-default").lower() != "x-default")
        return next((item.default for item in ordered if item.default.strip()), "")

    @property
    def texts(self) -> list[str]:
        """The texts of all items; of a simple value, its own."""
        return [item.default for item in self.items] if self.items else [self.text] * bool(self.text)


def parse_xmp(packet: bytes) -> dict[str, Value]:
    """Return the properties of a packet by name, such as ``dc:subject``.

    Handles attributes, plain elements, arrays, structures in all notations, several descriptions, UTF-8, UTF-16 and
    UTF-32, missing namespace declarations and illegal characters. The first occurrence of a property wins.

    Raises:
        XmpError: The packet is not well-formed, too large, too deep, or declares entities.
    """
    text = _ILLEGAL.sub("", _REFERENCE.sub(_legal_reference, _decoded(packet, "replace")))
    return _properties(_parse(text.encode()))


def set_description(packet: bytes, caption: str) -> bytes:
    """Return a packet with ``dc:description`` replaced in the default language, all other bytes unchanged.

    Descriptions in other languages stay, unless they repeat the one that is replaced. A packet in UTF-16 or UTF-32 is
    transcoded to UTF-8.

    Args:
        packet: The packet; empty to create a new one.
        caption: The text. Characters that XML can't represent are dropped.

    Raises:
        XmpError: The packet can't be parsed, or an edit would change another property.
    """
    caption = _ILLEGAL.sub("", caption)
    if not packet.strip(b"\x00 \r\n\t"):
        return _new_packet(_alternatives(caption, f' xmlns:dc="{NAMESPACES["dc"]}"'))
    lead, data, tail = _without_padding(packet)
    root = _parse(data)
    edited = _spliced(data, _description_edits(data, root, caption))
    before, after = _properties(root), _properties(_parse(edited))
    written = after.pop(DESCRIPTION, Value()).default
    before.pop(DESCRIPTION, None)
    if before != after or written != caption:
        raise XmpError("its caption can't be replaced without changing other properties")
    return lead + edited + tail


def add_properties(packet: bytes, texts: Mapping[str, str], items: Mapping[str, Sequence[str]]) -> bytes:
    """Return a packet with properties added that it lacks, and items to arrays that lack them; nothing is replaced.

    Args:
        packet: The packet; empty to create a new one.
        texts: Simple properties by name, such as ``photoshop:City``. One that the packet has is left alone.
        items: Items of unordered arrays by name, such as ``dc:subject``.

    Raises:
        XmpError: The packet can't be parsed, or a property is not the array that it should be.
    """
    texts = {name: _ILLEGAL.sub("", text) for name, text in texts.items()}
    items = {name: [_ILLEGAL.sub("", text) for text in some] for name, some in items.items()}
    if not packet.strip(b"\x00 \r\n\t"):
        packet = _new_packet("")
    lead, data, tail = _without_padding(packet)
    root = _parse(data)
    before = _properties(root)
    missing = {name: text for name, text in texts.items() if not before.get(name, Value()).default.strip()}
    missing_items = {
        name: [text for text in dict.fromkeys(some) if text not in before.get(name, Value()).texts]
        for name, some in items.items()
    }
    missing_items = {name: some for name, some in missing_items.items() if some}
    if not missing and not missing_items:
        return lead + data + tail
    holder = next((node for node in _nodes(root) if node.name == "rdf:Description"), None)
    if holder is None:
        raise XmpError("has no rdf:Description")
    edits, new = [], [_declared(holder, name, _escaped(text)) for name, text in missing.items()]
    for name, some in missing_items.items():
        property_ = next((child for node in _nodes(root) for child in node.children if child.name == name), None)
        if property_ is None and name in before:
            raise XmpError(f"its {name} is an attribute, not an array")
        if property_ is None:
            new.append(_declared(holder, name, _bag(some, holder)))
            continue
        array = next((child for child in property_.children if child.name in _ARRAYS), None)
        if array is None:
            raise XmpError(f"its {name} is not an array")
        prefix = array.tag.partition(":")[0]
        edits.append(_inserted(array, "".join(f"<{prefix}:li>{_escaped(text)}</{prefix}:li>" for text in some)))
    if new:
        edits.append(_inserted(holder, "".join(new)))
    edited = _spliced(data, edits)
    after = _properties(_parse(edited))
    for name, text in missing.items():
        before.pop(name, None)
        if after.pop(name, Value()).default != text:
            raise XmpError(f"its {name} can't be written")
    for name, some in missing_items.items():
        if after.pop(name, Value()).texts != [*before.pop(name, Value()).texts, *some]:
            raise XmpError(f"its {name} can't be extended")
    if before != after:
        raise XmpError("it can't be extended without changing other properties")
    return lead + edited + tail


def _new_packet(properties: str) -> bytes:
    new = f'<rdf:Description rdf:about="">{properties}</rdf:Description>'
    body = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">{new}</rdf:RDF></x:xmpmeta>'
    return HEADER + body.encode() + TRAILER


def _without_padding(packet: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what stands before a packet's document, the document in UTF-8, and what stands after it."""
    try:
        packet.decode()
        data, start = packet, max(packet.find(b"<"), 0)
    except UnicodeDecodeError:
        data, start = _decoded(packet, "strict").encode(), 0
    end = data.rfind(b">") + 1
    return data[:start], data[start:end], data[end:]


def _spliced(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for begin, end, new_bytes in sorted(edits, reverse=True):
        data = data[:begin] + new_bytes + data[end:]
    return data


def _decoded(packet: bytes, errors: str) -> str:
    if len(packet) > MAX_BYTES:
        raise XmpError(f"longer than {MAX_BYTES} bytes")
    encoding = "utf-8"
    for candidate in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        if packet.startswith(("\ufeff".encode(candidate), "<?".encode(candidate), "<x".encode(candidate))):
            encoding = candidate
            break
    try:
        text = packet.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise XmpError(f"not valid {encoding}") from error
    text = text[max(text.find("<"), 0) : text.rfind(">") + 1]
    return re.sub(r"^<\?xml\b[^>]*\?>", "", text)


def _legal_reference(match: re.Match[str]) -> str:
    code = int(match[1], 16) if match[1] else int(match[2])
    return "" if code > 0x10FFFF or _ILLEGAL.match(chr(code)) else match[0]


def _parse(data: bytes) -> _Element:
    """Parse a document into elements with byte offsets, below a root element without a name."""
    parser = expat.ParserCreate("utf-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    root = _Element("", "", [], {"xml": XML}, 0)
    stack = [root]

    def start(tag: str, flat: list[str]) -> None:
        if len(stack) > _MAX_DEPTH:
            raise XmpError(f"nested more than {_MAX_DEPTH} deep")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        declared = {key[6:]: value for key, value in pairs if key.startswith("xmlns:")}
        prefixes = stack[-1].prefixes | declared if declared else stack[-1].prefixes
        attributes = [(_expand(key, prefixes), value, key) for key, value in pairs if key.split(":")[0] != "xmlns"]
        begin = parser.CurrentByteIndex
        element = _Element(_expand(tag, prefixes), tag, attributes, prefixes, begin, _end_of_tag(data, begin))
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        element = stack.pop()
        if data[element.inner - 2 : element.inner] == b"/>":
            element.close = element.end = element.inner
        else:
            element.close = parser.CurrentByteIndex
            element.end = data.index(b">", element.close) + 1

    def refuse(*_: object) -> None:
        raise XmpError("declares a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = lambda text: stack[-1].texts.append(text)
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise XmpError(str(error)) from error
    return root


def _expand(name: str, prefixes: dict[str, str]) -> str:
    prefix, colon, local = name.partition(":")
    if not colon:
        return name
    uri = prefixes.get(prefix) or NAMESPACES.get(prefix, prefix)  # some writers forget to declare a namespace
    known = _PREFIXES.get(uri)
    return f"{known}:{local}" if known else f"{{{uri}}}{local}"


def _end_of_tag(data: bytes, start: int) -> int:
    """Return the offset after the ``>`` of the tag at ``start``, skipping quoted attribute values."""
    match = _TAG.match(data, start)
    if match is None:
        raise XmpError("a tag has no end")
    return match.end()


def _nodes(root: _Element) -> list[_Element]:
    """Return the node elements (``rdf:Description`` or typed) of the outermost ``rdf:RDF``."""
    level = root.children
    while level:
        for element in level:
            if element.name == "rdf:RDF":
                return element.children
        level = [child for element in level for child in element.children]
    return []


def _properties(root: _Element) -> dict[str, Value]:
    properties: dict[str, Value] = {}
    for node in _nodes(root):
        for name, value in _fields(node):
            if name not in properties or not (properties[name].default.strip() or properties[name].fields):
                properties[name] = value
    return properties


def _fields(node: _Element) -> Iterator[tuple[str, Value]]:
    for name, value, _ in node.attributes:
        if not name.startswith(("rdf:", "xml:")) and (":" in name or "}" in name):
            yield name, Value(value)
    for child in node.children:
        yield child.name, _value(child)


def _value(element: _Element) -> Value:
    """Return the value of a property element or an array item."""
    language = element.get("xml:lang")
    array = next((child for child in element.children if child.name in _ARRAYS), None)
    if array is None and any(child.name == "rdf:li" for child in element.children):
        array = element  # the array element is missing
    if array is not None:
        return Value(items=tuple(_value(child) for child in array.children), language=language)
    nested = [child for child in element.children if child.name.split("}")[-1].split(":")[-1] == "Description"]
    inner = nested[0] if nested and element.get("rdf:parseType") != "Resource" else element
    fields = dict(_fields(inner))
    if "rdf:value" in fields:  # with qualifiers
        value = fields.pop("rdf:value")
        return Value(value.text, value.items, fields, language)
    text = "" if element.children else element.text or element.get("rdf:resource") or element.get("rdf:value") or ""
    return Value(text, fields=fields, language=language)


def _description_edits(data: bytes, root: _Element, caption: str) -> list[tuple[int, int, bytes]]:
    """Return the splices (start, end, replacement) that set the description."""
    nodes = _nodes(root)
    edits: list[tuple[int, int, bytes]] = []
    written = False
    for node in nodes:
        for element in (child for child in node.children if child.name == DESCRIPTION):
            if written:
                edits.append((element.start, element.end, b""))
                continue
            edits += _replaced(node, element, caption)
            written = True
        if any(name == DESCRIPTION for name, _, _ in node.attributes):
            spelled = next(spelling for name, _, spelling in node.attributes if name == DESCRIPTION).encode()
            place = node.start + 1 + len(node.tag.encode())
            while (match := _ATTRIBUTE.match(data, place)) is not None:
                if match[1] == spelled:
                    edits.append((match.start(), match.end(), b""))
                place = match.end()
    if not written:
        holder = next((node for node in nodes if node.name == "rdf:Description"), None)
        if holder is not None:
            edits.append(_inserted(holder, _element(holder, caption)))
        else:
            rdf = _find(root, "rdf:RDF")
            if rdf is None:
                raise XmpError("has no rdf:RDF")
            prefix = rdf.tag.partition(":")[0]
            inside = f'<{prefix}:Description {prefix}:about="">{_element(rdf, caption)}</{prefix}:Description>'
            edits.append(_inserted(rdf, inside))
    return edits


def _find(element: _Element, name: str) -> _Element | None:
    for child in element.children:
        found = child if child.name == name else _find(child, name)
        if found is not None:
            return found
    return None


def _replaced(node: _Element, element: _Element, caption: str) -> list[tuple[int, int, bytes]]:
    """Return the splices that set an existing description, in place where it is a proper language alternative."""
    array = element.children[0] if len(element.children) == 1 and element.children[0].name == "rdf:Alt" else None
    items = array.children if array is not None else []
    if array is None or any(item.name != "rdf:li" or item.children for item in items):
        return [(element.start, element.end, _element(node, caption).encode())]
    default = next((item for item in items if (item.get("xml:lang") or "x-default").lower() == "x-default"), None)
    if default is None:
        prefix = array.tag.partition(":")[0]
        item = f'<{prefix}:li xml:lang="x-default">{_escaped(caption)}</{prefix}:li>'
        if array.close == array.end:
            return [_inserted(array, item)]
        return [(array.inner, array.inner, item.encode())]
    same = [item for item in items if item is default or (item.text == default.text and default.text.strip())]
    return [
        (item.inner, item.close, _escaped(caption).encode())
        if item.close != item.end
        else _inserted(item, _escaped(caption))
        for item in same
    ]


def _inserted(element: _Element, inside: str) -> tuple[int, int, bytes]:
    """Return the splice that appends to the content of an element, opening an empty-element tag where needed."""
    if element.close != element.end:
        return element.close, element.close, inside.encode()
    return element.inner - 2, element.inner, f">{inside}</{element.tag}>".encode()


def _element(scope: _Element, caption: str) -> str:
    """Return a description element with the namespace declarations that its scope lacks."""
    declarations = "".join(
        f' xmlns:{prefix}="{NAMESPACES[prefix]}"'
        for prefix in ("dc", "rdf")
        if scope.prefixes.get(prefix) != NAMESPACES[prefix]
    )
    return _alternatives(caption, declarations)


def _declared(scope: _Element, name: str, inside: str) -> str:
    """Return an element with the namespace declaration that its scope lacks."""
    prefix = name.partition(":")[0]
    declaration = "" if scope.prefixes.get(prefix) == NAMESPACES[prefix] else f' xmlns:{prefix}="{NAMESPACES[prefix]}"'
    return f"<{name}{declaration}>{inside}</{name}>"


def _bag(items: Sequence[str], scope: _Element) -> str:
    declaration = "" if scope.prefixes.get("rdf") == RDF else f' xmlns:rdf="{RDF}"'
    return f"<rdf:Bag{declaration}>{''.join(f'<rdf:li>{_escaped(text)}</rdf:li>' for text in items)}</rdf:Bag>"


def _alternatives(caption: str, declarations: str = "") -> str:
    item = f'<rdf:li xml:lang="x-default">{_escaped(caption)}</rdf:li>'
    return f"<dc:description{declarations}><rdf:Alt>{item}</rdf:Alt></dc:description>"


def _escaped(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # a literal carriage return would be read back as a newline
