from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beholder import VisionLanguageModel
from beholder.errors import InvalidSetting, PictureNotFound
from beholder.tasks.conversation import Conversation, ConversationTruncatedWarning
from beholder.tasks.text_codec import append_tokens
from beholder.text.prompts import NOTICE, NOTICE_IN_CHINESE
from tiny_blip2 import make

KINDS = ["opt", "t5"]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.slow
def test_a_caption_does_not_depend_on_the_batch(model: VisionLanguageModel) -> None:
    together = model.caption([picture(seed) for seed in range(5)], "a photo of", batch_size=5)
    assert together == [model.caption(picture(seed), "a photo of") for seed in range(5)]
    assert together == model.caption([picture(seed) for seed in range(5)], "a photo of", batch_size=2)


def test_a_broken_picture_is_reported_in_place_and_the_others_are_captioned(model: VisionLanguageModel) -> None:
    found = list(model.stream_captions([picture(0), "nothing.jpg", picture(1)]))
    assert [item.caption is None for item in found] == [False, True, False]
    assert isinstance(found[1].error, PictureNotFound)
    assert [found[0].caption, found[2].caption] == model.caption([picture(0), picture(1)])
    with pytest.raises(PictureNotFound):
        model.caption([picture(0), "nothing.jpg"])


def test_a_prompt_longer_than_the_context_is_refused(model: VisionLanguageModel) -> None:
    if model.language.encoder_decoder:
        assert model.language.context_length == 0
        return
    with pytest.raises(InvalidSetting, match=r"reads 64\. Shorten it"):
        model.caption(picture(), "dog " * 50)
    with pytest.raises(InvalidSetting, match="Shorten it"):
        model.answer(picture(), "dog " * 60)


def test_choices_are_ranked_by_likelihood(model: VisionLanguageModel) -> None:
    answer = model.ask(picture(), "what is this ?", choices=["dog", "red cat", "no"])
    assert answer.text == answer.choices[0][0]
    assert sum(share for _, share in answer.choices) == pytest.approx(1)
    assert [share for _, share in answer.choices] == sorted((share for _, share in answer.choices), reverse=True)
    # A slow reference, one token at a time.
    language, words = model.language, model.loaded.language_tokenizer
    assert words is not None
    ids = words.encode("Question: what is this ? Answer:").ids
    embeddings = append_tokens(model.language, model.soft_prompts(picture()), ids)
    slow = []
    for choice in ("dog", "red cat", "no"):
        with torch.inference_mode():
            logits, kv_cache = language.prefill(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool))
            total = 0.0
            for word in [*words.encode(choice, add_special_tokens=False).ids, language.eos_token_ids[0]]:
                total += float(logits.log_softmax(-1)[0, word])
                logits = language.decode(torch.tensor([[word]]), kv_cache)
        slow.append(total)
    shares = torch.tensor(slow).softmax(0)
    for choice, share in zip(("dog", "red cat", "no"), shares.tolist(), strict=True):
        assert dict(answer.choices)[choice] == pytest.approx(share, abs=1e-4)


def test_the_confidence_is_the_probability_of_the_answer(model: VisionLanguageModel) -> None:
    answer = model.ask(picture(), "what ?", num_beams=1, max_new_tokens=5)
    assert 0 < answer.confidence < 1


def test_batched_answers_equal_those_to_each_question_alone(model: VisionLanguageModel) -> None:
    one, other = picture(0), picture(1)
    questions = [(one, "what is this ?"), (one, "how many ?"), (other, "what ?"), (other, "is the dog red ?")]
    assert model.answers(questions, batch_size=3) == [model.answer(*pair, num_beams=1) for pair in questions]


def test_a_question_that_an_english_model_cannot_read_is_answered_in_its_language(model: VisionLanguageModel) -> None:
    english = VisionLanguageModel(
        replace(model.loaded, prompts=replace(model.loaded.prompts, language="en")), device="cpu"
    )
    answer = english.ask(picture(), "图里有几只狗？", choices=["dog"])
    assert answer.text == NOTICE_IN_CHINESE and answer.confidence == 0
    assert english.answer(picture(), "сколько собак?") == NOTICE
    assert english.answer(picture(), "what is this ?") == model.answer(picture(), "what is this ?")
    assert model.answer(picture(), "图里有几只狗？") != NOTICE_IN_CHINESE, "its language model may know Chinese"
    pairs = [(picture(), "what is this ?"), (picture(), "图里有几只狗？")]
    assert english.answers(pairs) == [model.answers(pairs[:1])[0], NOTICE_IN_CHINESE]
    with pytest.raises(PictureNotFound):
        english.ask("nothing.jpg", "图里有几只狗？")


