import shutil

import pytest

from beholder.errors import InvalidSetting
from beholder.evaluation.caption_metrics import caption_metrics, words
from beholder.evaluation.vqa import normalised, vqa_accuracy

REFERENCES = [
    ["A man, in a red t-shirt, rides his bike.", "The man's bike is red", "a cyclist", 'He says "go"', "A man rides."],
    ["Two dogs don't run in the snow .", "Dogs play; it is cold!", "two brown-and-white dogs", "snow (deep)", "dogs"],
    ["A girl is at St. Mary's", "a girl , a boy , and a cat", "girl", "The U.S. flag", "3,000 people in 2 rows..."],
    ["A horse jumps over the fence", "horse and rider", "a brown horse", "horse show", "a rider on a horse"],
]
CAPTIONS = ["a man rides a red bike.", "Two dogs run in the snow.", "a girl and a cat", "a brown horse jumps"]


def test_words() -> None:
    assert words("The man's T-shirt, (red) isn't new.") == "the man 's t-shirt red is n't new"


@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer needs Java")
def test_words_are_those_of_the_reference_tokenizer() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    sentences = [*CAPTIONS, *(said for several in REFERENCES for said in several)]
    theirs = PTBTokenizer().tokenize({number: [{"caption": said}] for number, said in enumerate(sentences)})
    different = [
        (said, words(said), theirs[number][0])
        for number, said in enumerate(sentences)
        if words(said) != theirs[number][0].replace("-lrb- ", "").replace(" -rrb-", "")
    ]
    assert [said for said, _, _ in different] == ["A girl is at St. Mary's", "The U.S. flag"], different


def test_the_metrics_of_the_references_themselves_are_the_highest() -> None:
    own = caption_metrics([several[0] for several in REFERENCES], REFERENCES)
    some = caption_metrics(CAPTIONS, REFERENCES)
    none = caption_metrics(["zebra xylophone"] * 4, REFERENCES)
    assert own["BLEU-4"] == pytest.approx(1) and own["CIDEr"] > some["CIDEr"] > none["CIDEr"] == 0
    assert 0 < some["BLEU-1"] < 1


def test_exchanged_captions_score_less() -> None:
    assert (
        caption_metrics(CAPTIONS[1:] + CAPTIONS[:1], REFERENCES)["CIDEr"]
        < caption_metrics(CAPTIONS, REFERENCES)["CIDEr"]
    )


@pytest.mark.parametrize("wrong", [([], []), (["a"], []), (["a"], [[]])])
def test_what_can_not_be_judged(wrong: tuple[list[str], list[list[str]]]) -> None:
    with pytest.raises(InvalidSetting, match="one caption for each picture"):
        caption_metrics(*wrong)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("The Dog.", "dog"), ("two", "2"), ("1,000", "1000"), ("2.5", "2.5"), ("yes!", "yes"), ("t-shirt", "t shirt")],
)
def test_answers_are_compared_without_what_does_not_matter(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


def test_vqa_accuracy() -> None:
    people = ["two"] * 3 + ["three"] * 7
    assert vqa_accuracy(["2"], [people]) == pytest.approx((7 * 1 + 3 * 2 / 3) / 10)
    assert vqa_accuracy(["three", "dog"], [people, ["a dog"]]) == 1
    assert vqa_accuracy(["cat"], [["dog"]]) == 0
