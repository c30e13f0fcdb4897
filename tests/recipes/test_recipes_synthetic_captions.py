"""Sentences recombined from captions, and the global tokens predicted for them."""

import numpy as np
import pytest

from beholder.errors import InvalidSetting
from synthetic_captions import ImageTokenRegression, parse_caption, recombine_captions

CAPTIONS = [
    "A black dog is running in the snow .",
    "Two girls are playing with a ball on the beach.",
    "A man wearing a hat",
    "Snow .",
    'A sign that says "go", next to a road.',
]


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        (CAPTIONS[0], ("a black dog", "running", "in the snow")),
        (CAPTIONS[1], ("two girls", "playing with a ball", "on the beach")),
        (CAPTIONS[2], ("a man", "wearing a hat", "")),
        (CAPTIONS[3], None),
        (CAPTIONS[4], None),
    ],
)
def test_a_caption_is_split_into_subject_action_and_place(caption: str, found: tuple[str, str, str] | None) -> None:
    assert parse_caption(caption) == found


def test_parts_of_different_captions_are_recombined() -> None:
    sentences = recombine_captions(CAPTIONS, 400, np.random.default_rng(0))
    assert len(sentences) == len(set(sentences)) > 20
    assert {"two girls are running in the snow", "a black dog wearing a hat on the beach"} <= set(sentences)
    whos, does, places = zip(*(found for caption in CAPTIONS if (found := parse_caption(caption))), strict=True)
    for sentence in sentences:
        who = next(who for who in whos if sentence.startswith(who))
        rest = sentence.removeprefix(who).strip()
        verb, _, later = rest.partition(" ")
        assert verb not in ("is", "are") or (verb == "are") == (who == "two girls")
        rest = later if verb in ("is", "are") else rest
        done = next(done for done in does if rest.startswith(done))
        assert rest.removeprefix(done).strip() in places
    assert sentences == recombine_captions(CAPTIONS, 400, np.random.default_rng(0))


def test_captions_without_the_required_parts_are_an_error() -> None:
    with pytest.raises(InvalidSetting, match="who does what"):
        recombine_captions(["Snow.", "A red car."], 10, np.random.default_rng(0))


def test_a_sentence_has_the_tokens_of_its_picture_up_to_the_residual() -> None:
    random = np.random.default_rng(0)
    captions = random.normal(size=(300, 5, 6)).astype(np.float32)
    matrix = random.normal(size=(6, 4))
    tokens = captions.mean(1) @ matrix + 3 + 0.1 * random.normal(size=(300, 4))
    regression = ImageTokenRegression.fit(captions, tokens, ridge=1e-6)
    sentences = random.normal(size=(2000, 6)).astype(np.float32)
    found = regression.tokens(sentences, np.random.default_rng(1))
    assert found.shape == (2000, 4)
    np.testing.assert_allclose(found.mean(0), tokens.mean(0), atol=0.3)
    # One caption contributes a fifth of the mean of five; the rest is residual.
    slope = np.linalg.lstsq(np.c_[sentences, np.ones(2000)], found, rcond=None)[0][:6]
    np.testing.assert_allclose(slope, matrix / 5, atol=0.15)
    spread = (found - sentences @ slope).var(0) + (sentences @ slope).var(0)
    np.testing.assert_allclose(spread, tokens.var(0), rtol=0.2)
    assert not np.allclose(found, regression.tokens(sentences, np.random.default_rng(2)))
