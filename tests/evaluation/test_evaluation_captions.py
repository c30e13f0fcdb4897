import shutil

import numpy as np
import pytest

from beholder.errors import InvalidSetting
from beholder.evaluation.caption_metrics import caption_metrics, score_captions, tokenize_caption

REFERENCES = [
    ["A man, in a red t-shirt, rides his bike.", "The man's bike is red", "a cyclist", 'He says "go"', "A man rides."],
    ["Two dogs don't run in the snow .", "Dogs play; it is cold!", "two brown-and-white dogs", "snow (deep)", "dogs"],
    ["A girl is at St. Mary's", "a girl , a boy , and a cat", "girl", "The U.S. flag", "3,000 people in 2 rows..."],
    ["A horse jumps over the fence", "horse and rider", "a brown horse", "horse show", "a rider on a horse"],
]
CAPTIONS = ["a man rides a red bike.", "Two dogs run in the snow.", "a girl and a cat", "a brown horse jumps"]


def test_captions_are_split_into_words() -> None:
    assert tokenize_caption("The man's T-shirt, (red) isn't new.") == "the man 's t-shirt red is n't new"


@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer needs Java")
def test_words_equal_those_of_the_reference_tokenizer() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    sentences = [*CAPTIONS, *(caption for several in REFERENCES for caption in several)]
    theirs = PTBTokenizer().tokenize({number: [{"caption": caption}] for number, caption in enumerate(sentences)})
    different = [
        (caption, tokenize_caption(caption), theirs[number][0])
        for number, caption in enumerate(sentences)
        if tokenize_caption(caption) != theirs[number][0].replace("-lrb- ", "").replace(" -rrb-", "")
    ]
    assert [caption for caption, _, _ in different] == ["A girl is at St. Mary's", "The U.S. flag"], different


def test_the_references_themselves_have_the_highest_scores() -> None:
    own = caption_metrics([several[0] for several in REFERENCES], REFERENCES)
    some = caption_metrics(CAPTIONS, REFERENCES)
    none = caption_metrics(["zebra xylophone"] * 4, REFERENCES)
    assert own["BLEU-4"] == pytest.approx(1) and own["CIDEr"] > some["CIDEr"] > none["CIDEr"] == 0
    assert 0 < some["BLEU-1"] < 1


def test_permuted_captions_score_lower() -> None:
    assert (
        caption_metrics(CAPTIONS[1:] + CAPTIONS[:1], REFERENCES)["CIDEr"]
        < caption_metrics(CAPTIONS, REFERENCES)["CIDEr"]
    )


@pytest.mark.parametrize("wrong", [([], []), (["a"], []), (["a"], [[]])])
def test_invalid_input_is_refused(wrong: tuple[list[str], list[list[str]]]) -> None:
    with pytest.raises(InvalidSetting, match="one caption per picture"):
        caption_metrics(*wrong)


def test_the_metrics_equal_those_of_pycocoevalcap() -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates = {number: [tokenize_caption(caption)] for number, caption in enumerate(CAPTIONS)}
    expected = {number: [tokenize_caption(text) for text in several] for number, several in enumerate(REFERENCES)}
    bleu, _ = Bleu(4).compute_score(expected, candidates, verbose=0)
    theirs = {f"BLEU-{order + 1}": value for order, value in enumerate(bleu)}
    theirs |= {
        "CIDEr": Cider().compute_score(expected, candidates)[0],
        "ROUGE-L": Rouge().compute_score(expected, candidates)[0],
    }
    assert caption_metrics(CAPTIONS, REFERENCES) == pytest.approx(theirs, abs=1e-6)


def test_a_resample_scores_like_repeated_captions() -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    measured = scores.measure(np.array([[2.0, 0, 1, 1]]))
    rows = [0, 0, 2, 3]
    expected = caption_metrics([CAPTIONS[row] for row in rows], [REFERENCES[row] for row in rows])
    for name in (
        "BLEU-1",
        "BLEU-2",
        "BLEU-3",
        "BLEU-4",
        "ROUGE-L",
    ):  # CIDEr's document frequencies come from all references
        assert float(measured[name][0]) == pytest.approx(expected[name], abs=1e-9)


def test_an_empty_caption_scores_zero() -> None:
    measured = caption_metrics(["", *CAPTIONS[1:]], REFERENCES)
    assert np.isfinite(list(measured.values())).all()
    assert score_captions(["", *CAPTIONS[1:]], REFERENCES).cider[0] == 0
