"""Show captions of unseen photographs to a person who says which are right in the main.

    python benchmarks/contact_sheet.py --collection FOLDER --judged judged.jsonl --sheets FOLDER [--bridge FOLDER]
    python benchmarks/contact_sheet.py --judged judged.jsonl

The first captions a hundred test photographs of the web by beam search and writes sheets of twenty with their captions,
and one line a photograph with ``right`` empty (true and false are filled in by hand). The second reports the share.
"Right in the main": the main thing in the picture is named, and nothing that is not there is named as the main thing.
"""

import argparse
import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from beholder import VisionLanguageModel
from beholder.pictures.read import read_picture
from beholder.weights import mini_bridge

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
from photographs import by_hash, read_collection

PHOTOGRAPHS = 100
COLUMNS, ROWS, SIDE, TEXT = 5, 4, 240, 66


def sheet(paths: list[Path], captions: list[str], first: int) -> Image.Image:
    """Return a sheet of photographs with their numbers and captions."""
    page = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + TEXT)), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    for number, (path, caption) in enumerate(zip(paths, captions, strict=True)):
        left, top = number % COLUMNS * SIDE, number // COLUMNS * (SIDE + TEXT)
        picture = read_picture(path)
        picture.thumbnail((SIDE - 4, SIDE - 4))
        page.paste(picture, (left, top))
        draw.text((left, top + SIDE), textwrap.fill(f"{first + number}: {caption}", 36), "black", font)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judged", type=Path, required=True)
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--bridge", type=Path, help="a folder that the recipe wrote; the package's own by default")
    options = parser.parse_args()
    if options.collection:
        web = by_hash([one for one in read_collection(options.collection) if one.source == "web"])[:PHOTOGRAPHS]
        loaded = mini_bridge.assemble(options.bridge) if options.bridge else None
        model = VisionLanguageModel(loaded) if loaded else VisionLanguageModel.from_pretrained("mini")
        paths = [photograph.path for photograph in web]
        captions = model.caption(paths, num_candidates=1)
        rows = [
            {"image": path.name, "caption": caption, "right": None}
            for path, caption in zip(paths, captions, strict=True)
        ]
        options.judged.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        options.sheets.mkdir(parents=True, exist_ok=True)
        count = COLUMNS * ROWS
        for start in range(0, len(paths), count):
            page = sheet(paths[start : start + count], captions[start : start + count], start)
            page.save(options.sheets / f"{start // count}.png")
        return
    rows = [json.loads(line) for line in options.judged.read_text("utf-8").splitlines()]
    judged = [row["right"] for row in rows if row["right"] is not None]
    if not judged:
        parser.error(f"{options.judged}: no line says yet whether its caption is right")
    share = sum(judged) / len(judged)
    print(json.dumps({"metric": "captions right in the main", "value": round(share, 3), "of": len(judged)}))


if __name__ == "__main__":
    main()
