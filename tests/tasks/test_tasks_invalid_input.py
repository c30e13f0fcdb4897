"""Every error that a caller can cause is a BeholderError; models and errors can be pickled."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beholder import BeholderError, DualEncoder, VisionLanguageModel
from beholder import errors as tree
from beholder.errors import InvalidSetting, MissingExtra, ModelError, PictureError
from beholder.tasks.caption_options import CaptionOptions
from tiny_blip2 import make

IMAGE = Image.new("RGB", (64, 48), (9, 80, 200))
Call = Callable[[Any], object]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp("blip2")
    make("opt", folder)
    return VisionLanguageModel.from_pretrained(folder)


ENCODER_CALLS: dict[str, Call] = {
    "a text that is None": lambda encoder: encoder.embed_texts(["a", None]),
    "texts that are a number": lambda encoder: encoder.embed_texts(3),
    "texts that are bytes": lambda encoder: encoder.embed_texts(b"abc"),
    "embeddings of another width": lambda encoder: encoder.match(np.ones((2, 3), np.float32), np.ones((1, 8))),
    "embeddings that are a list": lambda encoder: encoder.match([[1.0]], np.ones((1, 8))),
    "one embedding": lambda encoder: encoder.match(np.ones(8), np.ones((1, 8))),
    "an empty batch": lambda encoder: encoder.embed_images([IMAGE], batch_size=0),
    "a negative batch": lambda encoder: encoder.embed_texts(["a"], batch_size=-1),
    "a batch size that is a text": lambda encoder: encoder.embed_images([IMAGE], batch_size="2"),
    "no pictures": lambda encoder: encoder.embed_images(None),
    "a picture that is None": lambda encoder: encoder.embed_images([None]),
    "a picture that is a number": lambda encoder: encoder.embed_images([3]),
    "an array of another shape": lambda encoder: encoder.embed_images([np.zeros((4, 4, 7), np.uint8)]),
    "half a surrogate pair": lambda encoder: encoder.embed_images(["\ud800.jpg"]),
    "a null byte in a path": lambda encoder: encoder.embed_images(["a\0b.jpg"]),
    "no path": lambda encoder: encoder.embed_images([""]),
    "limits that are a number": lambda encoder: encoder.embed_images([IMAGE], limits=3),
    "no labels": lambda encoder: encoder.classify(IMAGE, []),
    "labels that are None": lambda encoder: encoder.classify(IMAGE, None),
    "a label that is a number": lambda encoder: encoder.classify(IMAGE, [1]),
    "labels that are a text": lambda encoder: encoder.classify(IMAGE, "cat"),
    "a template that is a number": lambda encoder: encoder.classify(IMAGE, ["a"], 3),
    "templates that are numbers": lambda encoder: encoder.classify(IMAGE, ["a"], [3]),
    "no templates": lambda encoder: encoder.classify(IMAGE, ["a"], []),
    "another number of labels": lambda encoder: encoder.classify_embeddings(np.ones((1, 8)), ["a"], np.ones((2, 8))),
    "a model without a name": lambda _: DualEncoder.from_pretrained(None),  # type: ignore[arg-type]
    "an empty name": lambda _: DualEncoder.from_pretrained(""),
    "a folder that can't be written": lambda encoder: encoder.save_pretrained("/dev/null/inside"),
}
VLM_CALLS: dict[str, Call] = {
    "no pictures": lambda vlm: vlm.caption(None),
    "a picture that is None": lambda vlm: vlm.caption([None]),
    "a prompt that is a number": lambda vlm: vlm.caption(IMAGE, prompt=3),
    "no tokens": lambda vlm: vlm.caption(IMAGE, max_new_tokens=0),
    "tokens that are a text": lambda vlm: vlm.caption(IMAGE, max_new_tokens="a"),
    "no beams": lambda vlm: vlm.caption(IMAGE, num_beams=0),
    "a probability above one": lambda vlm: vlm.caption(IMAGE, top_p=2),
    "no temperature": lambda vlm: vlm.caption(IMAGE, temperature=0),
    "an empty batch": lambda vlm: vlm.caption(IMAGE, batch_size=0),
    "no candidates": lambda vlm: vlm.caption(IMAGE, num_candidates=0),
    "negative n-grams": lambda vlm: vlm.caption(IMAGE, no_repeat_ngram_size=-1),
    "a seed that is a text": lambda vlm: vlm.caption(IMAGE, seed="a", top_p=0.5),
    "no question": lambda vlm: vlm.ask(IMAGE, None),
    "an empty question": lambda vlm: vlm.ask(IMAGE, " "),
    "a choice that is a number": lambda vlm: vlm.ask(IMAGE, "what?", choices=[3]),
    "a question that is too long": lambda vlm: vlm.ask(IMAGE, "what " * 500),
    "questions that are no pairs": lambda vlm: vlm.answers([IMAGE]),
    "questions in empty batches": lambda vlm: vlm.answers([(IMAGE, "a?")], batch_size=0),
    "texts that are a number": lambda vlm: vlm.match(IMAGE, 3),
    "a chat about nothing": lambda vlm: vlm.chat(None),
    "a chat without a question": lambda vlm: vlm.chat(IMAGE).ask(None),
    "an answer that is None": lambda vlm: vlm.chat(IMAGE).add_turn("a?", None),
    "attention of no words": lambda vlm: vlm.attention_maps(IMAGE, text=""),
    "attention of a number": lambda vlm: vlm.attention_maps(IMAGE, text=3),
}


@pytest.mark.parametrize("name", ENCODER_CALLS)
def test_an_invalid_call_of_an_encoder_raises_a_beholder_error(name: str, encoder: DualEncoder) -> None:
    with pytest.raises(BeholderError):
        ENCODER_CALLS[name](encoder)


@pytest.mark.parametrize("name", VLM_CALLS)
def test_an_invalid_call_of_a_vision_language_model_raises_a_beholder_error(
    name: str, vlm: VisionLanguageModel
) -> None:
    with pytest.raises(BeholderError):
        VLM_CALLS[name](vlm)


def test_options_are_validated_on_construction() -> None:
    assert CaptionOptions().candidates(12) == 12 and CaptionOptions(num_beams=1).candidates(12) == 1
    assert CaptionOptions(num_beams=1, num_candidates=4).candidates(12) == 4
    assert CaptionOptions(top_p=0.9).decoding().num_beams == 1 and CaptionOptions().decoding().num_beams == 3
    for wrong in ({"batch_size": 0}, {"num_candidates": 0}, {"max_new_tokens": 0}, {"temperature": 0.0}):
        with pytest.raises(InvalidSetting):
            CaptionOptions(**wrong)  # type: ignore[arg-type]


def test_a_model_is_pickled_as_its_source(
    encoder: DualEncoder, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = pickle.dumps((encoder, vlm))
    assert len(data) < 2000
    monkeypatch.chdir(tmp_path)
    again, vlm_again = pickle.loads(data)
    np.testing.assert_array_equal(again.embed_texts(["a dog"]), encoder.embed_texts(["a dog"]))
    assert vlm_again.caption(IMAGE) == vlm.caption(IMAGE)


def test_a_relative_folder_is_found_from_another_working_directory(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    data = pickle.dumps(DualEncoder.from_pretrained(tiny_model.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).embed_texts("a").shape == (1, 8)


def test_pickling_a_model_without_a_source_explains_what_to_do(encoder: DualEncoder) -> None:
    with pytest.raises(ModelError, match="save_pretrained"):
        pickle.dumps(DualEncoder(encoder.loaded))


def test_every_error_can_be_pickled() -> None:
    kinds = [kind for kind in vars(tree).values() if isinstance(kind, type) and issubclass(kind, BeholderError)]
    assert len(kinds) > 15
    for kind in kinds:
        two = issubclass(kind, PictureError | MissingExtra)
        error = kind("a.jpg", "is broken") if two else kind("it is wrong")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error) and vars(again) == vars(error)


@pytest.mark.parametrize("images", [IMAGE, np.zeros((8, 8, 3), np.uint8)], ids=["PIL", "array"])
def test_one_picture_gives_a_caption_and_several_give_a_list(images: Any, vlm: VisionLanguageModel) -> None:
    one = vlm.caption(images, num_beams=1)
    assert isinstance(one, str) and vlm.caption([images, images], num_beams=1) == [one, one]


def test_options_can_be_combined_with_keyword_arguments(vlm: VisionLanguageModel) -> None:
    options = CaptionOptions(num_beams=1, max_new_tokens=3)
    (short,) = vlm.stream_captions([IMAGE], options=options)
    (longer,) = vlm.stream_captions([IMAGE], options=options, max_new_tokens=9)
    assert short.caption == vlm.caption(IMAGE, num_beams=1, max_new_tokens=3)
    assert longer.caption == vlm.caption(IMAGE, num_beams=1, max_new_tokens=9)
