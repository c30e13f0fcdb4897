"""The drawings of easy-VQA with what is written about them, as the recipe ``recipes/easy_vqa`` takes them.

    pip download --no-deps easy-vqa==1.0 && unzip easy_vqa-1.0-py3-none-any.whl -d easy-vqa
    python recipes/easy_vqa/prepare_data.py easy-vqa --out runs/easy-vqa

Writes ``captions.jsonl`` (training drawings whose questions tell both colour and shape), ``pairs.jsonl`` (the
same, and all questions about training drawings) and ``test.jsonl`` (those about the test drawings).
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drawings import Drawing, caption_of_drawing, read_easy_vqa


def copied(drawings: Iterable[Drawing], folder: Path, split: str) -> list[tuple[str, Drawing]]:
    """The drawings below a folder, each with its path in it."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    found = []
    for drawing in drawings:
        shutil.copyfile(drawing.path, folder / split / drawing.path.name)
        found.append((f"{split}/{drawing.path.name}", drawing))
    return found


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def asked(image: str, drawing: Drawing) -> list[dict[str, Any]]:
    return [{"image": image, "question": question, "answer": answer} for question, answer in drawing.questions]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("wheel", type=Path, help="the unpacked wheel of easy-vqa 1.0")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    training = copied(read_easy_vqa(given.wheel, "train"), given.out, "train")
    unseen = copied(read_easy_vqa(given.wheel, "test"), given.out, "test")
    said = [(image, caption_of_drawing(drawing)) for image, drawing in training]
    captions: list[dict[str, Any]] = [
        {"image": image, "captions": [caption]}
        for image, caption in said
        if len(caption.split()) == 3 and not caption.endswith("shape")
    ]
    questions = [row for image, drawing in training for row in asked(image, drawing)]
    tests = [row for image, drawing in unseen for row in asked(image, drawing)]
    write(given.out / "captions.jsonl", captions)
    write(given.out / "pairs.jsonl", captions + questions)
    write(given.out / "test.jsonl", tests)
    print(
        f"{len(training)} drawings, {len(questions)} questions; to test, {len(unseen)} drawings, {len(tests)} questions"
    )


if __name__ == "__main__":
    main()
