"""The default vision-language model on the demo's photographs: its parts fit, and its texts are sensible."""

from pathlib import Path

import numpy as np
import pytest

from beholder import DualEncoder, VisionLanguageModel

PHOTOGRAPHS = Path(__file__).parent.parent.parent / "demo" / "photographs"

pytestmark = pytest.mark.mini


@pytest.fixture(scope="module")
def mini() -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained("mini")


@pytest.mark.slow
def test_captions_are_distinct_sentences(mini: VisionLanguageModel) -> None:
    paths = sorted(PHOTOGRAPHS.glob("*.jpg"))[:8]
    captions = mini.caption(paths)
    assert all(caption[0].isupper() and len(caption.split()) > 1 for caption in captions), captions
    assert sum(len(caption.split()) for caption in captions) > 4 * len(captions), captions
    assert len(set(captions)) >= 5, captions
    assert captions[0] == mini.caption(paths[0])


@pytest.mark.slow
def test_the_dual_encoder_reranks_the_captions(mini: VisionLanguageModel) -> None:
    paths = [PHOTOGRAPHS / "cat.jpg", PHOTOGRAPHS / "windmill.jpg"]
    encoder = DualEncoder.from_pretrained("mini")
    likeliest = []
    for picture in mini.stream_captions(paths):
        texts, scores = zip(*picture.candidates, strict=True)
        assert 1 < len(texts) <= 12 and (picture.caption, picture.score) == picture.candidates[0]
        assert list(scores) == sorted(scores, reverse=True)
        expected = encoder.match(encoder.embed_images(paths[picture.index]), encoder.embed_texts(texts))[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        likeliest.append(texts)
    for single, texts in zip(mini.caption(paths, num_beams=12), likeliest, strict=True):
        assert single in texts
    cat, windmill = mini.match(paths[0], ["a cat", "a windmill"])
    assert cat > windmill
    assert [picture.score for picture in mini.stream_captions(paths, top_p=0.9)] == [None, None]


@pytest.mark.slow
def test_yes_no_answers_depend_on_the_picture(mini: VisionLanguageModel) -> None:
    shares = {}
    for name in ("astronaut.jpg", "windmill.jpg"):
        answer = mini.ask(PHOTOGRAPHS / name, "Is there a person in the picture?", choices=["yes", "no"])
        shares[name] = dict(answer.choices)["yes"]
    assert shares["astronaut.jpg"] > shares["windmill.jpg"]


@pytest.mark.slow
def test_a_conversation_can_be_continued(mini: VisionLanguageModel) -> None:
    chat = mini.chat(PHOTOGRAPHS / "cat.jpg", max_new_tokens=12)
    answers = [chat.ask(question) for question in ("Is there a dog in the picture?", "Where is this?")]
    assert all(answers) and len(chat.history) == 2


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_still_writes(
    mini: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from beholder.runtime.compiled_model import CompiledFormat

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CompiledFormat, "find", lambda *_: None)
    monkeypatch.setattr(CompiledFormat, "compile", full)
    with pytest.warns(UserWarning, match="could not be compiled.*No space left"):
        model = VisionLanguageModel.from_pretrained("mini", device="cpu")
    assert model.caption(PHOTOGRAPHS / "cat.jpg") == mini.caption(PHOTOGRAPHS / "cat.jpg")


def test_the_bridge_is_small() -> None:
    from beholder.weights import mini_bridge

    assert sum(file.stat().st_size for file in mini_bridge.FOLDER.iterdir()) < 30e6
