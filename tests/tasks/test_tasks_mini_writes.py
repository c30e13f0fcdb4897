"""The default vision-language model on the demo's photographs: put together from its parts, and sensible."""

from pathlib import Path

import pytest

from beholder import VisionLanguageModel

PHOTOGRAPHS = Path(__file__).parent.parent.parent / "demo" / "photographs"

pytestmark = pytest.mark.mini


@pytest.fixture(scope="module")
def mini() -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained("mini")


def test_captions_are_sentences_that_differ(mini: VisionLanguageModel) -> None:
    paths = sorted(PHOTOGRAPHS.glob("*.jpg"))[:8]
    captions = mini.caption(paths)
    assert all(caption[0].isupper() and len(caption.split()) > 3 for caption in captions), captions
    assert len(set(captions)) >= 5, captions
    assert captions[0] == mini.caption(paths[0])[0]


def test_yes_and_no_depend_on_the_picture(mini: VisionLanguageModel) -> None:
    shares = {}
    for name in ("astronaut.jpg", "windmill.jpg"):
        answer = mini.ask(PHOTOGRAPHS / name, "Is there a person in the picture?", choices=["yes", "no"])
        shares[name] = dict(answer.choices)["yes"]
    assert shares["astronaut.jpg"] > shares["windmill.jpg"]


def test_a_conversation_goes_on(mini: VisionLanguageModel) -> None:
    chat = mini.chat(PHOTOGRAPHS / "cat.jpg", max_new_tokens=12)
    answers = [chat.ask(question) for question in ("Is there a dog in the picture?", "Where is this?")]
    assert all(answers) and len(chat.history) == 2


def test_the_bridge_is_small() -> None:
    from beholder.weights import mini_bridge

    assert sum(file.stat().st_size for file in mini_bridge.FOLDER.iterdir()) < 30e6
