"""Drawings of emoji whose licences allow weights to be published, with their names in several wordings.

    for vendor in google@16.0.0 google@3.0.0 twitter@16.0.0; do npm pack emoji-datasource-$vendor; done
    for set in fluent-emoji@1.2.7 fluent-emoji-flat@1.2.6 noto@1.2.9 noto-v1@1.2.5; do npm pack @iconify-json/$set; done
    npm pack emojibase-data@16.0.3
    pip install resvg-py==0.5.0
    python recipes/emoji_generator_data.py *.tgz --out runs/emoji-drawings
    python recipes/emoji_generator/train_heads.py --data runs/emoji-drawings --out runs/emoji-drawings/encoder
    beholder train generator recipes/emoji_generator/emoji.json --data runs/emoji-drawings --out runs/emoji-generator

| drawings | packages | licence |
|---|---|---|
| Noto Emoji, Google | emoji-datasource-google, @iconify-json/noto, noto-v1 | Apache-2.0 (drawings), OFL-1.1 (font) |
| Twemoji, Twitter and others | emoji-datasource-twitter | CC-BY-4.0 |
| Fluent Emoji, Microsoft | @iconify-json/fluent-emoji, fluent-emoji-flat | MIT |

The names are those of emoji-datasource (MIT), and the labels, short codes and tags of emojibase-data (MIT). One wording
of each of 300 signs is set aside and used by no line of the training data. Besides the drawings as they are, there are
some in another color ("a blue cat") and in pairs ("a frog and a crown"), so that names can be put together:

    OUT/train.jsonl     a line for each drawing: image, captions, label (its code)
    OUT/wordings.jsonl  the wordings set aside, with the drawing of the sign that is meant: image, captions, label
"""

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emoji_compositions import CATEGORIES, paired, recolored
from emoji_data import (
    DATASOURCE,
    ICONIFY,
    Sign,
    from_datasource,
    from_iconify,
    normalize_code,
    normalize_name,
    read_json,
    texts_of,
    unpack,
)

EMOJIBASE = re.compile(r"emojibase-data-[\d.]+\.tgz")
SHORT_CODES = ("cldr", "emojibase", "github", "iamcal", "joypixels")
SET_ASIDE = 300
PAIRS = 1000  # most for each of the packages below
COMPOSED = ("google-16", "twitter-16", "fluent-emoji-flat")  # packages whose drawings are recolored and paired
WORDINGS_TO_SET_ASIDE_FROM = 3  # a sign with fewer would have too few left
CODE_ONLY = re.compile(r"(flag )?\w{1,3}")  # such as "flag mu", which nobody could guess


