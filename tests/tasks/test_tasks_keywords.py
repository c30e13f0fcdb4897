"""Keywords from a vocabulary."""

from pathlib import Path

import numpy as np
import pytest

import tiny_model
from beholder import DualEncoder
from beholder.errors import InvalidSetting, ModelError
from beholder.tasks.keywords import KeywordChooser, read_vocabulary


@pytest.mark.parametrize(
    "text",
    [
        "animals\n\tdogs\n\t\tpoodle\n\tcats\n\nplaces\n\tbeach\n",
        "\ufeffanimals\r\n\tdogs\r\n\t\t{hounds}\r\n\t\tpoodle\r\n\tcats\r\n[places]\r\n\tbeach",
        "animals\nanimals|dogs\nanimals|dogs|poodle\nanimals | cats\nplaces\nplaces|beach",
    ],
    ids=["tabs", "as Lightroom exports", "paths"],
)
def test_a_vocabulary_is_read_in_every_notation(text: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(text.encode())
    assert read_vocabulary(tmp_path / "words.txt") == [
        ("animals",),
        ("animals", "dogs"),
        ("animals", "dogs", "poodle"),
        ("animals", "cats"),
        ("places",),
        ("places", "beach"),
    ]


@pytest.mark.parametrize("data", [b"", b"\n \n", b"a\n\t\tb\n", b"\xff\xfe\x00"])
def test_an_invalid_vocabulary_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(data)
    with pytest.raises(InvalidSetting, match=r"words\.txt"):
        read_vocabulary(tmp_path / "words.txt")
    with pytest.raises(InvalidSetting, match="missing"):
        read_vocabulary(tmp_path / "missing")


def test_keywords_above_the_cut_off_are_chosen_the_lowest_of_each_branch() -> None:
    encoder = DualEncoder(tiny_model.build(), "cpu")
    vocabulary = [("animals",), ("animals", "dogs"), ("beach",), ("snow",)]
    chooser = KeywordChooser(encoder, vocabulary, 0.9)
    matches = np.array([[0.99, 0.95, 0.2, 0.91], [0.99, 0.3, 0.1, 0.0], [0.1, 0.1, 0.1, 0.1]])
    encoder.match = lambda *_: matches  # type: ignore[method-assign]
    chosen = chooser.choose(np.zeros((3, tiny_model.EMBEDDING), np.float32))
    assert [[keyword.path for keyword in one] for one in chosen] == [
        [("animals", "dogs"), ("snow",)],
        [("animals",)],
        [],
    ]
    assert chosen[0][0].match == 0.95 and chosen[0][0].name == "dogs"


def test_the_longer_a_vocabulary_is_the_surer_a_keyword_has_to_be() -> None:
    encoder = DualEncoder(tiny_model.build(), "cpu")
    match = np.array([[0.97, 0.6]])
    for unrelated, expected in ((0, 2), (50, 1), (100, 0)):
        vocabulary = [(f"word {number}",) for number in range(2 + unrelated)]
        chooser = KeywordChooser(encoder, vocabulary)
        encoder.match = lambda *_, unrelated=unrelated: np.pad(match, ((0, 0), (0, unrelated)))  # type: ignore[method-assign]
        assert len(chooser.choose(np.zeros((1, tiny_model.EMBEDDING), np.float32))[0]) == expected
    assert KeywordChooser(encoder, [("dog",)], 0.95).min_match == 0.95


def test_a_model_without_calibration_is_refused() -> None:
    with pytest.raises(ModelError, match="calibration"):
        KeywordChooser(DualEncoder(tiny_model.build(calibrated=False), "cpu"), [("dog",)])
