"""Images of emoji with their names, from packages of the npm registry, with one vendor held out.

    for vendor in apple facebook google twitter; do npm pack emoji-datasource-$vendor@16.0.0; done
    for older in emojione@4.0.4 google@3.0.0 messenger@4.1.0; do npm pack emoji-datasource-$older; done
    for set in emojione@1.2.3 emojione-v1@1.2.3 fluent-emoji@1.2.7 fluent-emoji-flat@1.2.6 fxemoji@1.2.2 \
        noto-v1@1.2.5 openmoji@1.2.29; do npm pack @iconify-json/$set; done
    pip install resvg-py==0.5.0
    python recipes/emoji_data.py *.tgz --out runs/emoji-data --held-out twitter
    beholder train clip recipes/clip/emoji.json --data runs/emoji-data --out runs/emoji

The emoji are those in the latest package of the held-out vendor that at least one other vendor draws, too, without skin
tones. Older packages contain fewer of them, in another style; those of Iconify contain SVG, rendered by resvg. No
package of the held-out vendor, old or new, is used for training. The drawings belong to their vendors and are not
redistributed.
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
VENDOR_ALIASES = {
    "twemoji": "twitter",
    "noto": "google",
    "noto-v1": "google",
    "emojione-v1": "emojione",
    "messenger": "facebook",
}
EMOJI_PRESENTATION = "-FE0F"  # variation selector, which lists use inconsistently
SIDE = 64  # pixels per side of a drawing

Sign = dict[str, Any]


@dataclass(frozen=True)
class Package:
    """Drawings of one vendor.

    Attributes:
        path: Path of the package.
        vendor: Name of the vendor.
        folder: Name of the folder for its drawings.
        render: Yields code and PNG file of each of the given emoji that the package contains.
        signs: Metadata of the emoji by code; empty for packages of Iconify.
    """

    path: Path
    vendor: str
    folder: str
    render: Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]
    signs: dict[str, Sign] = field(default_factory=dict)


def read_json(package: Path, name: str) -> Any:
    """Read a JSON file of a package; return None if the package has no such file."""
    with tarfile.open(package) as files:
        try:
            file = files.extractfile(f"package/{name}")
        except KeyError:
            return None
        return None if file is None else json.load(file)


def normalize_code(code: str) -> str:
    """Return an emoji's code without variation selectors, in upper case."""
    return code.upper().replace(EMOJI_PRESENTATION, "")


def normalize_name(name: str) -> str:
    """Return a name in lower case without punctuation, so that names of different lists match."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def texts_of(sign: Sign) -> list[str]:
    """Return the emoji's name, then its short names."""
    names = [sign["name"] or "", *(short.replace("_", " ").replace("-", " ") for short in sign["short_names"])]
    return list(dict.fromkeys(name.lower() for name in names if name))


def from_datasource(path: Path, vendor: str, version: str) -> Package:
    """Open a package of emoji-datasource, which contains PNG drawings."""
    signs = {
        normalize_code(sign["unified"]): sign for sign in read_json(path, "emoji.json") if sign[f"has_img_{vendor}"]
    }

    def render(requested: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        files = {f"package/img/{vendor}/{SIDE}/{signs[code]['image']}": code for code in requested if code in signs}
        with tarfile.open(path) as package:
            for member in package:
                picture = package.extractfile(member) if member.name in files else None
                if picture is not None:
                    yield files[member.name], picture.read()

    return Package(path, VENDOR_ALIASES.get(vendor, vendor), f"{vendor}-{version.partition('.')[0]}", render, signs)


def from_iconify(path: Path, name: str, named: dict[str, str], codes: dict[str, str]) -> Package:
    """Open a package of Iconify, which contains SVG drawings by name.

    Args:
        path: Path of the package.
        name: Name of the icon set.
        named: Icon names by code, according to the package.
        codes: Codes by normalized name, according to other lists.
    """

    def render(requested: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        import resvg_py

        known = dict(named)
        icons = read_json(path, "icons.json")
        for icon in icons["icons"]:
            if normalize_name(icon) in codes:
                known.setdefault(codes[normalize_name(icon)], icon)
        for code in requested:
            drawing = icons["icons"].get(known.get(code, ""))
            if drawing is not None:
                width, height = (drawing.get(size, icons.get(size, 16)) for size in ("width", "height"))
                view = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
                yield code, resvg_py.svg_to_bytes(f"<svg {view}>{drawing['body']}</svg>", width=SIDE, height=SIDE)

    return Package(path, VENDOR_ALIASES.get(name, name), name, render)


def read_packages(paths: Iterable[Path], held_out: str) -> tuple[Package, list[Package]]:
    """Return the held-out vendor's latest package, and the packages of the other vendors, latest first."""
    found, sets = [], []
    for path in paths:
        if named := DATASOURCE.fullmatch(path.name):
            found.append((tuple(map(int, named["version"].split("."))), named["vendor"], path, named["version"]))
        elif named := ICONIFY.fullmatch(path.name):
            chars = read_json(path, "chars.json") or {}
            sets.append((path, named["set"], {normalize_code(code): icon for code, icon in chars.items()}))
        else:
            raise SystemExit(f"{path}: is named neither emoji-datasource-VENDOR-… nor iconify-json-SET-VERSION.tgz")
    packages = [from_datasource(path, vendor, version) for _, vendor, path, version in sorted(found, reverse=True)]
    held = next((package for package in packages if package.vendor == held_out), None)
    if held is None:
        raise SystemExit(f"there must be a package emoji-datasource-{held_out}")
    codes = {
        normalize_name(text): code for code, sign in reversed(held.signs.items()) for text in reversed(texts_of(sign))
    }
    for _, _, icons in sets:  # sets share names
        codes = {normalize_name(icon): code for code, icon in icons.items()} | codes
    packages += [from_iconify(path, name, icons, codes) for path, name, icons in sets]
    return held, [package for package in packages if package.vendor != held_out]


def unpack(package: Package, requested: Iterable[str], out: Path) -> dict[str, str]:
    """Write the drawings of the given emoji; return their files, relative to ``out``, by code."""
    (out / package.folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for code, picture in package.render(requested):
        files[code] = f"{package.folder}/{code.lower()}.png"
        (out / files[code]).write_bytes(picture)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="+", help="packages of emoji-datasource and Iconify")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--held-out", default="twitter", help="vendor held out from training")
    options = parser.parse_args()
    held_out, others = read_packages(options.packages, options.held_out)
    signs = held_out.signs
    if not others:
        raise SystemExit("there must be a package of another vendor")
    options.out.mkdir(parents=True, exist_ok=True)
    trained: set[str] = set()
    drawn = 0
    with (options.out / "train.jsonl").open("w", encoding="utf-8") as lines:
        for package in others:
            files = unpack(package, signs, options.out)
            for code, file in files.items():  # the label: other drawings and names of an emoji are not negatives
                lines.write(json.dumps({"image": file, "captions": texts_of(signs[code]), "label": code}) + "\n")
            print(f"{package.path.name}: {len(files)} drawings of {package.vendor}")
            trained |= files.keys()
            drawn += len(files)
    with (options.out / "held_out.jsonl").open("w", encoding="utf-8") as lines:
        files = unpack(held_out, [code for code in signs if code in trained], options.out)
        for code, file in files.items():
            lines.write(json.dumps({"image": file, "captions": texts_of(signs[code])[:1]}) + "\n")
    print(f"{len(files)} emoji of {options.held_out} held out; {drawn} drawings of {len(others)} packages to train on")


if __name__ == "__main__":
    main()
