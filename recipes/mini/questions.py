"""Rule-based questions and short answers generated from a photograph's captions."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NOUNS = (  # noqa: SIM905
    "dog cat horse bird man woman boy girl child baby person ball snow grass water beach ocean pool river lake field "
    "street road car truck bus train bike bicycle motorcycle skateboard surfboard snowboard boat tree bench table "
    "building fence wall hat shirt jacket helmet mountain rock rope stick frisbee toy guitar crowd sand"
).split()
PLURALS = {"men": "man", "women": "woman", "children": "child", "people": "person", "benches": "bench", "buses": "bus"}
ANIMALS = ("dog", "cat", "horse", "bird")
COLOURS = ("black", "white", "brown", "red", "blue", "green", "yellow", "orange", "pink", "gray", "purple", "tan")
COLOURED = ("dog", "cat", "horse", "shirt", "jacket", "hat", "helmet", "ball", "car", "bike")
UNCOUNTED = ("snow", "grass", "water", "sand")
PLACES = {
    "snow": "in the snow",
    "grass": "on the grass",
    "beach": "on the beach",
    "water": "in the water",
    "street": "on the street",
    "field": "in a field",
    "pool": "in a pool",
    "river": "at a river",
    "lake": "at a lake",
    "ocean": "at the ocean",
    "road": "on a road",
    "mountain": "in the mountains",
    "park": "in a park",
}
VERBS = {
    "running": "run running runs",
    "jumping": "jump jumping jumps leaping leaps",
    "playing": "play playing plays",
    "sitting": "sit sitting sits",
    "standing": "stand standing stands",
    "walking": "walk walking walks",
    "swimming": "swim swimming swims",
    "riding": "ride riding rides",
    "climbing": "climb climbing climbs",
    "smiling": "smile smiling smiles",
}
DOERS = ("dog", "man", "woman", "boy", "girl", "person")
NUMBERS = ("one", "two", "three", "four", "five", "six")
COUNTED = ("dogs", "men", "women", "boys", "girls", "children", "people", "kids")
IMPLIED = {"man": "person", "woman": "person", "boy": "person", "girl": "person", "child": "person", "baby": "person"}
ALIKE = (  # naming one may mean another, so none of them counts as absent if another is named
    {"man", "woman", "person", "boy", "girl", "child", "baby", "crowd"},
    {"water", "ocean", "pool", "river", "lake", "beach", "sand"},
    {"street", "road"},
    {"bike", "bicycle", "motorcycle"},
    {"car", "truck", "bus"},
    {"field", "grass"},
    {"shirt", "jacket"},
    {"hat", "helmet"},
    {"toy", "ball", "frisbee", "stick", "rope"},
    {"wall", "building", "fence"},
    {"mountain", "rock"},
)


@dataclass(frozen=True)
class Question:
    """A question and its answer; ``kind`` is one of yes/no, animal, colour, count, place, action."""

    question: str
    answer: str
    kind: str


def named_nouns(captions: Sequence[str]) -> set[str]:
    """Return the nouns of `NOUNS` that occur in the captions, in the singular."""
    words = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    singular = {PLURALS.get(word, word) for word in words} | {word[:-1] for word in words if word.endswith("s")}
    found = singular & set(NOUNS)
    return found | {IMPLIED[word] for word in found if word in IMPLIED}


def absent_nouns(captions: Sequence[str]) -> list[str]:
    """Return the nouns of `NOUNS` that the photograph does not show, as far as the captions tell."""
    present = named_nouns(captions)
    near = {word for group in ALIKE if group & present for word in group}
    return [noun for noun in NOUNS if noun not in present | near]


def noun_odds(captions_of_images: Iterable[Sequence[str]]) -> dict[str, float]:
    """Return the odds of each noun of `NOUNS`: photographs that show it over photographs that do not.

    Args:
        captions_of_images: The captions of each photograph.

    Returns:
        Positive odds, so that they can be divided by; close to 0 for a noun that never occurs.
    """
    present, absent = Counter[str](), Counter[str]()
    for captions in captions_of_images:
        present.update(named_nouns(captions))
        absent.update(absent_nouns(captions))
    return {noun: max(present[noun], 1e-6) / (absent[noun] + 1) for noun in NOUNS}


def questions_from_captions(
    captions: Sequence[str], common: Mapping[str, float], generator: np.random.Generator, yes_no: int = 2
) -> list[Question]:
    """Generate questions: up to ``yes_no`` answered by yes, as many by no, and those on which two captions agree.

    The latter ask for the animal, a colour, a count, the place or an action.

    Args:
        captions: Captions of one photograph.
        common: `noun_odds` of the collection. A frequent noun is asked less often where it is present and more often
            where it is absent, so that about half of the answers for any noun are no. Otherwise "is there a person?"
            could be answered by yes without looking at the image.
        generator: Samples the nouns.
        yes_no: Maximum number of each of the two kinds of yes/no questions.
    """
    present = sorted(named_nouns(captions))
    absent = absent_nouns(captions)
    count = min(yes_no, len(present), len(absent))
    questions = [
        Question(f"Is there {article(noun)}{noun} in the picture?", answer, "yes/no")
        for nouns, answer, power in ((present, "yes", -1), (absent, "no", 1))
        for noun in _drawn(nouns, count, [common[noun] ** power for noun in nouns], generator)
    ]
    animals = [animal for animal in ANIMALS if animal in present]
    if len(animals) == 1:
        questions.append(Question("What animal is in the picture?", animals[0], "animal"))
    text = " . ".join(captions).lower()
    for thing in COLOURED:
        questions += agreed_questions(
            rf"\b({'|'.join(COLOURS)}) {thing}\b", text, f"What colour is the {thing}?", "colour"
        )
    for thing in COUNTED:
        questions += agreed_questions(
            rf"\b({'|'.join(NUMBERS)}) (?:[a-z]+ )?{thing}\b", text, f"How many {thing} are there?", "count"
        )
    questions += [
        Question(where.question, PLACES[where.answer], where.kind)
        for where in agreed_questions(rf"\b({'|'.join(PLACES)})\b", text, "Where is this?", "place")
    ]
    for doer in DOERS:
        done = Counter(
            lemma
            for lemma, forms in VERBS.items()
            for _ in re.findall(rf"\b{doer} (?:is |that is |who is )?(?:{forms.replace(' ', '|')})\b", text)
        )
        if len(done) == 1 and sum(done.values()) >= 2:
            questions.append(Question(f"What is the {doer} doing?", next(iter(done)), "action"))
    return questions


def _drawn(nouns: list[str], count: int, weights: list[float], generator: np.random.Generator) -> list[str]:
    if not count:
        return []
    chances = np.array(weights) / sum(weights)
    return [str(noun) for noun in generator.choice(nouns, count, replace=False, p=chances)]


def agreed_questions(pattern: str, text: str, question: str, kind: str) -> list[Question]:
    """Return the question if the pattern has exactly one distinct match, found at least twice; that is the answer."""
    found = Counter(re.findall(pattern, text))
    if len(found) == 1 and sum(found.values()) >= 2:
        return [Question(question, next(iter(found)), kind)]
    return []


def article(noun: str) -> str:
    """Return the article of a noun with a space after it: "a ", "an " or nothing."""
    if noun in UNCOUNTED:
        return ""
    return "an " if noun[0] in "aeiou" else "a "
