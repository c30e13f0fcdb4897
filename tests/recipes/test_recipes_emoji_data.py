"""The emoji recipe's data preparation, with synthetic packages in the format of the real ones."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji_data.py"
CAT, KEYCAP, NEW = "1F408", "0023-FE0F-20E3", "1FAE8"
NAMES = {CAT: ("CAT", ["cat2"]), KEYCAP: ("HASH KEY", ["hash"]), NEW: ("SHAKING FACE", ["shaking_face"])}


def package(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def drawing(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def datasource(folder: Path, vendor: str, version: str, codes: list[str], colour: str) -> Path:
    signs = [
        {
            "unified": code,
            "name": NAMES[code][0],
            "short_names": NAMES[code][1],
            "image": f"{code.lower()}.png",
            f"has_img_{vendor}": code in codes,
        }
        for code in NAMES
    ]
    pictures = {f"img/{vendor}/64/{code.lower()}.png": drawing(colour) for code in codes}
    return package(folder / f"emoji-datasource-{vendor}-{version}.tgz", {"emoji.json": signs, **pictures})


def prepare(out: Path, *packages: Path, held_out: str = "twitter") -> subprocess.CompletedProcess[str]:
    order = [sys.executable, str(RECIPE), *map(str, packages), "--out", str(out), "--held-out", held_out]
    return subprocess.run(order, capture_output=True, text=True, check=False)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_the_held_out_vendor_is_never_trained_on(tmp_path: Path) -> None:
    packages = [
        datasource(tmp_path, "twitter", "16.0.0", [CAT, KEYCAP, NEW], "blue"),
        datasource(tmp_path, "twitter", "4.0.0", [CAT], "navy"),
        datasource(tmp_path, "google", "16.0.0", [CAT, KEYCAP], "red"),
        datasource(tmp_path, "google", "3.0.0", [CAT], "pink"),
    ]
    run = prepare(tmp_path / "out", *packages)
    assert run.stdout.splitlines()[-1] == "2 emoji of twitter held out; 3 drawings of 2 packages to train on"
    train, held_out = (rows(tmp_path / "out" / f"{part}.jsonl") for part in ("train", "held_out"))
    assert [(row["image"], row["label"]) for row in train] == [
        ("google-16/1f408.png", CAT),
        ("google-16/0023-20e3.png", "0023-20E3"),
        ("google-3/1f408.png", CAT),
    ]
    assert train[0]["captions"] == ["cat", "cat2"]
    assert held_out == [
        {"image": "twitter-16/1f408.png", "captions": ["cat"]},
        {"image": "twitter-16/0023-20e3.png", "captions": ["hash key"]},
    ]
    for row, colour in ((train[0], "red"), (train[2], "pink"), (held_out[0], "blue")):
        with Image.open(tmp_path / "out" / row["image"]) as picture:
            assert picture.tobytes() == Image.new("RGB", (64, 64), colour).tobytes()


def test_packages_of_the_held_out_vendor_under_another_name_are_excluded(tmp_path: Path) -> None:
    packages = [
        datasource(tmp_path, "facebook", "16.0.0", [CAT], "blue"),
        datasource(tmp_path, "messenger", "4.1.0", [CAT], "navy"),
        datasource(tmp_path, "google", "16.0.0", [CAT], "red"),
    ]
    assert prepare(tmp_path / "out", *packages, held_out="facebook").returncode == 0
    assert [row["image"] for row in rows(tmp_path / "out" / "train.jsonl")] == ["google-16/1f408.png"]


def test_svg_drawings_are_found_by_code_or_by_name(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py renders the drawings in SVG")
    twitter = datasource(tmp_path, "twitter", "16.0.0", [CAT, KEYCAP, NEW], "blue")
    body = '<path fill="{}" d="M0 0h36v36H0z"/>'
    known = {
        "icons": {"kitty": {"body": body.format("red")}, "shaking-face": {"body": body.format("lime"), "width": 72}},
        "height": 36,
        "width": 36,
    }
    packages = [
        package(
            tmp_path / "iconify-json-open-1.2.29.tgz",
            {"icons.json": known, "chars.json": {CAT.lower(): "kitty", "1f600": "grin"}},
        ),
        package(tmp_path / "iconify-json-emojione-v1-1.2.3.tgz", {"icons.json": known}),
        package(tmp_path / "iconify-json-twemoji-1.2.5.tgz", {"icons.json": known}),  # also Twitter's
    ]
    run = prepare(tmp_path / "out", twitter, *packages)
    assert run.returncode == 0, run.stderr
    assert [row["image"] for row in rows(tmp_path / "out" / "train.jsonl")] == [
        "open/1f408.png",
        "open/1fae8.png",
        "emojione-v1/1f408.png",  # a name in one set is valid for the others
        "emojione-v1/1fae8.png",
    ]
    for name, height, colour in (("1f408", 64, (255, 0, 0)), ("1fae8", 32, (0, 255, 0))):  # the latter is twice as wide
        with Image.open(tmp_path / "out" / "open" / f"{name}.png") as picture:
            assert picture.size == (64, height) and picture.convert("RGB").getpixel((16, 16)) == colour


def test_a_missing_package_of_the_held_out_vendor_is_an_error(tmp_path: Path) -> None:
    google = datasource(tmp_path, "google", "16.0.0", [CAT], "red")
    assert "there must be a package emoji-datasource-twitter" in prepare(tmp_path / "out", google).stderr
    (tmp_path / "other.tgz").touch()
    assert "is named neither" in prepare(tmp_path / "out", google, tmp_path / "other.tgz").stderr
