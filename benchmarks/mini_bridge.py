"""Evaluate mini's bridge: captions, questions generated from captions, and easy-VQA, on pictures not trained on.

    python benchmarks/mini_bridge.py --photographs captions.jsonl --drawings easy-vqa
    python benchmarks/mini_bridge.py --collection FOLDER --drawings easy-vqa [--work FOLDER] [--most N]

``--bridge`` evaluates another bridge than the package's own (a folder that the recipe wrote). The photographs are
the test part of the recipe's split. ``mismatched`` is the control: the same captions, each with another photograph's
references.

--collection: a folder with captions.jsonl and, where it exists, questions.jsonl. Each source is reported by itself:
captions by beam search and chosen of several, how often a caption names people where no reference does, how often "Is
there a person in the picture?" is answered by yes with and without one, and a source's own questions by the last word
of the answer. Only the test part of `photographs.split_by_source` is used.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from beholder import VisionLanguageModel
from beholder.evaluation.caption_metrics import caption_metrics
from beholder.weights import mini_bridge

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "mini"))
sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "easy_vqa"))
from collection import Collection
from dataset import split
from drawings import read_easy_vqa
from people import QUESTIONS_YES_NO, names_nobody, names_people
from photographs import Photograph, read_photographs
from questions import noun_odds, questions_from_captions

AMONG = 200  # photographs among which different captions are counted


def captions(
    model: VisionLanguageModel, photographs: list[Photograph], examples: int, candidates: int | None
) -> dict[str, float]:
    began = time.monotonic()
    said = model.caption([photograph.path for photograph in photographs], num_candidates=candidates)
    seconds = time.monotonic() - began
    references = [photograph.captions for photograph in photographs]
    for caption, photograph in list(zip(said, photographs, strict=True))[:examples]:
        print(f"  {photograph.path.name}: {caption}   ({photograph.captions[0]})", file=sys.stderr)
    own = caption_metrics(said, references)
    mismatched = caption_metrics(said, references[1:] + references[:1])
    return {
        "CIDEr": own["CIDEr"],
        "BLEU-4": own["BLEU-4"],
        "CIDEr, mismatched": mismatched["CIDEr"],
        "BLEU-4, mismatched": mismatched["BLEU-4"],
        f"different captions among {AMONG}": len(set(said[:AMONG])),
        "pictures a second": len(said) / seconds,
        **invented_people(said, photographs),
    }


def matching(model: VisionLanguageModel, photographs: list[Photograph]) -> dict[str, float]:
    """How often a photograph's own caption fits better than that of the next one."""
    pairs = zip(photographs, photographs[1:] + photographs[:1], strict=True)
    scores = [model.match(own.path, [own.captions[0], other.captions[0]]) for own, other in pairs]
    return {"own caption preferred to another's": sum(own > other for own, other in scores) / len(scores)}


def questions(model: VisionLanguageModel, photographs: list[Photograph]) -> dict[str, float]:
    generator = np.random.default_rng(0)
    common = noun_odds(photograph.captions for photograph in photographs)
    asked = [
        (photograph.path, question)
        for photograph in photographs
        for question in questions_from_captions(photograph.captions, common, generator)
    ]
    said = model.answers([(path, question.question) for path, question in asked])
    right: dict[str, list[bool]] = {}
    for (_, question), answer in zip(asked, said, strict=True):
        right.setdefault(question.kind, []).append(answer.lower() == question.answer)
    figures: dict[str, float] = {}
    for kind, results in right.items():
        answers = Counter(question.answer for _, question in asked if question.kind == kind)
        figures[f"{kind}, right"] = sum(results) / len(results)
        figures[f"{kind}, always the most frequent answer"] = answers.most_common(1)[0][1] / len(results)
        figures[f"{kind}, questions"] = len(results)
    return figures


def shapes(model: VisionLanguageModel, folder: Path, most: int) -> dict[str, float]:
    asked = [
        (drawing.path, *pair) for drawing in read_easy_vqa(folder, "test")[: most or None] for pair in drawing.questions
    ]
    said = model.answers([(path, question) for path, question, _ in asked])
    right = [answer.lower() == expected for answer, (_, _, expected) in zip(said, asked, strict=True)]
    return {"easy-VQA test, right": sum(right) / len(right), "easy-VQA test, questions": len(right)}