def read_names(package: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return the wordings and the tags of each sign, by its code, from emojibase-data."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    signs = read_json(package, "en/data.json") or []
    lists = [read_json(package, f"en/shortcodes/{name}.json") or {} for name in SHORT_CODES]
    for sign in signs:
        names = [sign["label"]]
        for codes in lists:
            given = codes.get(sign["hexcode"], [])
            names += [given] if isinstance(given, str) else given
        found[normalize_code(sign["hexcode"])] = [clean(name) for name in names], list(sign.get("tags", ()))
    return found


def clean(name: str) -> str:
    """Return a name or a short code in lower case, with spaces between words."""
    return re.sub(r"\s+", " ", name.replace("_", " ").replace("-", " ").lower()).strip()


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names without those that differ from an earlier one only in spaces and punctuation."""
    return list({normalize_name(name): name for name in reversed(names) if normalize_name(name)}.values())[::-1]


def set_aside(wordings: Mapping[str, list[str]], seed: int) -> dict[str, str]:
    """Choose a wording of each of some signs, by their codes; it is nobody's else, and the sign keeps others."""
    counts: dict[str, int] = {}
    for names in wordings.values():
        for name in names:
            counts[normalize_name(name)] = counts.get(normalize_name(name), 0) + 1
    chosen: dict[str, str] = {}
    generator = random.Random(seed)
    for code in generator.sample(sorted(wordings), len(wordings)):
        own = [name for name in wordings[code] if counts[normalize_name(name)] == 1 and not CODE_ONLY.fullmatch(name)]
        if len(chosen) < SET_ASIDE and own and len(wordings[code]) >= WORDINGS_TO_SET_ASIDE_FROM:
            chosen[code] = generator.choice(own)
    return chosen


def captions_of(names: Sequence[str], tags: Sequence[str], removed: str | None) -> list[str]:
    """Return the captions of a drawing: its names, and its tags after its first name."""
    kept = [name for name in names if name != removed]
    tags = [tag for tag in tags if removed is None or normalize_name(tag) != normalize_name(removed)]
    return [*kept, *([", ".join([kept[0], *tags])] if tags else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="+", help="packages of emoji-datasource, Iconify and emojibase")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of wordings that are set aside")
    options = parser.parse_args()
    sources = {path: match for path in options.packages if (match := DATASOURCE.fullmatch(path.name))}
    icons = {path: match["set"] for path in options.packages if (match := ICONIFY.fullmatch(path.name))}
    bases = [path for path in options.packages if EMOJIBASE.fullmatch(path.name)]
    if not sources or len(sources) + len(icons) + len(bases) != len(options.packages):
        raise SystemExit("the packages must be emoji-datasource-VENDOR-…, iconify-json-SET-… and emojibase-data-….tgz")
    newest = sorted(sources, key=lambda path: tuple(map(int, sources[path]["version"].split("."))))
    packages = [from_datasource(path, sources[path]["vendor"], sources[path]["version"]) for path in newest]
    signs: dict[str, Sign] = {}
    for package in packages:  # names of the newest package come last, and stay
        signs |= package.signs
    names = {code: texts_of(sign) for code, sign in signs.items()}
    tags: dict[str, list[str]] = {}
    for base in bases:
        for code, (wordings, keywords) in read_names(base).items():
            if code in names:
                names[code] += wordings
                tags[code] = keywords
    names = {code: distinct([clean(name) for name in those]) for code, those in names.items()}
    codes = {normalize_name(name): code for code, those in reversed(names.items()) for name in reversed(those)}
    chars: dict[str, dict[str, str]] = {}
    for path in icons:
        listed = read_json(path, "chars.json") or {}
        chars[str(path)] = {normalize_code(code): icon for code, icon in listed.items()}
        codes |= {normalize_name(icon): code for code, icon in chars[str(path)].items()}
    packages += [from_iconify(path, name, chars[str(path)], codes) for path, name in icons.items()]
    removed = set_aside(names, options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, str] = {}
    lines: list[dict[str, Any]] = []
    generator = random.Random(options.seed)
    things = {code for code, sign in signs.items() if sign.get("category") in CATEGORIES}
    for package in packages:
        files = unpack(package, signs, options.out)
        print(f"{package.path.name}: {len(files)} drawings of {package.vendor}")
        for code, file in files.items():
            captions = captions_of(names[code], tags.get(code, ()), removed.get(code))
            lines.append({"image": file, "captions": captions, "label": code})
            drawings[code] = file
        if package.folder in COMPOSED:
            kept = {code: [name for name in names[code] if name != removed.get(code)] for code in files}
            simple = {code: options.out / file for code, file in files.items() if code in things}
            composed = recolored(simple, kept, options.out / f"{package.folder}-recolored", generator)
            composed += paired(
                simple, kept, options.out / f"{package.folder}-pairs", min(PAIRS, 4 * len(simple)), generator
            )
            print(f"{package.path.name}: {len(composed)} drawings recolored or in pairs")
            for target, captions, label in composed:
                file = target.relative_to(options.out).as_posix()
                lines.append({"image": file, "captions": captions, "label": label})
    aside = [
        {"image": drawings[code], "captions": [name], "label": code}
        for code, name in removed.items()
        if code in drawings
    ]
    for name, rows in (("train.jsonl", lines), ("wordings.jsonl", aside)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.out / name).write_text(text, encoding="utf-8")
    print(f"{len(lines)} drawings of {len(drawings)} signs; {len(aside)} wordings set aside")


if __name__ == "__main__":
    main()
