"""SmolVLM in its own networks: conversations that keep their cache, several pictures, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_blip2
from beholder import VisionLanguageModel
from beholder.errors import InvalidSetting, ModelError, PictureNotFound
from beholder.runtime.continuous_batching import CacheDemand, ContinuousBatch, DecodingRequest
from beholder.runtime.decoding import DecodingSettings, run
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import ConversationTruncatedWarning
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.smolvlm_conversation import SmolVLMConversation, common_prefix
from beholder.weights.load import load_image_tower, load_vision_language
from tiny_image_text_to_text import picture, smolvlm, smolvlm_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smolvlm")
    smolvlm(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


def conversation(model: VisionLanguageModel, images: Any = None, **options: Any) -> SmolVLMConversation:
    chat = model.chat(picture() if images is None else images, **options)
    assert isinstance(chat, SmolVLMConversation)
    return chat


class Counted:
    """A language model that counts the tokens that it reads, those of single steps of decoding apart."""

    def __init__(self, language: Any):
        self.language = language
        self.prefilled: list[int] = []
        self.continued: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.language, name)

    def prefill(self, embeddings: Any, mask: Any) -> Any:
        self.prefilled.append(embeddings.shape[1])
        return self.language.prefill(embeddings, mask)

    def decode(self, ids: Any, kv_cache: Any, **options: Any) -> Any:
        if ids.shape[1] > 1:
            self.continued.append(ids.shape[1])
        return self.language.decode(ids, kv_cache, **options)


QUESTIONS = ("what is this ?", "how many are there ?", "where ?")


@pytest.mark.parametrize("capacity", [600, 100_000])
def test_texts_decoded_together_are_those_of_lone_requests(model: VisionLanguageModel, capacity: int) -> None:
    pictures = [picture(seed, 50 + 30 * seed, 40) for seed in range(3)]
    options = [
        CaptionOptions(max_new_tokens=9, num_beams=1),
        CaptionOptions(max_new_tokens=7, num_beams=3, prompt="A man"),
        CaptionOptions(max_new_tokens=8, top_p=0.9, seed=3),
    ]
    settings = [
        DecodingSettings(10),
        DecodingSettings(6, top_p=0.8, temperature=1.3, seed=5),
        DecodingSettings(12),
    ]
    batch = ContinuousBatch(model.language, capacity)
    ends: dict[str, Any] = {}
    pieces: dict[str, list[str]] = {}
    waiting: list[tuple[str, CacheDemand, Any]] = []
    for number, image in enumerate(pictures):
        waiting.append((f"caption {number}", *model.prepare_captions([image], options[number])))
        chat = model.prepare_chat(image, settings[number])
        chat.add_turn("who ?", "Nobody")
        chat.add_question(QUESTIONS[number])
        name = f"chat {number}"
        written = pieces.setdefault(name, [])
        demand = CacheDemand(1, chat.num_tokens + settings[number].max_new_tokens)
        waiting.append((name, demand, partial(chat.start_answer, written.append)))
    most = 0
    while waiting or batch.requests:
        if waiting and batch.fits(waiting[0][1]):
            name, demand, start = waiting.pop(0)
            batch.join([DecodingRequest(demand, start(), partial(ends.setdefault, name))])
        batch.step()
        most = max(most, len(batch.requests))
        assert len(batch.requests) <= 1 or batch.reserved <= capacity
    assert most > 1 and (most > 3 or capacity == 600)
    for number, image in enumerate(pictures):
        found = [each.caption for each in ends[f"caption {number}"]]
        assert found == [model.caption(image, max_new_tokens=options[number].max_new_tokens, options=options[number])]
        given = settings[number]
        alone = model.chat(
            image,
            max_new_tokens=given.max_new_tokens,
            top_p=given.top_p,
            temperature=given.temperature,
            seed=given.seed,
        )
        alone.add_turn("who ?", "Nobody")
        answer = alone.ask(QUESTIONS[number])
        turn = ends[f"chat {number}"]
        assert (turn.answer, turn.answer_ids) == (answer, alone.turns[-1].answer_ids)
        assert turn.finished == alone.turns[-1].finished
        assert "".join(pieces[f"chat {number}"]).strip() == answer


def test_candidates_are_ranked_when_captions_are_decoded_together(
    folder: Path, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = VisionLanguageModel.from_pretrained(folder, device="cpu", reranker="siglip2")
    lengths = lambda image, texts, **_: np.array([len(text) for text in texts], float)  # noqa: E731
    monkeypatch.setattr(ranking.backend, "match", lengths)
    options = CaptionOptions(max_new_tokens=6, num_candidates=3)
    demand, start = ranking.prepare_captions([picture(1)], options)
    assert demand.rows == 3
    (found,) = run(ranking.language, start())
    (expected,) = ranking.stream_captions([picture(1)], options=options)
    assert found.caption == expected.caption and found.candidates == expected.candidates
    with pytest.raises(ModelError, match="reranker"):
        model.prepare_captions([picture(1)], options)


def test_an_answer_that_was_decoded_elsewhere_is_followed_by_others(model: VisionLanguageModel) -> None:
    chat, plain = conversation(model, max_new_tokens=5), conversation(model, max_new_tokens=5)
    first = plain.ask("what is this ?")
    chat.add_question("what is this ?")
    run(model.language, chat.start_answer(lambda piece: None))
    assert chat.history == [("what is this ?", first)]
    assert chat.ask("how many ?") == plain.ask("how many ?")


def test_a_picture_is_encoded_in_parts_that_may_be_aborted(model: VisionLanguageModel) -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    parts: list[int] = []
    chat = model.prepare_chat(picture(), DecodingSettings(4))
    chat.add_question("what is this ?")
    with pytest.raises(Left):
        chat.read_pictures(leave)
    chat.read_pictures(lambda: parts.append(1))
    chat.read_pictures(lambda: parts.append(1))  # the second time there is nothing left to do
    assert len(parts) == 2  # five tiles, four at a time
    with pytest.raises(Left):
        model.prepare_captions([picture()], CaptionOptions(max_new_tokens=4), leave)


def test_a_later_turn_reads_its_question_alone(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(smolvlm_generator(model).language)
    monkeypatch.setattr(smolvlm_generator(model), "language", counted)
    towers: list[int] = []
    soft_prompts = smolvlm_generator(model).soft_prompts
    monkeypatch.setattr(
        smolvlm_generator(model), "soft_prompts", lambda *given: (towers.append(len(given[0])), soft_prompts(*given))[1]
    )
    chat = conversation(model, [picture(), picture(1)], max_new_tokens=4)
    questions = ("what is this ?", "how many ?", "where ?", "who ?", "why ?")
    for question in questions:
        chat.ask(question)
    assert len(counted.prefilled) == 1 and towers == [10]
    written = len("<|im_start|>") + len("User: Assistant: ")  # the template's own, at most
    assert len(counted.continued) == 4
    for question, tokens in zip(questions[1:], counted.continued, strict=True):
        assert len(question) < tokens < len(question) + written + 6


def test_the_pieces_of_a_stream_are_the_answer(model: VisionLanguageModel) -> None:
    chat = conversation(model, max_new_tokens=8)
    for question in ("what is this ?", "how many ?"):
        assert "".join(chat.stream(question)).strip() == chat.history[-1][1]
    plain = conversation(model, max_new_tokens=8)
    assert [plain.ask("what is this ?"), plain.ask("how many ?")] == [answer for _, answer in chat.history]
    assert chat.num_tokens == plain.num_tokens


def test_turns_from_elsewhere_are_read(model: VisionLanguageModel) -> None:
    chat = conversation(model, max_new_tokens=5)
    for question in ("what is this ?", "how many ?", "where ?"):
        answer = chat.ask(question)
        slow = conversation(model, max_new_tokens=5)
        for earlier, said in chat.history[:-1]:
            slow.add_turn(earlier, said)
        model.caption(picture(7), max_new_tokens=2, num_beams=1)  # another picture in between
        assert slow.ask(question) == answer
        assert chat.num_tokens == slow.num_tokens


@pytest.mark.parametrize("taken", [1, 3])
def test_an_answer_that_was_stopped_is_continued(model: VisionLanguageModel, taken: int) -> None:
    whole = conversation(model, max_new_tokens=8)
    whole.ask("what is this ?")
    chat = conversation(model, max_new_tokens=8)
    pieces = chat.stream("what is this ?")
    for _ in range(taken):
        next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert len(chat.turns[-1].answer_ids) == taken and not chat.turns[-1].finished
    list(chat.continue_answer())
    expected = whole.turns[-1].answer_ids
    assert chat.turns[-1].answer_ids[: len(expected)] == expected


def test_an_exception_while_decoding_leaves_a_conversation_that_goes_on(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = conversation(model, max_new_tokens=5)
    chat.ask("what is this ?")
    language = smolvlm_generator(model).language

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(language, "decode", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            chat.ask("how many ?")
    answer = "".join(chat.continue_answer()).strip()
    straight = conversation(model, max_new_tokens=5)
    straight.ask("what is this ?")
    assert straight.ask("how many ?") == answer


def test_the_oldest_turns_are_dropped_when_the_context_is_full(model: VisionLanguageModel) -> None:
    chat = conversation(model, max_new_tokens=5)
    question = "what is this and where and when and why ? " * 4
    with pytest.warns(ConversationTruncatedWarning, match=r"oldest .* dropped"):
        for _ in range(4):
            chat.ask(question)
    assert len(chat.turns) == 4 and len(chat.context_turns) < 4
    assert chat.num_tokens <= 512
    fresh = conversation(model, max_new_tokens=5)
    for turn in chat.context_turns[:-1]:
        fresh.add_turn(turn.question, turn.answer)
    assert fresh.ask(question) == chat.history[-1][1]


def test_a_full_context_is_refused(model: VisionLanguageModel) -> None:
    question = "what is this and where and when and why ? " * 80
    with pytest.raises(
        InvalidSetting, match=r"picture and prompt have \d+ tokens; .* exceed the model's context of 512"
    ):
        model.chat(picture()).ask(question)
    with pytest.raises(InvalidSetting, match="exceed the model's context of 512"):
        model.answer(picture(), question)
    with pytest.raises(InvalidSetting, match="exceed the model's context of 512"):
        list(model.stream_captions([picture()], max_new_tokens=500))


def test_a_picture_too_many_is_refused(model: VisionLanguageModel, tmp_path: Path) -> None:
    pictures = [picture(seed) for seed in range(14)]
    assert model.answer(pictures[:3], "what ?", max_new_tokens=2) is not None
    with pytest.raises(InvalidSetting, match=r"14 pictures and the prompt have \d+ tokens.*Leave out pictures"):
        model.answer(pictures, "what ?")
    with pytest.raises(InvalidSetting, match=r"14 pictures and the prompt have \d+ tokens.*Leave out pictures"):
        model.chat(pictures).ask("what ?")
    # Not one of these is opened.
    with pytest.raises(InvalidSetting, match="200 pictures exceed the model's context of 512 tokens: each takes at"):
        model.chat([str(tmp_path / "missing.jpg")] * 200)
    with pytest.raises(InvalidSetting, match="the list of pictures is empty"):
        model.answer([], "what ?")
    with pytest.raises(PictureNotFound):
        model.answer([picture(), str(tmp_path / "missing.jpg")], "what ?")


def test_a_model_with_a_bridge_reads_one_picture(tmp_path: Path) -> None:
    tiny_blip2.make("opt", tmp_path)
    bridge = VisionLanguageModel.from_pretrained(tmp_path, device="cpu")
    pair = [picture(), picture(1)]
    for call in (
        lambda: bridge.answer(pair, "what is this ?"),
        lambda: bridge.answers([(pair, "what is this ?")]),
        lambda: bridge.chat(pair),
        lambda: bridge.chat([]),
    ):
        with pytest.raises(InvalidSetting, match=r"reads one picture at a time, not [02]"):
            call()
    assert bridge.answer([picture()], "what is this ?") == bridge.answer(picture(), "what is this ?")


def test_answers_to_several_pictures_do_not_depend_on_the_batch(model: VisionLanguageModel) -> None:
    questions: list[tuple[Any, str]] = [
        ([picture(0), picture(1)], "what is this ?"),
        (picture(2), "how many dogs are there in it ?"),
        ([picture(3, 20, 60)], "where ?"),
    ]
    together = model.answers(questions, max_new_tokens=6)
    assert together == [model.answer(*pair, num_beams=1, max_new_tokens=6) for pair in questions]
    assert model.answers([(picture(), "what ?")]) != model.answers([([picture(), picture(1)], "what ?")])


def test_choices_are_ranked_by_likelihood(model: VisionLanguageModel) -> None:
    answer = model.ask([picture(), picture(1)], "what ?", choices=["dog", "red cat"])
    assert answer.text == answer.choices[0][0] and answer.confidence == answer.choices[0][1]
    assert sum(share for _, share in answer.choices) == pytest.approx(1)
    ours = smolvlm_generator(model)
    assert isinstance(model.backend, ImageTextToTextModel)
    prompt = model.backend.question_prompt("what ?", 2)
    inputs = ours.encode([[picture(), picture(1)]], [prompt])
    alone = [ours.answer_log_probs(inputs, prompt, [choice])[0] for choice in ("dog", "red cat")]
    shares = np.exp(alone) / np.exp(alone).sum()
    for choice, share in zip(("dog", "red cat"), shares, strict=True):
        assert dict(answer.choices)[choice] == pytest.approx(share, abs=1e-4)


def test_control_tokens_in_a_question_are_text(model: VisionLanguageModel) -> None:
    assert isinstance(model.backend, ImageTextToTextModel)
    prompt = model.backend.question_prompt("a <image> or <end_of_utterance> ?")
    assert prompt.count("<image>") == 1 and "< image>" in prompt and "< end_of_utterance>" in prompt
    chat = conversation(model, max_new_tokens=3)
    assert isinstance(chat.ask("a <image> ?"), str)
    chat.add_turn("and <row_1_col_1> ?", "a <image> <global-img> too")
    assert isinstance(chat.ask("why ?"), str)


def test_a_template_without_a_place_for_pictures_is_an_error_of_the_model(tmp_path: Path) -> None:
    smolvlm(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    model = VisionLanguageModel.from_pretrained(tmp_path, device="cpu")
    with pytest.raises(ModelError, match="the chat template has 0 places for 1 pictures"):
        model.caption(picture())
    with pytest.raises(ModelError, match="the chat template has 0 places for 2 pictures"):
        model.chat([picture(), picture()]).ask("what ?")


def test_an_exception_of_on_token_aborts_generation(model: VisionLanguageModel) -> None:
    class StopHere(Exception):
        pass

    calls = []

    def on_token() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise StopHere

    with pytest.raises(StopHere):
        model.caption(picture(), max_new_tokens=8, num_beams=1, on_token=on_token)
    assert len(calls) == 3


def test_sampled_captions_follow_the_seed(model: VisionLanguageModel) -> None:
    options: dict[str, Any] = {"top_p": 0.9, "max_new_tokens": 8, "temperature": 2.0}
    first = [model.caption(picture(), seed=seed, **options) for seed in range(3)]
    assert first == [model.caption(picture(), seed=seed, **options) for seed in range(3)]
    assert len(set(first)) > 1


def test_what_needs_a_bridge_is_refused_and_says_why(model: VisionLanguageModel, folder: Path, tmp_path: Path) -> None:
    for call in (
        lambda: model.match(picture(), ["a dog"]),
        lambda: model.caption(picture(), num_candidates=3),
    ):
        with pytest.raises(ModelError, match=r'a smolvlm generates text and does not score.*reranker="siglip2"'):
            call()
    for call in (
        lambda: model.attention_maps(picture()),
        lambda: model.soft_prompts(picture()),
        lambda: model.save_pretrained(tmp_path / "out"),
        lambda: load_vision_language(folder),
    ):
        with pytest.raises(ModelError, match=r"no bridge \(Q-Former\)"):
            call()
    with pytest.raises(ModelError, match="the image tower of a smolvlm can't be taken out of it"):
        load_image_tower(folder)


def test_a_reranker_chooses_among_candidates(folder: Path) -> None:
    class PrefersLongTexts:
        """Prefers the longest text."""

        def embed_images(self, images: Any, **options: Any) -> np.ndarray:
            return np.ones((len(images), 2), np.float32)

        def embed_texts(self, texts: list[str]) -> np.ndarray:
            return np.array([[len(text), 1] for text in texts], np.float32)

        def match(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
            return texts[None, :, 0] / 100

    model = VisionLanguageModel.from_pretrained(folder, device="cpu", reranker="siglip2")
    assert isinstance(model.backend, ImageTextToTextModel)
    model.backend.__dict__["reranker"] = PrefersLongTexts()  # otherwise loaded when first needed
    (found,) = model.stream_captions([picture()], num_candidates=3, max_new_tokens=6)
    assert found.caption is not None and len(found.candidates) >= 2
    assert [len(text) for text, _ in found.candidates] == sorted((len(text) for text, _ in found.candidates))[::-1]


def test_the_common_prefix_of_two_sequences() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == common_prefix([1, 2, 4], [1, 2]) == 2
    assert common_prefix([], [1]) == 0 and common_prefix([1], [2]) == 0