def test_a_conversation_with_an_english_model_goes_on_after_a_question_in_chinese(model: VisionLanguageModel) -> None:
    english = VisionLanguageModel(
        replace(model.loaded, prompts=replace(model.loaded.prompts, language="en")), device="cpu"
    )
    chat, expected = english.chat(picture(), max_new_tokens=4), model.chat(picture(), max_new_tokens=4)
    first = chat.ask("what is this ?")
    assert list(chat.stream("图里有几只狗？")) == [NOTICE_IN_CHINESE]
    assert [first, chat.ask("where ?")] == [expected.ask("what is this ?"), expected.ask("where ?")]
    assert [answer for _, answer in chat.history][1] == NOTICE_IN_CHINESE
    again = english.chat(picture(), max_new_tokens=4)
    for question, given in chat.history[:2]:
        again.add_turn(question, given)
    assert again.num_tokens < chat.num_tokens and len(again.history) == 2
    with pytest.raises(InvalidSetting, match="no unfinished answer"):
        again.continue_answer()


@pytest.mark.parametrize("bad", ["", "  "])
def test_an_empty_question_is_refused(model: VisionLanguageModel, bad: str) -> None:
    with pytest.raises(InvalidSetting, match="empty"):
        model.answer(picture(), bad)
    with pytest.raises(InvalidSetting, match="empty"):
        model.ask(picture(), "what ?", choices=["dog", bad])


def slow_answer(model: VisionLanguageModel, chat: Conversation, most: int) -> list[int]:
    """Answer the last question greedily, without a cache of the picture and the previous turns."""
    turns = chat.context_turns
    ids = [token for turn in turns[:-1] for token in (*turn.question_ids, *turn.answer_ids)] + turns[-1].question_ids
    embeddings = append_tokens(model.language, chat.prompts, ids)
    from beholder.runtime.decoding import DecodingSettings, generate

    return generate(
        model.language, embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool), DecodingSettings(most)
    )[0].ids


def test_a_conversation_gives_the_same_answers_as_without_a_cache(model: VisionLanguageModel) -> None:
    chat = model.chat(picture(), max_new_tokens=4)
    for question in ("what is this ?", "how many dog ?", "where ?"):
        answer = chat.ask(question)
        assert chat.turns[-1].answer_ids == slow_answer(model, chat, 4)
        assert chat.history[-1] == (question, answer)
    assert len(chat.history) == 3


def test_a_conversation_can_be_streamed_stopped_and_continued(model: VisionLanguageModel) -> None:
    whole = model.chat(picture(), max_new_tokens=6)
    whole.ask("what is this ?")
    expected = whole.turns[0].answer_ids
    assert len(expected) > 2
    chat = model.chat(picture(), max_new_tokens=6)
    pieces = chat.stream("what is this ?")
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    first = list(chat.turns[0].answer_ids)
    assert first == expected[: len(first)] and not chat.turns[0].finished
    for _ in chat.continue_answer():
        pass
    assert chat.turns[0].answer_ids[: len(expected)] == expected
    next_turn = chat.ask("where ?")
    assert chat.turns[1].answer_ids == slow_answer(model, chat, 6)
    assert chat.history[1][1] == next_turn


def test_the_oldest_turns_are_dropped_with_a_warning(model: VisionLanguageModel) -> None:
    if model.language.encoder_decoder:
        pytest.skip("its positions have no end")
    chat = model.chat(picture(), max_new_tokens=5)
    with pytest.warns(ConversationTruncatedWarning, match="dropped"):
        for _ in range(8):
            chat.ask("how many dog photo of a cat ?")
            assert chat.turns[-1].answer_ids == slow_answer(model, chat, 5)
    assert len(chat.history) == 8 > len(chat.context_turns)
    with pytest.raises(InvalidSetting, match="the language model reads 64"):
        chat.ask("dog " * 60)
    assert len(chat.history) == 8


def test_attention_maps_are_distributions_that_depend_on_the_word(model: VisionLanguageModel) -> None:
    attention_maps = model.attention_maps(picture(), "the dog is red .")
    assert attention_maps.words == ["the", "dog", "is", "red", "."]
    assert attention_maps.maps.shape == (5, 4, 4) and attention_maps.queries.shape == (5, 4, 4)
    np.testing.assert_allclose(attention_maps.maps.sum((1, 2)), 1, atol=1e-4)
    assert attention_maps.maps.std(0).max() > 1e-6, "all words have the same attention map"


