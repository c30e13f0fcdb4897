"""Pictures of emoji with their names, from packages of the npm registry, one vendor held out.

    for vendor in apple facebook google twitter; do npm pack emoji-datasource-$vendor@16.0.0; done
    for older in emojione@4.0.4 google@3.0.0 messenger@4.1.0; do npm pack emoji-datasource-$older; done
    for set in emojione@1.2.3 emojione-v1@1.2.3 fluent-emoji@1.2.7 fluent-emoji-flat@1.2.6 fxemoji@1.2.2 \
        noto-v1@1.2.5 openmoji@1.2.29; do npm pack @iconify-json/$set; done
    pip install resvg-py==0.5.0
    python recipes/emoji_data.py *.tgz --out runs/emoji-data --held-out twitter
    beholder train clip recipes/clip/emoji.json --data runs/emoji-data --out runs/emoji

The signs are those of the newest list that the held-out vendor draws and at least one other, without variants of skin
colour. Older packages draw fewer of them, in their own ways; those of Iconify hold drawings in SVG, which resvg
renders. Nothing of the held-out vendor, old or new, is trained on. The drawings belong to their vendors; they are read
here and go no further.
"""

import argparse
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATASOURCE = re.compile(r"emoji-datasource-(?P<vendor>[a-z]+)-(?P<version>[\d.]+)\.tgz")
ICONIFY = re.compile(r"iconify-json-(?P<set>[a-z0-9-]+?)-(?P<version>\d+\.[\d.]+)\.tgz")
OF_ANOTHER_NAME = {
    "twemoji": "twitter",
    "noto": "google",
    "noto-v1": "google",
    "emojione-v1": "emojione",
    "messenger": "facebook",
}
ANY_STYLE = "-FE0F"  # asks for a drawing in place of a letter; lists differ in where they have it
SIDE = 64  # pixels of a drawing

Sign = dict[str, Any]


@dataclass(frozen=True)
class Package:
    """Drawings of one vendor.

    Attributes:
        path: the package.
        folder: what the folder of its drawings is called.
        draws: the drawings of some signs, given by what they are, as PNG.
        signs: what it says of the signs that it draws, by what they are; Iconify's say nothing.
    """

    path: Path
    vendor: str
    folder: str
    draws: Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]
    signs: dict[str, Sign] = field(default_factory=dict)


def content(package: Path, name: str) -> Any:
    """A JSON file of a package; None if it has none of the name."""
    with tarfile.open(package) as files:
        try:
            file = files.extractfile(f"package/{name}")
        except KeyError:
            return None
        return None if file is None else json.load(file)


def plain(code: str) -> str:
    """What a sign is, as all lists write it."""
    return code.upper().replace(ANY_STYLE, "")


def letters(name: str) -> str:
    """A name without what lists write differently."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def texts_of(sign: Sign) -> list[str]:
    """The sign's name first, then what people call it for short."""
    names = [sign["name"] or "", *(short.replace("_", " ").replace("-", " ") for short in sign["short_names"])]
    return list(dict.fromkeys(name.lower() for name in names if name))


