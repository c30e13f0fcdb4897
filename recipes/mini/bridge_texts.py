"""Prompts and targets for the bridge's language model, of photographs with captions, labels or questions.

A question about people is asked as often with nobody in the picture as with somebody (`balanced_weights`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from initial_bridge import caption_pair, question_pair
from people import QUESTIONS_YES_NO, names_nobody, names_people, people_questions
from photographs import Photograph
from questions import questions_from_captions

WHAT = ("What is in the picture?", "What is this?", "What does the picture show?")
WITHOUT_PEOPLE = frozenset({"caltech101", "grocery-store", "tf-flowers", "daquar"})
PAIRS = ("pants", "shorts", "shoes", "hat or cap")
LONGEST = 24  # words of a caption; longer ones are no single sentence

Pair = tuple[str, str]  # prompt and text after it


def label_sentence(label: str) -> str:
    """Return a label as a caption: "a polo shirt"; mass nouns and plurals are recognized by their ends."""
    first, _, _ = label.partition(" ")
    bare = label.endswith("s") or label in ("cabbage", "garlic", "ginger", "juice")
    return (
        label if bare and first not in ("glass", "bus") else f"{'an' if first[0].lower() in 'aeiou' else 'a'} {label}"
    )


def texts_of(
    photograph: Photograph,
    common: Mapping[str, float],
    generator: np.random.Generator,
    captions: int = 2,
    questions: int = 2,
) -> list[Pair]:
    """Sample captions and questions of a photograph.

    Args:
        photograph: With captions, a label or questions.
        common: `questions.noun_odds` of the collection.
        generator: Samples.
        captions: Maximum number of captions.
        questions: Maximum number of questions besides the one about people.
    """
    short = [caption for caption in photograph.captions if len(caption.split()) <= LONGEST]
    chosen = [short[number] for number in generator.permutation(len(short))[:captions]]
    pairs = [caption_pair(caption) for caption in chosen]
    asked: list[Pair] = [(question, answer.lower()) for question, answer in photograph.questions]
    if photograph.captions:
        found = questions_from_captions(photograph.captions, common, generator, yes_no=1)
        asked += [(question.question, question.answer) for question in found]
    people: list[Pair] = people_questions(photograph.captions, generator)
    if photograph.label:
        pairs.append(caption_pair(label_sentence(photograph.label)))
        asked.append((str(generator.choice(WHAT)), photograph.label.lower()))
    if photograph.source in WITHOUT_PEOPLE and generator.random() < 0.5:
        people = [(str(generator.choice(QUESTIONS_YES_NO)), "no")]
    asked = [asked[number] for number in generator.permutation(len(asked))[:questions]]
    return pairs + [question_pair(*pair) for pair in asked + people]


def balanced_weights(photographs: Sequence[Photograph], nobody: float = 0.5) -> np.ndarray:
    """Return the probability (n,) of each photograph, so that a share of ``nobody`` shows no person.

    Photographs whose captions leave it open keep their natural share.
    """
    somebody = np.array([names_people(one.captions) for one in photographs])
    empty = np.array([names_nobody(one.captions) or one.source in WITHOUT_PEOPLE for one in photographs])
    weights = np.ones(len(photographs))
    known = somebody.sum() + empty.sum()
    if somebody.any() and empty.any():
        weights[somebody] = known * (1 - nobody) / somebody.sum()
        weights[empty] = known * nobody / empty.sum()
    return weights / weights.sum()
