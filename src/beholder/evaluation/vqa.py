"""Whether an answer is right, as the VQA challenge judges it.

Source: Antol et al., *VQA: Visual Question Answering* (arXiv:1505.00468), section 3, and the published rules of its
evaluation: lower case; no full stop but in a number; number words as digits; no articles; the apostrophe of a
contraction put back; other punctuation gone or a space in its place, but apostrophes and colons kept. People's answers
are made alike (the challenge's own program leaves them as they are where all said the same).
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

ARTICLES = {"a", "an", "the"}
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")
PEOPLE = 3  # so many who agree make an answer fully right

CONTRACTIONS = (  # noqa: SIM905
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've mustn't "
    "must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't "
    "we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll "
    "you're you've"
).split()


def _without_one(word: str) -> list[str]:
    """The word with each of its apostrophes left out in turn."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


APOSTROPHES = {wrong: right for right in CONTRACTIONS for wrong in _without_one(right)}


def normalised(answer: str) -> str:
    """The answer as it is compared."""
    text = " ".join(answer.split())
    number = COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if number or beside_space else " ")
    words = [NUMBERS.get(word, word) for word in FULL_STOP.sub("", cleaned).lower().split()]
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)


def answer_score(answer: str, people: Sequence[str]) -> float:
    """How right an answer is, 0 to 1.

    Args:
        answer: what was answered.
        people: what people answered. Where there are several, an answer counts min(1, those who gave it / 3), the
            mean over leaving out each person in turn; a single one must be met.
    """
    said = normalised(answer)
    same = [normalised(person) == said for person in people]
    if len(people) == 1:
        return float(same[0])
    return sum(min((sum(same) - one) / PEOPLE, 1) for one in same) / len(same)


def vqa_accuracy(answers: Sequence[str], given: Sequence[Sequence[str]]) -> float:
    """The mean of `answer_score` over n questions.

    Args:
        answers: n answers.
        given: for each question what people answered.
    """
    scores = [answer_score(answer, people) for answer, people in zip(answers, given, strict=True)]
    return sum(scores) / len(scores)


def answer_kind(people: Sequence[str]) -> Literal["yes/no", "number", "other"]:
    """The kind of a question, from what most people answered."""
    commonest = Counter(map(normalised, people)).most_common(1)[0][0]
    if commonest in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"[\d.:]+", commonest) else "other"
