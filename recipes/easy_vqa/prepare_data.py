"""Convert easy-VQA to the captions and questions that the recipe ``recipes/easy_vqa`` is trained on.

    pip download --no-deps easy-vqa==1.0 && unzip easy_vqa-1.0-py3-none-any.whl -d easy-vqa
    python recipes/easy_vqa/prepare_data.py easy-vqa --out runs/easy-vqa

Writes ``captions.jsonl`` (training drawings whose questions reveal both color and shape), ``pairs.jsonl`` (the same
and all questions about training drawings) and ``test.jsonl`` (the questions about test drawings).
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drawings import Drawing, caption_of_drawing, read_easy_vqa


def copy_drawings(drawings: Iterable[Drawing], folder: Path, split: str) -> list[tuple[str, Drawing]]:
    """Copy drawings to a folder; return each with its path relative to that folder."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    found = []
    for drawing in drawings:
        shutil.copyfile(drawing.path, folder / split / drawing.path.name)
        found.append((f"{split}/{drawing.path.name}", drawing))
    return found


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def question_rows(image: str, drawing: Drawing) -> list[dict[str, Any]]:
    return [{"image": image, "question": question, "answer": answer} for question, answer in drawing.questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the unpacked wheel of easy-vqa 1.0")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    options = parser.parse_args()
    training = copy_drawings(read_easy_vqa(options.wheel, "train"), options.out, "train")
    unseen = copy_drawings(read_easy_vqa(options.wheel, "test"), options.out, "test")
    captioned = [(image, caption_of_drawing(drawing)) for image, drawing in training]
    captions: list[dict[str, Any]] = [
        {"image": image, "captions": [caption]}
        for image, caption in captioned
        if len(caption.split()) == 3 and not caption.endswith("shape")
    ]
    questions = [row for image, drawing in training for row in question_rows(image, drawing)]
    tests = [row for image, drawing in unseen for row in question_rows(image, drawing)]
    write(options.out / "captions.jsonl", captions)
    write(options.out / "pairs.jsonl", captions + questions)
    write(options.out / "test.jsonl", tests)
    print(
        f"{len(training)} drawings, {len(questions)} questions; to test, {len(unseen)} drawings, {len(tests)} questions"
    )


if __name__ == "__main__":
    main()