def each_source(model: VisionLanguageModel, test: list[Photograph], most: int, candidates: list[int | None]) -> None:
    """Print the figures of each source by itself."""
    for source in sorted({photograph.source for photograph in test}):
        own = [photograph for photograph in test if photograph.source == source][: most or None]
        captioned = [photograph for photograph in own if photograph.captions]
        for count in candidates if captioned else []:
            kind = "beam search" if count == 1 else "chosen of several"
            show({f"{source}, {kind}: {name}": value for name, value in captions(model, captioned, 0, count).items()})
        show({f"{source}: {name}": value for name, value in people(model, captioned).items()})
        show({f"{source}: {name}": value for name, value in own_questions(model, own).items()})


def invented_people(said: list[str], photographs: list[Photograph]) -> dict[str, float]:
    """How often a caption names people where no reference does."""
    pairs = zip(said, photographs, strict=True)
    named = [names_people([caption]) for caption, photograph in pairs if names_nobody(photograph.captions)]
    return {"people named where nobody is": float(np.mean(named)), "of": len(named)} if named else {}


def people(model: VisionLanguageModel, photographs: list[Photograph]) -> dict[str, float]:
    """How often the question about people is answered "yes" where nobody is, and correctly where somebody is."""
    figures: dict[str, float] = {}
    for name, holds in (("nobody", names_nobody), ("somebody", names_people)):
        those = [photograph for photograph in photographs if holds(photograph.captions)]
        if those:
            said = model.answers([(photograph.path, QUESTIONS_YES_NO[0]) for photograph in those])
            yes = [answer.lower().startswith("yes") for answer in said]
            figures[f"a person is said to be in the picture where {name} is"] = float(np.mean(yes))
            figures[f"photographs where {name} is"] = len(those)
    return figures


def own_questions(model: VisionLanguageModel, photographs: list[Photograph]) -> dict[str, float]:
    """How often the last word of an answer is that of the expected one, for questions that came with photographs."""
    asked = [(photograph.path, *pair) for photograph in photographs for pair in photograph.questions]
    if not asked:
        return {}
    said = model.answers([(path, question) for path, question, _ in asked])
    last = [
        last_word(answer) == last_word(expected) != "" for answer, (_, _, expected) in zip(said, asked, strict=True)
    ]
    commonest = Counter(last_word(expected) for _, _, expected in asked).most_common(1)[0][1]
    return {
        "last word right": float(np.mean(last)),
        "last word right, the commonest alone": commonest / len(asked),
        "questions": len(asked),
    }


def last_word(answer: str) -> str:
    return ["", *re.findall(r"[a-z0-9]+", answer.lower())][-1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photographs", type=Path)
    options.add_argument("--collection", type=Path)
    options.add_argument("--work", type=Path, default=Path("runs/mini"), help="where perceptual hashes are cached")
    options.add_argument("--most", type=int, default=0, help="photographs of each source; all by default")
    options.add_argument("--sources", nargs="*", help="of the collection; all by default")
    options.add_argument("--drawings", type=Path, help="the unpacked wheel of easy-vqa 1.0")
    options.add_argument("--bridge", type=Path, help="a folder that the recipe wrote; the package's own by default")
    options.add_argument("--part", choices=("test", "calibration"), default="test")
    options.add_argument("--drawings-most", type=int, default=0, help="drawings to ask about; all by default")
    options.add_argument("--candidates", type=int, help="captions to choose from; the model's own number by default")
    options.add_argument("--examples", type=int, default=0, help="captions to show")
    given = options.parse_args()
    loaded = mini_bridge.assemble(given.bridge) if given.bridge else None
    model = VisionLanguageModel(loaded) if loaded else VisionLanguageModel.from_pretrained("mini")
    if given.photographs:
        photographs = split(read_photographs(given.photographs))[given.part]
        show(captions(model, photographs, given.examples, given.candidates))
        show(matching(model, photographs))
        show(questions(model, photographs))
    if given.collection:
        test = Collection(given.collection, given.work).parts[given.part]
        test = [photograph for photograph in test if not photograph.label]
        test = [photograph for photograph in test if not given.sources or photograph.source in given.sources]
        each_source(model, test, given.most, [1, None] if given.candidates is None else [given.candidates])
    if given.drawings:
        show(shapes(model, given.drawings, given.drawings_most))


def show(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        print(json.dumps({"metric": name, "value": round(float(value), 4)}), flush=True)


if __name__ == "__main__":
    main()