def from_datasource(path: Path, vendor: str, version: str) -> Package:
    """A package of emoji-datasource, whose drawings are PNG."""
    signs = {plain(sign["unified"]): sign for sign in content(path, "emoji.json") if sign[f"has_img_{vendor}"]}

    def draws(wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        files = {f"package/img/{vendor}/{SIDE}/{signs[code]['image']}": code for code in wanted if code in signs}
        with tarfile.open(path) as package:
            for member in package:
                picture = package.extractfile(member) if member.name in files else None
                if picture is not None:
                    yield files[member.name], picture.read()

    return Package(path, OF_ANOTHER_NAME.get(vendor, vendor), f"{vendor}-{version.partition('.')[0]}", draws, signs)


def from_iconify(path: Path, name: str, named: dict[str, str], codes: dict[str, str]) -> Package:
    """A package of Iconify: drawings in SVG by name.

    Args:
        path: the package.
        name: of the set.
        named: names by the signs that the package says they mean.
        codes: what other lists say that a name means.
    """

    def draws(wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        import resvg_py

        known = dict(named)
        icons = content(path, "icons.json")
        for icon in icons["icons"]:
            if letters(icon) in codes:
                known.setdefault(codes[letters(icon)], icon)
        for code in wanted:
            drawing = icons["icons"].get(known.get(code, ""))
            if drawing is not None:
                width, height = (drawing.get(size, icons.get(size, 16)) for size in ("width", "height"))
                view = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
                yield code, resvg_py.svg_to_bytes(f"<svg {view}>{drawing['body']}</svg>", width=SIDE, height=SIDE)

    return Package(path, OF_ANOTHER_NAME.get(name, name), name, draws)


def read_packages(paths: Iterable[Path], held_out: str) -> tuple[Package, list[Package]]:
    """The held-out vendor's newest package, and those of others, the newest first."""
    found, sets = [], []
    for path in paths:
        if named := DATASOURCE.fullmatch(path.name):
            found.append((tuple(map(int, named["version"].split("."))), named["vendor"], path, named["version"]))
        elif named := ICONIFY.fullmatch(path.name):
            chars = content(path, "chars.json") or {}
            sets.append((path, named["set"], {plain(code): icon for code, icon in chars.items()}))
        else:
            raise SystemExit(f"{path}: is named neither emoji-datasource-VENDOR-… nor iconify-json-SET-VERSION.tgz")
    packages = [from_datasource(path, vendor, version) for _, vendor, path, version in sorted(found, reverse=True)]
    asked = next((package for package in packages if package.vendor == held_out), None)
    if asked is None:
        raise SystemExit(f"there must be a package emoji-datasource-{held_out}")
    codes = {letters(text): code for code, sign in reversed(asked.signs.items()) for text in reversed(texts_of(sign))}
    for _, _, icons in sets:  # what one set calls a sign others call it, too
        codes = {letters(icon): code for code, icon in icons.items()} | codes
    packages += [from_iconify(path, name, icons, codes) for path, name, icons in sets]
    return asked, [package for package in packages if package.vendor != held_out]


def unpack(package: Package, wanted: Iterable[str], out: Path) -> dict[str, str]:
    """Writes the drawings of these signs; their files, relative to ``out``, by sign."""
    (out / package.folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for code, picture in package.draws(wanted):
        files[code] = f"{package.folder}/{code.lower()}.png"
        (out / files[code]).write_bytes(picture)
    return files


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("packages", type=Path, nargs="+")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--held-out", default="twitter")
    given = options.parse_args()
    held_out, others = read_packages(given.packages, given.held_out)
    signs = held_out.signs
    if not others:
        raise SystemExit("there must be a package of another vendor")
    given.out.mkdir(parents=True, exist_ok=True)
    trained: set[str] = set()
    drawn = 0
    with (given.out / "train.jsonl").open("w", encoding="utf-8") as lines:
        for package in others:
            files = unpack(package, signs, given.out)
            for code, file in files.items():  # other drawings and names of a sign are no negatives: the label
                lines.write(json.dumps({"image": file, "captions": texts_of(signs[code]), "label": code}) + "\n")
            print(f"{package.path.name}: {len(files)} drawings of {package.vendor}")
            trained |= files.keys()
            drawn += len(files)
    with (given.out / "held_out.jsonl").open("w", encoding="utf-8") as lines:
        files = unpack(held_out, [code for code in signs if code in trained], given.out)
        for code, file in files.items():
            lines.write(json.dumps({"image": file, "captions": texts_of(signs[code])[:1]}) + "\n")
    print(f"{len(files)} signs of {given.held_out} held out; {drawn} drawings of {len(others)} packages to train on")


if __name__ == "__main__":
    main()
