"""Prompts and targets that mini's bridge learns from."""

from pathlib import Path

import numpy as np
import pytest

from bridge_texts import WHAT, balanced_weights, label_sentence, texts_of
from initial_bridge import caption_pair, question_pair
from photographs import Photograph
from questions import noun_odds

COMMON = noun_odds([["a dog runs"], ["a cat"], ["a car in the snow"]])


def photograph(*captions: str, label: str = "", source: str = "web", questions: tuple = ()) -> Photograph:
    return Photograph(Path("a.jpg"), captions, source, label=label, questions=questions)


@pytest.mark.parametrize(
    ("label", "sentence"),
    [("polo shirt", "a polo shirt"), ("umbrella", "an umbrella"), ("shoes", "shoes"), ("bus", "a bus")],
)
def test_a_label_becomes_a_caption(label: str, sentence: str) -> None:
    assert label_sentence(label) == sentence


def test_a_captioned_photograph_gives_captions_and_questions() -> None:
    texts = texts_of(photograph("A dog runs.", "A dog in the snow.", "Dog."), COMMON, np.random.default_rng(0))
    captions = [pair for pair in texts if pair[0] == caption_pair("")[0]]
    assert len(captions) == 2 and set(captions) <= {
        caption_pair(one) for one in ("A dog runs.", "A dog in the snow.", "Dog.")
    }
    assert all(pair[0].startswith("Question: ") for pair in texts if pair not in captions) and len(texts) > 2


def test_overlong_captions_are_left_out() -> None:
    texts = texts_of(photograph("word " * 60), COMMON, np.random.default_rng(0))
    assert all(prompt.startswith("Question: ") for prompt, _ in texts)


def test_a_label_is_captioned_and_asked_for() -> None:
    texts = texts_of(photograph(label="Pear", source="clothing-dataset"), COMMON, np.random.default_rng(0))
    assert texts[0] == caption_pair("a Pear") and texts[1][1] == " pear" and len(texts) == 2
    assert texts[1][0] in {question_pair(question, "")[0] for question in WHAT}


def test_groceries_are_asked_in_vain_for_people() -> None:
    generator = np.random.default_rng(0)
    texts = [
        pair
        for _ in range(20)
        for pair in texts_of(photograph(label="pear", source="grocery-store"), COMMON, generator)
    ]
    assert " no" in {answer for _, answer in texts} and " yes" not in {answer for _, answer in texts}


def test_own_questions_are_sampled() -> None:
    room = photograph(questions=(("What is on the bed?", "Pillow"), ("What is red?", "lamp")), source="daquar")
    texts = texts_of(room, COMMON, np.random.default_rng(1), questions=1)
    assert {answer for _, answer in texts} & {" pillow", " lamp"}


def test_half_of_the_photographs_show_nobody() -> None:
    photographs = [
        photograph("A man."),
        photograph("A girl."),
        photograph("A boy."),
        photograph("A pie."),
        photograph("A hand."),
    ]
    weights = balanced_weights(photographs)
    assert weights.sum() == pytest.approx(1) and weights[3] == pytest.approx(weights[:3].sum())
    assert weights[4] == pytest.approx(0.2)
