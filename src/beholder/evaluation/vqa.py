"""VQA accuracy, as the VQA challenge computes it.

Source: Antol et al., *VQA: Visual Question Answering* (arXiv:1505.00468), section 3, and the published rules of its
evaluation: lower case; no periods except in numbers; number words as digits; no articles; missing apostrophes of
contractions restored; other punctuation removed or replaced by a space, except apostrophes and colons. The reference
answers are normalized in the same way (the challenge's program leaves them as they are if they all agree).
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
PERIOD = re.compile(r"\.(?!\d)")
ANNOTATORS = 3  # an answer given by this many annotators is fully right

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


def _without_apostrophe(word: str) -> list[str]:
    """Return the word without each of its apostrophes in turn."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


APOSTROPHES = {wrong: right for right in CONTRACTIONS for wrong in _without_apostrophe(right)}


def normalize_answer(answer: str) -> str:
    """Return the answer in the form in which it is compared."""
    text = " ".join(answer.split())
    number = COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if number or beside_space else " ")
    words = [NUMBERS.get(word, word) for word in PERIOD.sub("", cleaned).lower().split()]
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)


def answer_score(answer: str, references: Sequence[str]) -> float:
    """Return the VQA accuracy of one answer, from 0 to 1.

    Args:
        answer: the model's answer.
        references: the annotators' answers. With several, the score is min(1, annotators who gave it / 3), averaged
            over leaving out each annotator in turn; a single one must match.
    """
    normalized = normalize_answer(answer)
    same = [normalize_answer(reference) == normalized for reference in references]
    if len(references) == 1:
        return float(same[0])
    return sum(min((sum(same) - one) / ANNOTATORS, 1) for one in same) / len(same)


def vqa_accuracy(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the mean of `answer_score` over n questions.

    Args:
        answers: the model's n answers.
        references: the annotators' answers to each question.
    """
    scores = [answer_score(answer, human) for answer, human in zip(answers, references, strict=True)]
    return sum(scores) / len(scores)


def answer_type(references: Sequence[str]) -> Literal["yes/no", "number", "other"]:
    """Return the type of a question, from the most frequent reference answer."""
    commonest = Counter(map(normalize_answer, references)).most_common(1)[0][0]
    if commonest in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"[\d.:]+", commonest) else "other"
