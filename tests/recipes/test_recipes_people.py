"""Words for people, and the questions about them."""

import numpy as np
import pytest

from people import NOBODY, QUESTIONS_YES_NO, names_nobody, names_people, people_questions


@pytest.mark.parametrize(
    ("caption", "somebody", "nobody"),
    [
        ("A man rides a horse.", True, False),
        ("Two BRIDES dance", True, False),
        ("A cake on a table.", False, True),
        ("A model of a ship.", False, False),
        ("A hand holds a pear.", False, False),
        ("Germany and Romania", False, True),
    ],
)
def test_whether_a_caption_names_people(caption: str, somebody: bool, nobody: bool) -> None:
    assert (names_people([caption]), names_nobody([caption])) == (somebody, nobody)


def test_one_caption_that_names_somebody_is_enough_and_no_caption_says_nothing() -> None:
    assert names_people(["A dog.", "A girl with a dog."]) and not names_nobody(["A dog.", "A girl with a dog."])
    assert not names_people([]) and not names_nobody([])


def test_a_question_about_people_is_answered_by_the_captions() -> None:
    generator = np.random.default_rng(0)
    somebody = [pair for _ in range(30) for pair in people_questions(["A boy runs."], generator)]
    assert {answer for _, answer in somebody} == {"yes"}
    nobody = [pair for _ in range(60) for pair in people_questions(["A bowl of soup."], generator)]
    assert {answer for _, answer in nobody} == {"no", NOBODY}
    assert all((answer == "no") == (question in QUESTIONS_YES_NO) for question, answer in nobody)
    assert people_questions(["A statue in a park."], generator) == []
