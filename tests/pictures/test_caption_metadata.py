import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.errors import PictureBroken, PictureUnreadable
from beholder.pictures.caption_metadata import read_caption, write_caption
from beholder.pictures.sidecar import sidecar_path

CAPTION = 'Zwei Hunde & eine <Katze> laufen "schnell" — 两只狗'
OTHER_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"'
    b' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/">'
    b"<dc:subject><rdf:Bag><rdf:li>wedding</rdf:li></rdf:Bag></dc:subject>"
    b"<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>an older one</rdf:li></rdf:Alt></dc:description>"
    b"<lr:hierarchicalSubject><rdf:Bag><rdf:li>a|b</rdf:li></rdf:Bag></lr:hierarchicalSubject>"
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
FORMATS = ["jpg", "png", "webp", "tif", "gif"]


def make(folder: Path, suffix: str, **options: object) -> Path:
    path = folder / f"photo.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def exiftool(path: Path) -> dict[str, str]:
    output = subprocess.run(["exiftool", "-json", "-a", str(path)], capture_output=True, check=True, text=True).stdout
    return json.loads(output)[0]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_written_caption_can_be_read_back(suffix: str, tmp_path: Path) -> None:
    path = make(tmp_path, suffix)
    before, pixels = path.read_bytes(), np.asarray(Image.open(path).convert("RGB"))
    assert read_caption(path) is None
    written = write_caption(path, CAPTION)
    assert read_caption(path) == CAPTION
    assert (np.asarray(Image.open(path).convert("RGB")) == pixels).all()
    if suffix in ("jpg", "png"):
        assert written == path and not sidecar_path(path).exists()
    else:
        assert written == sidecar_path(path) and path.read_bytes() == before
    write_caption(path, "another")
    assert read_caption(path) == "another"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted({path.name, written.name})


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_every_other_byte_is_unchanged(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    path = make(tmp_path, suffix, exif=exif)
    before = path.read_bytes()
    write_caption(path, CAPTION)
    after = path.read_bytes()
    put_in = len(after) - len(before)
    first = next(place for place in range(len(before)) if before[place] != after[place])
    assert any(before == after[:place] + after[place + put_in :] for place in range(max(first - 8, 0), first + 1))
    assert Image.open(path).getexif()[0x010F] == "a camera"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_other_properties_are_preserved(suffix: str, tmp_path: Path) -> None:
    if suffix == "jpg":
        path = make(tmp_path, suffix, xmp=OTHER_XMP)
    else:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", OTHER_XMP.decode(), zip=True)
        path = make(tmp_path, suffix, pnginfo=info)
    assert read_caption(path) == "an older one"
    write_caption(path, CAPTION)
    assert read_caption(path) == CAPTION
    packet = Image.open(path).info["xmp"]
    packet = packet.encode() if isinstance(packet, str) else packet
    assert packet.count(b"dc:description>") == 2
    for kept in (b'xmp:Rating="4"', b"wedding", b"lr:hierarchicalSubject", b"a|b"):
        assert kept in packet


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", FORMATS)
def test_exiftool_reads_the_caption(suffix: str, tmp_path: Path) -> None:
    written = write_caption(make(tmp_path, suffix, **({"xmp": OTHER_XMP} if suffix == "jpg" else {})), CAPTION)
    found = exiftool(written)
    assert found["Description"] == CAPTION
    assert "Warning" not in found and "Error" not in found
    if suffix == "jpg":
        assert found["Rating"] == 4 and found["Subject"] == "wedding"


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_caption_written_by_exiftool_is_read_and_replaced(suffix: str, tmp_path: Path) -> None:
    path = make(tmp_path, suffix)
    subprocess.run(["exiftool", "-q", "-XMP-dc:Description=from exiftool", "-XMP:Rating=3", str(path)], check=True)
    assert read_caption(path) == "from exiftool"
    write_caption(path, CAPTION)
    found = exiftool(path)
    assert (found["Description"], found["Rating"]) == (CAPTION, 3)


@pytest.mark.parametrize("cut", [3, 9, 30, 41])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_not_modified(suffix: str, cut: int, tmp_path: Path) -> None:
    path = make(tmp_path, suffix)
    path.write_bytes(path.read_bytes()[:cut])
    before = path.read_bytes()
    try:
        written = write_caption(path, CAPTION)
        assert written == sidecar_path(path), "only what is no JPEG or PNG at all gets a sidecar"
    except PictureBroken as error:
        assert str(path) in str(error)
    assert path.read_bytes() == before


def test_broken_xmp_is_not_modified(tmp_path: Path) -> None:
    path = make(tmp_path, "jpg", xmp=b"<x:xmpmeta")
    before = path.read_bytes()
    with pytest.raises(PictureBroken, match="XMP"):
        write_caption(path, CAPTION)
    assert path.read_bytes() == before and read_caption(path) is None


def test_expanding_xml_entities_are_refused(tmp_path: Path) -> None:
    lines = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY a0 "0123456789">{lines}]><x>&a11;</x>'
    path = make(tmp_path, "jpg", xmp=bomb.encode())
    assert read_caption(path) is None
    with pytest.raises(PictureBroken):
        write_caption(path, CAPTION)


def test_a_full_disk_leaves_the_file_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, "jpg")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PictureUnreadable, match="No space left on device; the file is as it was"):
        write_caption(path, CAPTION)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_permissions_are_preserved(tmp_path: Path) -> None:
    path = make(tmp_path, "jpg")
    path.chmod(0o640)
    write_caption(path, CAPTION)
    assert path.stat().st_mode & 0o777 == 0o640
