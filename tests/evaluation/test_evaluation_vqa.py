"""Answers are normalized by the VQA challenge's published rules."""

import pytest

from beholder.evaluation.vqa import answer_score, answer_type, normalize_answer, vqa_accuracy

RULES = {
    "capitals": ("Yes", "yes"),
    "space": ("  two \n dogs\t", "2 dogs"),
    "article": ("The dog on a mat", "dog on mat"),
    "an article that is all there is": ("a", ""),
    "a word that begins as an article": ("another theme", "another theme"),
    "number words": ("zero one two three four five six seven eight nine ten", "0 1 2 3 4 5 6 7 8 9 10"),
    "none is nought": ("None", "0"),
    "a number word above ten stays": ("eleven", "eleven"),
    "full stop at the end": ("dog.", "dog"),
    "full stops in letters": ("U.S.A.", "usa"),
    "decimal point": ("2.5", "2.5"),
    "decimal point in front": (".5", ".5"),
    "full stop behind a number": ("5.", "5"),
    "comma in a number": ("1,000", "1000"),
    "comma in a number takes all marks with it": ("1,000-2", "10002"),
    "comma between words": ("red, white", "red white"),
    "comma without a space": ("red,white", "red white"),
    "hyphen": ("t-shirt", "t shirt"),
    "hyphen beside a space": ("black -white", "black white"),
    "a mark beside a space goes wherever it is": ("t-shirt and - hat", "tshirt and hat"),
    "slash": ("yes/no", "yes no"),
    "brackets": ("(left) [right] {up}", "left right up"),
    "exclamation": ("wow!", "wow"),
    "colon of a time": ("2:50 PM", "2:50 pm"),
    "apostrophe of an owner": ("the dog's", "dog's"),
    "contraction": ("dont", "don't"),
    "contraction that is right": ("don't", "don't"),
    "capital contraction": ("Isnt", "isn't"),
    "double contraction, one apostrophe": ("couldnt've", "couldn't've"),
    "double contraction, the other": ("couldn'tve", "couldn't've"),
    "double contraction, neither": ("couldntve", "couldntve"),
    "of the clock": ("2 oclock", "2 o'clock"),
    "leading apostrophe": ("twas", "'twas"),
    "three apostrophes": ("ow's'at", "'ow's'at"),
    "a word that is one without the apostrophe": ("were", "were"),
    "ill and well": ("ill well", "ill well"),
    "another alphabet": ("собака.", "собака"),
}


@pytest.mark.parametrize(("answer", "expected"), RULES.values(), ids=RULES.keys())
def test_an_answer_is_normalized(answer: str, expected: str) -> None:
    assert normalize_answer(answer) == expected


@pytest.mark.parametrize(("agree", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_agreement_with_three_people_is_enough(agree: int, score: float) -> None:
    people = ["dog"] * agree + [f"thing {number}" for number in range(10 - agree)]
    assert answer_score("a dog", people) == pytest.approx(score)


def test_the_score_averages_over_leaving_out_each_person() -> None:
    people = ["two"] * 3 + ["three"] * 7
    assert vqa_accuracy(["2"], [people]) == pytest.approx((7 * 1 + 3 * 2 / 3) / 10)
    assert vqa_accuracy(["three", "dog"], [people, ["a dog"]]) == 1


def test_a_single_reference_answer_must_be_matched() -> None:
    assert vqa_accuracy(["two", "cat"], [["2"], ["dog"]]) == 0.5


@pytest.mark.parametrize(
    ("people", "kind"),
    [
        (["Yes", "yes", "maybe"], "yes/no"),
        (["no"], "yes/no"),
        (["two", "2", "3"], "number"),
        (["2:50", "late"], "number"),
        (["a dog", "dog", "2"], "other"),
        (["no one"], "other"),
    ],
)
def test_the_answer_type_is_that_of_the_majority(people: list[str], kind: str) -> None:
    assert answer_type(people) == kind
