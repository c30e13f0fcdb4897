"""Writing a caption changes nothing else: properties, segments, additional pictures, attributes and links stay."""

import json
import os
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import warnings
import zlib
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from metadata_files import (
    METADATA,
    PLAIN,
    WORDS,
    Case,
    array,
    description,
    encoded,
    exif,
    extended_xmp,
    iim,
    iptc_segment,
    jpeg_with_xmp,
    packet,
    png_with_xmp,
    segment,
    with_segments,
    xmp_segment,
)
from PIL import Image, ImageSequence

from beholder.errors import PictureBroken, PictureError, PictureUnreadable
from beholder.pictures.caption_metadata import CaptionFileWarning, read_caption, write_caption
from beholder.pictures.containers import ContainerError
from beholder.pictures.photo_metadata import photo_metadata
from beholder.pictures.sidecar import sidecar_path
from beholder.pictures.xmp import XmpError, parse_xmp, set_description

NEW = 'A new caption & <more> "words" — 两只狗'
needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def two_pictures(xmp: bytes) -> bytes:
    file = BytesIO()
    pictures = [Image.linear_gradient("L").resize(size).convert("RGB") for size in ((200, 150), (160, 120))]
    pictures[0].save(file, "MPO", save_all=True, append_images=pictures[1:], **({"xmp": xmp} if xmp else {}))
    return file.getvalue()


def animated(kind: str) -> bytes:
    return encoded(kind, save_all=True, append_images=[Image.new("RGB", (40, 20), "red")], duration=100)


RICH = description("old") + array("dc:subject", ["a", "b"]) + "<!-- a comment --><dc:title>T</dc:title>"
UNKNOWN = 'xmlns:my="http://example.org/my/" my:thing="1"'
FILES = {
    "rich.jpg": with_segments(
        encoded(exif=exif({0x010F: "Canon"}, {0x9003: "2024:01:01 00:00:00"}), icc_profile=bytes(200)),
        xmp_segment(packet(RICH, UNKNOWN)),
        iptc_segment(iim((120, b"words in IPTC"))),
        segment(0xFE, b"a comment"),
        segment(0xEB, b"JP\0\1 an unknown segment"),
    ),
    "two-packets.jpg": with_segments(PLAIN, xmp_segment(packet("", UNKNOWN)), xmp_segment(packet(RICH))),
    "extended.jpg": with_segments(PLAIN, *extended_xmp(array("dc:subject", ["word"] * 50))),
    "stereo.jpg": two_pictures(b""),
    "stereo-with-xmp.jpg": two_pictures(packet(RICH + array("lr:hierarchicalSubject", ["w"] * 40))),
    "trailer.jpg": jpeg_with_xmp(RICH) + b"a trailer of a phone" * 20,
    "progressive.jpg": encoded(progressive=True, comment=b"a comment"),
    "full.jpg": with_segments(PLAIN, xmp_segment(packet(RICH)[:-19] + b" " * 60_000 + b'\n<?xpacket end="w"?>')),
    "exif.png": encoded("PNG", exif=exif({0x010F: "Canon"}), icc_profile=bytes(200)),
    "xmp.png": png_with_xmp(packet(RICH, UNKNOWN), False),
    "compressed.png": png_with_xmp(packet(RICH, UNKNOWN), True),
    "animated.png": animated("PNG"),
    "animated.webp": animated("WEBP"),
    "pages.tif": animated("TIFF"),
}
CASES = [Case(name, {name: data}) for name, data in FILES.items()] + METADATA


def frames(data: bytes) -> list[np.ndarray]:
    with Image.open(BytesIO(data)) as image:
        return [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]


