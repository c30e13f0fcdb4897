"""The emoji generator's data preparation, with synthetic packages in the format of the real ones."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji_generator_data.py"
SIGNS = {"1F408": ("CAT", ["cat2", "kitty"]), "1F438": ("FROG FACE", ["frog"]), "1F451": ("CROWN", ["crown"])}


def package(path: Path, files: dict[str, Any]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def drawing() -> bytes:
    picture = Image.new("RGBA", (64, 64))
    picture.paste((230, 40, 40, 255), (8, 8, 56, 56))
    picture.paste((255, 255, 255, 255), (20, 20, 30, 30))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def packages(folder: Path) -> list[Path]:
    signs = [
        {
            "unified": code,
            "name": name,
            "short_names": short,
            "image": f"{code.lower()}.png",
            "category": "Objects",
            "has_img_google": True,
        }
        for code, (name, short) in SIGNS.items()
    ]
    pictures = {f"img/google/64/{code.lower()}.png": drawing() for code in SIGNS}
    names = [
        {"hexcode": code, "label": f"{name.lower()} sign", "tags": ["thing", name.lower()]}
        for code, (name, _) in SIGNS.items()
    ]
    codes = {code: [f"{name.lower()}_wording"] for code, (name, _) in SIGNS.items()}
    return [
        package(folder / "emoji-datasource-google-16.0.0.tgz", {"emoji.json": signs, **pictures}),
        package(folder / "emojibase-data-16.0.3.tgz", {"en/data.json": names, "en/shortcodes/cldr.json": codes}),
    ]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module", name="out")
def _out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emoji")
    order = [sys.executable, str(RECIPE), *map(str, packages(folder)), "--out", str(folder / "out")]
    run = subprocess.run(order, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "out"


def test_wordings_that_are_set_aside_are_in_no_caption_of_their_sign(out: Path) -> None:
    aside = {row["label"]: row["captions"][0] for row in rows(out / "wordings.jsonl")}
    assert aside.keys() == SIGNS.keys()
    train = rows(out / "train.jsonl")
    for row in train:
        for code, wording in aside.items():
            if code in row["label"]:
                assert not any(wording in caption for caption in row["captions"])
    plain = [row for row in train if row["label"] in SIGNS]
    assert len(plain) == 3 and all(len(row["captions"]) >= 3 and (out / row["image"]).is_file() for row in plain)


def test_drawings_are_recolored_and_paired_with_captions_that_say_so(out: Path) -> None:
    train = rows(out / "train.jsonl")
    recolored = [row for row in train if " " in row["label"]]
    pairs = [row for row in train if "+" in row["label"]]
    assert len(recolored) == 3 and pairs
    for row in recolored:
        color = row["label"].split()[1]
        assert all(color in caption for caption in row["captions"])
        with Image.open(out / row["image"]) as picture:
            pixels = np.asarray(picture.convert("RGBA"))
        assert pixels[0, 0, 3] == 0, "the background stays transparent"
        red, green, blue, _ = pixels[40, 40].tolist()
        assert {"green": green > max(red, blue), "blue": blue > max(red, green), "black": red < 90}.get(color, True)
    assert all(" and " in row["captions"][0] and " next to " in row["captions"][2] for row in pairs)
