"""Whether an answer is right, as the VQA challenge judges it.

Source: Antol et al., *VQA: Visual Question Answering* (arXiv:1505.00468), section 3, and the rules of its evaluation:
lower case, no articles, number words as digits, no punctuation.
"""

import re
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
PEOPLE = 3  # so many who agree make an answer fully right


def normalised(answer: str) -> str:
    """The answer as it is compared."""
    text = re.sub(r"(?<=\d),(?=\d)", "", answer.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    text = re.sub(r"[;/\[\]\"{}()=+\\_<>@`,?!-]", " ", text)
    return " ".join(NUMBERS.get(word, word) for word in text.split() if word not in ARTICLES)


def vqa_accuracy(answers: Sequence[str], given: Sequence[Sequence[str]]) -> float:
    """Share of right answers, 0 to 1.

    Args:
        answers: n answers.
        given: for each question what people answered. Where there are several, an answer counts min(1, those who gave
            it / 3), the mean over leaving out each person in turn; a single one must be met.
    """
    scores = []
    for answer, people in zip(answers, given, strict=True):
        said = normalised(answer)
        same = [normalised(person) == said for person in people]
        if len(people) == 1:
            scores.append(float(same[0]))
        else:
            scores.append(sum(min((sum(same) - one) / PEOPLE, 1) for one in same) / len(same))
    return sum(scores) / len(scores)