def other_blocks(data: bytes) -> list[bytes]:
    """Return all segments or chunks of a file except XMP and the multi-picture index, and everything after them."""
    blocks, place = [], 2
    if data.startswith(b"\x89PNG"):
        place = 8
        while place < len(data):
            end = place + 12 + int.from_bytes(data[place : place + 4], "big")
            assert zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
            blocks.append(data[place:end])
            place = end
        return [block for block in blocks if not block[4:].startswith(b"iTXtXML:com.adobe.xmp")]
    while data[place + 1] != 0xDA:
        end = place + 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
        blocks.append(data[place:end])
        place = end
    blocks.append(data[place:])
    return [block for block in blocks if block[4:].split(b"\0")[0] not in (b"http://ns.adobe.com/xap/1.0/", b"MPF")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_everything_else_is_preserved(case: Case, tmp_path: Path) -> None:
    for name, data in case.files.items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / next(iter(case.files))
    data, before = path.read_bytes(), {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    known = asdict(photo_metadata(data, path))
    try:
        written = write_caption(path, NEW)
    except PictureBroken:
        assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert "damaged" in case.name or "UTF-16" in case.name or "control" in case.name
        return
    assert read_caption(path) == NEW
    assert asdict(photo_metadata(path.read_bytes(), path)) == known | {"caption": NEW}
    assert {file.name for file in tmp_path.iterdir()} == {*before, written.name}
    for name, content in before.items():
        if name != written.name:
            assert (tmp_path / name).read_bytes() == content
    for old, new in zip(frames(data), frames(path.read_bytes()), strict=True):
        np.testing.assert_array_equal(old, new)
    if written == path:
        assert other_blocks(path.read_bytes()) == other_blocks(data)
        assert path.stat().st_size != len(data), "programs that compare sizes notice"
    write_caption(path, "once more")
    assert read_caption(path) == "once more"


@pytest.mark.slow
@needs_exiftool
def test_exiftool_finds_all_other_properties_unchanged(tmp_path: Path) -> None:
    pictures = {case.name: case.files for case in (*CASES[: len(FILES)], *CASES[len(FILES) :: 4])}
    for number, files in enumerate(pictures.values()):
        (tmp_path / str(number)).mkdir()
        for name, data in files.items():
            (tmp_path / str(number) / name).write_bytes(data)
    command = ["exiftool", "-json", "-a", "-u", "-G1:4", "-r", "-n", "-b", "-ext", "*", str(tmp_path)]

    def properties() -> dict[str, dict[str, object]]:
        done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
        return {entry.pop("SourceFile"): entry for entry in json.loads(done.stdout)}

    before = properties()
    written = set()
    for number, files in enumerate(pictures.values()):
        try:
            written.add(str(write_caption(tmp_path / str(number) / next(iter(files)), NEW)))
        except PictureBroken:
            continue
    after = properties()
    assert len(written) > 50
    changed = ("System:FileSize", "System:FileAccessDate", "System:FileInodeChangeDate", "System:FileModifyDate")
    for file, old in before.items():
        new = after[file]
        for key in {*old, *new}:
            if key.startswith(("ExifTool:", "Composite:")) or re.fullmatch("XMP-dc:(Copy1:)?Description", key):
                continue
            if key.endswith((":MPImageStart", ":MPImageLength")):
                continue  # these change with the size; see the next test
            if key in changed and (file in written or key.endswith("AccessDate")):
                continue
            assert old.get(key) == new.get(key), (file, key)


def test_additional_pictures_are_at_the_offsets_in_the_index(tmp_path: Path) -> None:
    for name in ("stereo.jpg", "stereo-with-xmp.jpg"):
        path = tmp_path / name
        path.write_bytes(FILES[name])
        for caption in ("short", NEW * 50, "x"):
            write_caption(path, caption)
            with Image.open(path) as image:
                entries = image.mpinfo[0xB002]
                assert image.n_frames == 2
                image.seek(1)
                assert image.size == (160, 120)
            data = path.read_bytes()
            assert entries[0]["Size"] == data.index(b"\xff\xd9", data.index(b"\xff\xda")) + 2


def test_other_languages_are_preserved_unless_they_repeat_the_caption() -> None:
    inside = (
        '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">old</rdf:li><rdf:li xml:lang="en-US">old</rdf:li>'
        '<rdf:li xml:lang="de">Altes</rdf:li></rdf:Alt></dc:description>'
    )
    items = parse_xmp(set_description(packet(inside), NEW))["dc:description"].items
    assert [(item.language, item.text) for item in items] == [("x-default", NEW), ("en-US", NEW), ("de", "Altes")]


@pytest.mark.parametrize("text", ["", "a\r\nb\nc", "\u2028 \u00a0\u200c", "]]>", "&amp;", "\x00\x0b", "👨‍👩‍👧", "'\""])
def test_any_text_round_trips(text: str, tmp_path: Path) -> None:
    for inside in ("", description("old"), "<dc:description>old</dc:description>"):
        written = parse_xmp(set_description(packet(inside), text))["dc:description"].default
        assert written == text.replace("\x00", "").replace("\x0b", "")


@pytest.mark.parametrize(
    "damaged", [b"<x", b"<x:xmpmeta/>", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", b"<x>" * 1000]
)
def test_a_packet_that_cannot_be_edited_is_refused(damaged: bytes) -> None:
    with pytest.raises(XmpError):
        set_description(damaged, NEW)


def test_a_file_with_a_full_segment_is_not_modified(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(with_segments(PLAIN, xmp_segment(packet(array("dc:subject", ["x" * 63_000])))))
    before = path.read_bytes()
    with pytest.raises(PictureBroken, match="holds no more"):
        write_caption(path, "y" * 2000)
    assert path.read_bytes() == before


def test_owner_mode_times_and_attributes_are_preserved(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PLAIN)
    path.chmod(0o640)
    os.utime(path, ns=(1_000_000_000, 1_234_567_891_000_000_000))
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    attributes = {}
    if hasattr(os, "setxattr"):
        try:
            os.setxattr(path, "user.xdg.tags", b"holiday")
            attributes = {"user.xdg.tags": b"holiday"}
        except OSError:
            pass  # a file system without extended attributes
    before = path.stat()
    write_caption(path, NEW)
    after = path.stat()
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        assert getattr(after, field) == getattr(before, field), field
    for name, value in attributes.items():
        assert os.getxattr(path, name) == value


def test_an_owner_that_cannot_be_preserved_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PLAIN)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 1234, 2345)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.warns(CaptionFileWarning, match="1234:2345 could not be kept"):
        write_caption(path, NEW)
    assert read_caption(path) == NEW


def test_a_symlink_is_followed_and_stays_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    for name in ("a.jpg", "b.webp"):
        target, link = tmp_path / "originals" / name, tmp_path / name
        target.write_bytes(PLAIN if name == "a.jpg" else encoded("WEBP"))
        link.symlink_to(target)
        write_caption(link, NEW)
        assert link.is_symlink() and read_caption(link) == read_caption(target) == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.webp", "originals"]


def test_a_symlink_to_itself_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(PictureUnreadable):
        write_caption(tmp_path / "a.jpg", NEW)


def test_a_write_protected_picture_is_not_modified(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PLAIN)
    path.chmod(stat.S_IRUSR)
    with pytest.raises(PictureUnreadable, match="write-protected"):
        write_caption(path, NEW)
    assert path.read_bytes() == PLAIN and list(tmp_path.iterdir()) == [path]


def test_hard_links_are_preserved_and_the_user_is_warned(tmp_path: Path) -> None:
    path, other = tmp_path / "a.jpg", tmp_path / "backup.jpg"
    path.write_bytes(PLAIN)
    other.hardlink_to(path)
    with pytest.warns(CaptionFileWarning, match=r"other hard links, so the caption is in a\.jpg\.xmp"):
        assert write_caption(path, NEW) == sidecar_path(path)
    assert path.samefile(other) and read_caption(path) == NEW and read_caption(other) is None


def test_a_sidecar_named_by_stem_is_updated_unless_it_is_ambiguous(tmp_path: Path) -> None:
    path, side = tmp_path / "a.jpg", tmp_path / "a.XMP"
    path.write_bytes(PLAIN)
    side.write_bytes(packet("", 'xmp:Rating="4"'))
    assert write_caption(path, NEW) == side
    assert photo_metadata(PLAIN, path).rating == 4 and path.read_bytes() == PLAIN
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    assert write_caption(path, WORDS) == tmp_path / "a.jpg.xmp"
    assert read_caption(path) == WORDS and read_caption(tmp_path / "a.png") == NEW


WRITER = """
import sys
from pathlib import Path
from beholder.pictures.caption_metadata import write_caption
files = sorted(Path(sys.argv[1]).glob("*.jpg"))
print("ready", flush=True)
for round in range(1000):
    for file in files:
        write_caption(file, f"caption {sys.argv[2]} {round}" * (1 + round % 3))
"""


@pytest.mark.slow
def test_every_file_is_intact_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(2026)
    originals = {}
    for number in range(300):
        data = with_segments(
            encoded(size=(60 + number % 7, 40)), xmp_segment(packet(array("dc:subject", [str(number)])))
        )
        (tmp_path / f"{number:03}.jpg").write_bytes(data)
        originals[f"{number:03}.jpg"] = other_blocks(data)
    for kill in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(kill)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    captioned = 0
    for name, blocks in originals.items():
        data = (tmp_path / name).read_bytes()
        assert other_blocks(data) == blocks
        found = photo_metadata(data, tmp_path / name)
        assert found.tags == (str(int(name[:3])),)
        captioned += found.caption is not None
    assert captioned, "no file was written before it was killed: this tests nothing"
    assert len(list(tmp_path.glob("*.jpg"))) == 300


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 30))
        match rng.randrange(5):
            case 0:
                changed[place : place + length] = rng.randbytes(length)
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = changed[place : place + length] or b"\xff"
            case 3:
                changed[place : place + 1] = bytes([rng.choice((0, 0x1C, 0x26, 0x3C, 0x3E, 0x7F, 0x80, 0xFF))])
            case _:
                changed[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
    return bytes(changed)


@pytest.mark.slow
def test_ten_thousand_damaged_metadata_blocks_cause_no_crash(tmp_path: Path) -> None:
    rng = random.Random(2026)
    path = tmp_path / "a.jpg"
    files = [
        *(FILES[name] for name in ("rich.jpg", "two-packets.jpg", "extended.jpg", "stereo-with-xmp.jpg", "xmp.png")),
        encoded(exif=exif({0x010E: WORDS, 0x9C9E: "a;b".encode("utf-16le")}, {0x9286: b"UNICODE\0a"}, {1: "N"})),
    ]
    heads = [data[: data.find(b"\xff\xda")] if data.startswith(b"\xff\xd8") else data for data in files]
    outcomes = {"read": 0, "left alone": 0, "written": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(10_000):
            which = rng.randrange(len(files))
            head = mutated(heads[which], rng)
            data = head + files[which][len(heads[which]) :]
            try:
                if number % 4:
                    photo_metadata(data, path)
                    outcomes["read"] += 1
                else:
                    with_caption(data)
                    outcomes["written"] += 1
            except (PictureError, XmpError, ContainerError):
                outcomes["left alone"] += 1
    assert min(outcomes.values()) > 300, outcomes


def with_caption(data: bytes) -> bytes:
    from beholder.pictures.caption_metadata import MetadataChanges, _with_changes

    return _with_changes(data, MetadataChanges(NEW)) if data.startswith((b"\xff\xd8", b"\x89PNG\r\n\x1a\n")) else data
