from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from beholder.errors import InvalidSetting
from drawings import Drawing, caption_of_drawing, read_easy_vqa
from questions import absent_nouns, named_nouns, noun_odds, questions_from_captions

CAPTIONS = (
    "Two brown dogs are running in the snow .",
    "A brown dog is running through snow",
    "Two dogs run; a woman's red shirt",
    "The brown dog is running in snow near people",
    "Two dogs",
)


def generate(captions: tuple[str, ...], yes_no: int = 2) -> list[tuple[str, str]]:
    found = questions_from_captions(captions, noun_odds([captions]), np.random.default_rng(0), yes_no)
    return [(question.question, question.answer) for question in found]


def test_nouns_are_extracted_from_captions() -> None:
    assert named_nouns(CAPTIONS) == {"dog", "snow", "woman", "person", "shirt"}
    away = absent_nouns(CAPTIONS)
    assert "car" in away and "horse" in away
    assert not {"man", "jacket", "dog"} & set(away), "possible synonyms of a named noun are not absent"


def test_every_kind_of_question_is_generated() -> None:
    found = dict(generate(CAPTIONS))
    assert found["What animal is in the picture?"] == "dog"
    assert found["What colour is the dog?"] == "brown"
    assert found["How many dogs are there?"] == "two"
    assert found["Where is this?"] == "in the snow"
    assert found["What is the dog doing?"] == "running"
    assert (
        sorted(answer for question, answer in found.items() if question.startswith("Is there"))
        == ["no"] * 2 + ["yes"] * 2
    )


def test_no_question_is_generated_where_captions_disagree() -> None:
    found = dict(generate(("A brown dog", "A black dog sits", "A white dog runs", "Two dogs", "Three dogs")))
    assert "What colour is the dog?" not in found
    assert "How many dogs are there?" not in found
    assert "What is the dog doing?" not in found


def test_answers_of_yes_and_no_are_balanced() -> None:
    for count in range(1, 5):
        answers = Counter(answer for question, answer in generate(CAPTIONS, count) if question.startswith("Is there"))
        assert answers["yes"] == answers["no"] == count


def test_the_odds_of_a_noun_are_present_over_absent() -> None:
    common = noun_odds([("a man",), ("a man", "a dog"), ("a car",)])
    assert common["man"] == 2 / (1 + 1)
    assert common["dog"] == 1 / (2 + 1)
    assert 0 < common["woman"] < 0.001, "a woman is not counted as absent where a man is named"
    assert 0 < common["snow"] < common["woman"]


def test_questions_about_a_frequent_noun_have_about_as_many_no_answers() -> None:
    things = ("ball", "dog", "guitar", "bike", "rope")
    several = [(f"A man with a {thing}",) for thing in things] + [("A bird in a tree",)] * 3
    common, generator = noun_odds(several), np.random.default_rng(0)
    answers = [
        question.answer
        for _ in range(50)
        for captions in several
        for question in questions_from_captions(captions, common, generator)
        if question.question == "Is there a person in the picture?"
    ]
    assert len(answers) > 50
    assert 0.4 < answers.count("no") / len(answers) < 0.6


def test_nouns_have_the_right_article() -> None:
    questions = {question for question, _ in generate(("The ocean, grass and a dog",), 3)}
    assert questions >= {f"Is there {noun} in the picture?" for noun in ("an ocean", "grass", "a dog")}


def test_easy_vqa_is_read_from_the_unpacked_wheel(tmp_path: Path) -> None:
    folder = tmp_path / "easy_vqa" / "data" / "test"
    folder.mkdir(parents=True)
    (tmp_path / "test").mkdir()  # the wheel contains tests of its own
    (folder / "questions.json").write_text('[["what shape?", "circle", 1], ["red?", "no", 0], ["blue?", "yes", 1]]')
    found = read_easy_vqa(tmp_path, "test")
    assert [drawing.path.name for drawing in found] == ["0.png", "1.png"]
    assert found[1].questions == (("what shape?", "circle"), ("blue?", "yes"))
    with pytest.raises(InvalidSetting, match="no easy-VQA split 'train'"):
        read_easy_vqa(tmp_path, "train")


@pytest.mark.parametrize(
    ("questions", "caption"),
    [
        ([("what shape is present?", "circle"), ("what color is the shape?", "teal")], "a teal circle"),
        ([("what is the color of the triangle?", "red")], "a red triangle"),
        ([("is there a blue shape?", "yes"), ("is there a circle?", "no")], "a blue shape"),
        ([("is no rectangle present?", "no"), ("is there not a red shape?", "yes")], "a rectangle"),
        ([("does the image not contain a green shape?", "no")], "a green shape"),
        ([("is there a circle?", "no")], "a shape"),
    ],
)
def test_the_caption_of_a_drawing_follows_from_its_questions(questions: list[tuple[str, str]], caption: str) -> None:
    assert caption_of_drawing(Drawing(Path("1.png"), tuple(questions))) == caption
