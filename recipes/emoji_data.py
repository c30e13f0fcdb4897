"""Pictures of emoji with their names, from packages of the npm registry, one vendor held out.

    for vendor in apple facebook google twitter; do npm pack emoji-datasource-$vendor@16.0.0; done
    for older in emojione@4.0.4 google@3.0.0 messenger@4.1.0; do npm pack emoji-datasource-$older; done
    python recipes/emoji_data.py *.tgz --out runs/emoji-data --held-out twitter
    beholder train clip recipes/clip/emoji.json --data runs/emoji-data --out runs/emoji

The signs are those of the newest list that the held-out vendor draws and at least one other, without variants of skin
colour. Older packages draw fewer of them, in their own ways; nothing of the held-out vendor, old or new, is trained on.
The drawings belong to their vendors; they are read here and go no further.
"""

import argparse
import json
import re
import tarfile
from pathlib import Path
from typing import Any

PACKAGE = re.compile(r"emoji-datasource-([a-z]+)-([\d.]+)\.tgz")
ANY_STYLE = "-FE0F"  # asks for a drawing in place of a letter; older lists lack it in places


def texts_of(sign: dict[str, Any]) -> list[str]:
    """The sign's name first, then what people call it for short."""
    names = [sign["name"] or "", *(short.replace("_", " ").replace("-", " ") for short in sign["short_names"])]
    return list(dict.fromkeys(name.lower() for name in names if name))


def listed(package: Path, vendor: str) -> dict[str, dict[str, Any]]:
    """The signs that a package draws, by what they are."""
    with tarfile.open(package) as files:
        content = files.extractfile("package/emoji.json")
        if content is None:
            raise SystemExit(f"{package}: holds no list of emoji")
        signs = json.load(content)
    return {sign["unified"].replace(ANY_STYLE, ""): sign for sign in signs if sign[f"has_img_{vendor}"]}


def unpack(package: Path, vendor: str, signs: dict[str, dict[str, Any]], folder: Path) -> dict[str, Path]:
    """The drawings of these signs, as files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"package/img/{vendor}/64/{sign['image']}": code for code, sign in signs.items()}
    found = {}
    with tarfile.open(package) as files:
        for member in files:
            picture = files.extractfile(member) if member.name in wanted else None
            if picture is not None:
                found[wanted[member.name]] = folder / Path(member.name).name
                found[wanted[member.name]].write_bytes(picture.read())
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("packages", type=Path, nargs="+", help="emoji-datasource-VENDOR-VERSION.tgz")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--held-out", default="twitter")
    given = options.parse_args()
    packages = []
    for path in given.packages:
        named = PACKAGE.fullmatch(path.name)
        if named is None:
            raise SystemExit(f"{path}: is named otherwise than emoji-datasource-VENDOR-VERSION.tgz")
        version = tuple(int(part) for part in named[2].split("."))
        packages.append((version, named[1], path, listed(path, named[1])))
    packages.sort(key=lambda each: each[:2], reverse=True)
    held_out = next((each for each in packages if each[1] == given.held_out), None)
    others = [each for each in packages if each[1] != given.held_out]
    if held_out is None or not others:
        raise SystemExit(f"there must be a package of {given.held_out} and one of another vendor")
    elsewhere = {code for *_, signs in others for code in signs}
    asked = {code: sign for code, sign in held_out[3].items() if code in elsewhere}
    drawn = 0
    given.out.mkdir(parents=True, exist_ok=True)
    for file, chosen in (("train", others), ("held_out", [held_out])):
        with (given.out / f"{file}.jsonl").open("w", encoding="utf-8") as lines:
            for version, vendor, package, signs in chosen:
                folder = given.out / f"{vendor}-{version[0]}"
                there = {code: sign for code, sign in signs.items() if code in asked}
                for code, path in unpack(package, vendor, there, folder).items():
                    texts = texts_of(asked[code])
                    row: dict[str, Any] = {"image": str(path.relative_to(given.out))}
                    if file == "train":  # other drawings and names of a sign are no negatives
                        row |= {"captions": texts, "label": code}
                        drawn += 1
                    else:
                        row["captions"] = texts[:1]
                    lines.write(json.dumps(row) + "\n")
    print(f"{len(asked)} signs of {given.held_out} held out; {drawn} drawings of {len(others)} packages to train on")


if __name__ == "__main__":
    main()