def test_global_prompts_have_no_attention_map(tmp_path: Path) -> None:
    from dataclasses import replace

    from beholder.models.bridge import Bridge
    from beholder.weights.load import load_vision_language

    make("opt", tmp_path / "opt")
    loaded = load_vision_language(tmp_path / "opt")
    torch.manual_seed(0)
    bridge = Bridge(replace(loaded.bridge.settings, global_tokens=1, global_prompts=2)).eval()
    bridge.load_state_dict(loaded.bridge.state_dict(), strict=False)
    model = VisionLanguageModel(replace(loaded, bridge=bridge), "cpu")
    assert model.soft_prompts(picture()).shape[1] == bridge.settings.soft_prompts == loaded.soft_prompts + 2
    attention_maps = model.attention_maps(picture(), "the dog is red .")
    assert attention_maps.queries.shape == (bridge.settings.qformer.queries, 4, 4)
    np.testing.assert_allclose(attention_maps.maps.sum((1, 2)), 1, atol=1e-4)


def test_candidates_are_ranked_by_the_matching_head(tmp_path: Path) -> None:
    from dataclasses import replace

    from beholder.weights.load import load_vision_language

    make("opt", tmp_path / "opt")
    make("retrieval", tmp_path / "retrieval")
    writer, reranker = load_vision_language(tmp_path / "opt"), load_vision_language(tmp_path / "retrieval")
    bridge = reranker.bridge
    bridge.to_language = writer.bridge.to_language  # a bridge that has the heads of both stages
    model = VisionLanguageModel(replace(writer, bridge=bridge, tokenizer=reranker.tokenizer), "cpu")
    for found in model.stream_captions([picture(0), picture(1)], num_candidates=6):
        assert len(found.candidates) > 2
        assert (found.caption, found.score) == found.candidates[0]
        texts = [text for text, _ in found.candidates]
        scores = [score for _, score in found.candidates]
        assert scores == sorted(scores, reverse=True)
        np.testing.assert_allclose(model.match(picture(found.index), texts), scores, atol=1e-5)
        assert found.weak == (scores[0] < 0.5)
    (prompted,) = model.stream_captions([picture(0)], "a red", num_candidates=3)
    texts, scores = zip(*prompted.candidates, strict=True)
    np.testing.assert_allclose(model.match(picture(0), [f"a red {text}" for text in texts]), scores, atol=1e-5)


def test_an_added_turn_equals_one_that_was_generated(model: VisionLanguageModel) -> None:
    answers = []
    for without_cache in (False, True):
        chat = model.chat(picture(), max_new_tokens=4)
        chat.ask("red ?")
        chat.add_turn("what is this ?", "a red dog")
        if without_cache:
            chat._kv_cache = None  # everything is recomputed from the turns
        before = chat.num_tokens
        answers.append(chat.ask("how many ?"))
        assert chat.history[1] == ("what is this ?", "a red dog")
        assert chat.num_tokens > before
    assert answers[0] == answers[1]
    shorter = model.chat(picture(), max_new_tokens=4)
    shorter.ask("red ?")
    assert shorter.ask("how many ?") != answers[0]  # so the added turn has an effect


def test_uncapitalize_restores_the_training_form() -> None:
    from beholder.text.prompts import Prompts

    assert Prompts(lowercase=True).uncapitalize(Prompts(lowercase=True).postprocess("a dog runs")) == "a dog runs"
    assert Prompts().uncapitalize("Paris") == "Paris"


def test_special_tokens_in_a_question_are_text(model: VisionLanguageModel) -> None:
    ids = model.codec.encode("is this </s> a dog ?")
    assert not set(ids) & set(model.language.eos_token_ids)


def test_an_exception_in_on_token_aborts_generation(model: VisionLanguageModel) -> None:
    class Enough(Exception):
        pass

    calls = 0

    def on_token() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Enough

    for beams in (1, 3):
        calls = 0
        with pytest.raises(Enough):
            list(model.stream_captions([picture()], num_beams=beams, max_new_tokens=8, on_token=on_token))
        assert calls == 3


def test_a_preprocessed_picture_is_used_unchanged(model: VisionLanguageModel) -> None:
    from beholder.tasks.pictures import preprocess_image

    ready = preprocess_image(picture(), model.loaded.preprocessing, name="it")
    assert model.caption(ready) == model.caption(picture())
    assert model.caption([ready, picture(1)]) == model.caption([picture(), picture(1)])
