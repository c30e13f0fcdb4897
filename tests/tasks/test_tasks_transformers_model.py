"""Vision-language models that transformers runs, on small random checkpoints that transformers wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from beholder import VisionLanguageModel
from beholder.errors import InvalidSetting, ModelError, PictureNotFound, PictureRefused, WeightsMismatch
from beholder.pictures.limits import Limits
from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import ConversationTruncatedWarning
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.transformers_conversation import TransformersConversation
from beholder.tasks.transformers_generation import TransformersGenerator
from beholder.weights.image_text_to_text import load as load_with_transformers
from beholder.weights.installed import kind_of
from tiny_image_text_to_text import EOS, FAMILIES, picture

PLAIN = {"paligemma", "instructblip", "blip", "florence2"}
CHATTING = sorted(set(FAMILIES) - PLAIN)
ANSWERING = sorted(set(FAMILIES) - {"blip", "florence2"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture(scope="module")
def models() -> dict[str, VisionLanguageModel]:
    return {}


@pytest.fixture
def load(
    folders: dict[str, Path], models: dict[str, VisionLanguageModel], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    def get(family: str) -> VisionLanguageModel:
        if family not in models:
            folders[family] = tmp_path_factory.mktemp(family)
            FAMILIES[family](folders[family])
            # SmolVLM too, which `from_pretrained` runs without transformers.
            loaded = load_with_transformers(folders[family], str(folders[family]), True)
            models[family] = VisionLanguageModel(loaded, device="cpu")
        return models[family]

    return get


def backend(model: VisionLanguageModel) -> ImageTextToTextModel:
    assert isinstance(model.backend, ImageTextToTextModel)
    return model.backend


def transformers_generator(model: VisionLanguageModel) -> TransformersGenerator:
    generator = backend(model).generator
    assert isinstance(generator, TransformersGenerator)
    return generator


def reference(model: VisionLanguageModel, image: Image.Image, prompt: str, **options: Any) -> str:
    """Return what transformers' own processor and generate make of one picture and a prompt."""
    loaded = transformers_generator(model).loaded
    plain = loaded.plain_prompts is not None
    inputs = loaded.processor(images=image if plain else [[image]], text=[prompt], return_tensors="pt")
    inputs.pop("labels", None)
    with torch.inference_mode():
        out = loaded.module.generate(**inputs, do_sample=False, repetition_penalty=1.0, **options)
    skipped = inputs["input_ids"].shape[1]
    if loaded.model_type == "blip":
        skipped -= 1  # it takes the separator off
    if loaded.model_type == "florence2":
        skipped = 1
    return str(loaded.processor.tokenizer.decode(out[0, skipped:], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_equal_those_of_transformers_generate(load: Any, family: str) -> None:
    model = load(family)
    prompt = backend(model).caption_prompt(CaptionOptions())
    for num_beams in (1, 3):
        options = {"max_new_tokens": 8, "num_beams": num_beams}
        expected = " ".join(reference(model, picture(), prompt, **options, no_repeat_ngram_size=0).split())
        assert model.caption(picture(), no_repeat_ngram_size=0, **options) == expected


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_head_gets_the_last_position_alone_in_a_memory_of_its_own(load: Any, family: str) -> None:
    model, read = load(family), []
    head = transformers_generator(model).loaded.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, logits: read.append(inputs[0]))
    model.caption([picture(0), picture(1)], max_new_tokens=2, num_beams=1, batch_size=2)
    handle.remove()
    assert len(read) == 2 and all(states.stride() == states.new_empty(states.shape).stride() for states in read)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_caption_does_not_depend_on_the_batch(load: Any, family: str) -> None:
    model = load(family)
    pictures = [picture(0), picture(1, 60, 30), picture(2, 30, 60)]
    together = model.caption(pictures, max_new_tokens=6, num_beams=1, batch_size=3)
    assert together == [model.caption(each, max_new_tokens=6, num_beams=1) for each in pictures]


@pytest.mark.parametrize("family", ANSWERING)
def test_answers_and_their_confidence(load: Any, family: str) -> None:
    model = load(family)
    answer = model.ask(picture(), "what is this ?", num_beams=1, max_new_tokens=6)
    prompt = backend(model).question_prompt("what is this ?")
    assert answer.text == reference(model, picture(), prompt, max_new_tokens=6, num_beams=1).strip(" .")
    assert answer.confidence is not None and 0 < answer.confidence < 1
    pairs = [(picture(), "what is this ?"), (picture(1), "how many dogs are there in it ?")]
    assert model.answers(pairs, max_new_tokens=6) == [
        model.answer(*pair, num_beams=1, max_new_tokens=6) for pair in pairs
    ]


@pytest.mark.parametrize("family", ["blip", "florence2"])
def test_a_family_that_answers_nothing_says_so(load: Any, family: str) -> None:
    with pytest.raises(ModelError, match="answers no questions"):
        load(family).answer(picture(), "what is this ?")


@pytest.mark.parametrize("family", ANSWERING)
def test_choices_are_ranked_by_likelihood(load: Any, family: str) -> None:
    model = load(family)
    answer = model.ask(picture(), "what ?", choices=["dog", "red cat"])
    assert answer.text == answer.choices[0][0] and answer.confidence == answer.choices[0][1]
    assert sum(share for _, share in answer.choices) == pytest.approx(1)
    # A slow reference: the tokens of a choice one by one, each after generate has read everything before it.
    generator = transformers_generator(model)
    prompt = backend(model).question_prompt("what ?")
    space = " " if prompt[-1] in ":?." else ""
    totals = []
    for choice in ("dog", "red cat"):
        inputs = generator.encode([[picture()]], [prompt])
        total = 0.0
        for token in [*generator.tokenizer(space + choice, add_special_tokens=False).input_ids, EOS]:
            total += float(generator.first_logits(inputs).log_softmax(-1)[token])
            inputs = generator.extend(inputs, torch.tensor([[token]]))
        totals.append(total)
    shares = torch.tensor(totals).softmax(0)
    for choice, share in zip(("dog", "red cat"), shares.tolist(), strict=True):
        assert dict(answer.choices)[choice] == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("family", CHATTING)
def test_a_conversation_gives_the_same_answers_as_without_a_cache(load: Any, family: str) -> None:
    model = load(family)
    chat = model.chat(picture(), max_new_tokens=5)
    assert isinstance(chat, TransformersConversation)
    for question in ("what is this ?", "how many dogs ?", "where ?"):
        answer = chat.ask(question)
        slow = model.chat(picture(), max_new_tokens=5)
        for earlier, said in chat.history[:-1]:
            slow.add_turn(earlier, said)
        model.caption(picture(7), max_new_tokens=2, num_beams=1)  # another picture in between
        assert slow.ask(question) == answer
        assert chat.num_tokens == slow.num_tokens
    assert len(chat.history) == 3


@pytest.mark.parametrize("family", CHATTING)
def test_a_second_turn_reads_the_picture_from_the_cache(
    load: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(family)
    chat = model.chat(picture(), max_new_tokens=5)
    assert isinstance(chat, TransformersConversation)
    chat.ask("what is this ?")
    chat.ask("how many ?")
    chat.ask("where ?")
    assert transformers_generator(model).cache_is_faithful, "this family's cache can be continued"
    read: list[str] = []
    encode = chat.encode
    monkeypatch.setattr(chat, "encode", lambda prompt: (read.append(prompt), encode(prompt))[1])
    chat.ask("and who ?")
    assert not read


@pytest.mark.parametrize("family", ["smolvlm", "qwen2_5_vl"])
def test_an_answer_that_was_stopped_is_continued(load: Any, family: str) -> None:
    model = load(family)
    whole = model.chat(picture(), max_new_tokens=8)
    whole.ask("what is this ?")
    chat = model.chat(picture(), max_new_tokens=4)
    chat.ask("what is this ?")
    if not chat.turns[-1].finished:
        list(chat.continue_answer())
    assert chat.turns[-1].answer_ids == whole.turns[-1].answer_ids[: len(chat.turns[-1].answer_ids)]
    assert len(chat.turns[-1].answer_ids) >= min(8, len(whole.turns[-1].answer_ids))
    pieces = whole.stream("how many ?")
    first = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert whole.turns[-1].answer.startswith(first.strip())
    straight = model.chat(picture(), max_new_tokens=8)
    straight.ask("what is this ?")
    straight.ask("how many ?")
    if not whole.turns[-1].finished:
        list(whole.continue_answer())
    ids = straight.turns[-1].answer_ids
    assert whole.turns[-1].answer_ids[: len(ids)] == ids


def test_the_oldest_turns_are_dropped_when_the_context_is_full(load: Any) -> None:
    model = load("smolvlm")
    chat = model.chat(picture(), max_new_tokens=5)
    question = "what is this and where and when and why ? " * 4
    with pytest.warns(ConversationTruncatedWarning, match=r"oldest .* dropped"):
        for _ in range(4):
            chat.ask(question)
    assert len(chat.turns) == 4 and len(chat.context_turns) < 4
    assert chat.num_tokens <= 512
    with pytest.raises(InvalidSetting, match="exceed the model's context of 512"):
        model.chat(picture()).ask(question * 20)
    with pytest.raises(InvalidSetting, match="exceed the model's context of 512"):
        model.answer(picture(), question * 20)


def test_control_tokens_in_a_question_are_text(load: Any) -> None:
    model = load("smolvlm")
    prompt = backend(model).question_prompt("a <image> or <end_of_utterance> ?")
    assert prompt.count("<image>") == 1 and "< image>" in prompt and "< end_of_utterance>" in prompt
    assert isinstance(model.answer(picture(), "a <image> ?"), str)
    assert isinstance(model.chat(picture(), max_new_tokens=3).ask("a <image> ?"), str)


@pytest.mark.parametrize("bad", ["", "  "])
def test_an_empty_question_is_refused(load: Any, bad: str) -> None:
    model = load("smolvlm")
    with pytest.raises(InvalidSetting, match="empty"):
        model.answer(picture(), bad)
    with pytest.raises(InvalidSetting, match="empty"):
        model.chat(picture()).ask(bad)
    with pytest.raises(InvalidSetting, match="empty"):
        model.ask(picture(), "what ?", choices=["dog", bad])


def test_the_start_of_a_caption_is_continued(load: Any) -> None:
    options = CaptionOptions(prompt="this garment is")
    assert backend(load("qwen2_5_vl")).caption_prompt(options).endswith("assistant\nthis garment is")
    assert backend(load("smolvlm")).caption_prompt(options).endswith("Assistant: this garment is")
    with pytest.raises(InvalidSetting, match="can't continue"):
        load("paligemma").caption(picture(), "this garment is")


def test_a_broken_picture_is_reported_in_place_and_the_others_are_captioned(load: Any) -> None:
    model = load("smolvlm")
    found = list(model.stream_captions([picture(0), "nothing.jpg", picture(1)], max_new_tokens=4, num_beams=1))
    assert [item.caption is None for item in found] == [False, True, False]
    assert isinstance(found[1].error, PictureNotFound)
    # Qwen's processor refuses pictures that are over 200 times as long as wide.
    long = {"limits": Limits(aspect_ratio=1000), "max_new_tokens": 4, "num_beams": 1}
    mixed = list(load("qwen2_5_vl").stream_captions([picture(0), picture(1, 900, 2)], **long))
    assert mixed[0].caption is not None and isinstance(mixed[1].error, PictureRefused)


def test_an_exception_of_on_token_aborts_generation(load: Any) -> None:
    class StopHere(Exception):
        pass

    calls = []

    def on_token() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise StopHere

    with pytest.raises(StopHere):
        load("smolvlm").caption(picture(), max_new_tokens=8, num_beams=1, on_token=on_token)
    assert len(calls) == 3


def test_matching_and_attention_are_refused_and_say_why(load: Any, tmp_path: Path) -> None:
    model = load("smolvlm")
    for call in (
        lambda: model.match(picture(), ["a dog"]),
        lambda: model.caption(picture(), num_candidates=3),
    ):
        with pytest.raises(ModelError, match='reranker="siglip2"'):
            call()
    for call in (
        lambda: model.attention_maps(picture()),
        lambda: model.soft_prompts(picture()),
        lambda: model.save_pretrained(tmp_path / "out"),
        lambda: model.bridge,
    ):
        with pytest.raises(ModelError, match=r"no bridge \(Q-Former\)"):
            call()
    with pytest.raises(ModelError, match="has no chat template"):
        load("paligemma").chat(picture())


def test_a_dual_encoder_ranks_the_candidates(
    load: Any, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PrefersLongTexts:
        """Prefers the longest text."""

        def embed_images(self, images: Any, **options: Any) -> np.ndarray:
            return np.ones((len(images), 2), np.float32)

        def embed_texts(self, texts: list[str]) -> np.ndarray:
            return np.array([[len(text), 1] for text in texts], np.float32)

        def match(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
            return texts[None, :, 0] / 100

    load("idefics3")
    model = VisionLanguageModel.from_pretrained(folders["idefics3"], device="cpu", reranker="siglip2")
    backend(model).__dict__["reranker"] = PrefersLongTexts()  # otherwise loaded when first needed
    (found,) = model.stream_captions([picture()], num_candidates=3, max_new_tokens=6)
    assert found.caption is not None and len(found.candidates) >= 2
    assert [len(text) for text, _ in found.candidates] == sorted((len(text) for text, _ in found.candidates))[::-1]
    assert model.match(picture(), ["a", "abc"]).tolist() == pytest.approx([0.01, 0.03])


def test_sampled_captions_follow_the_seed(load: Any) -> None:
    model = load("smolvlm")
    options: dict[str, Any] = {"top_p": 0.9, "max_new_tokens": 8, "temperature": 2.0}
    first = [model.caption(picture(), seed=seed, **options) for seed in range(3)]
    assert first == [model.caption(picture(), seed=seed, **options) for seed in range(3)]
    assert len(set(first)) > 1


@pytest.mark.parametrize("family", ["idefics3", "qwen2_5_vl", "gemma3"])
def test_several_pictures_of_one_question(load: Any, family: str) -> None:
    model = load(family)
    pictures = [picture(0), picture(1, 60, 30)]
    answer = model.answer(pictures, "what is this ?", num_beams=1, max_new_tokens=6)
    generator = transformers_generator(model)
    inputs = generator.encode([pictures], [backend(model).question_prompt("what is this ?", 2)])
    ((expected,),) = generator.generate(inputs, DecodingSettings(6))
    assert answer == expected.text.strip(" .")
    chat = model.chat(pictures, max_new_tokens=4)
    assert chat.ask("what is this ?") and chat.ask("and this ?") is not None


def test_more_pictures_than_a_model_reads_are_refused(load: Any) -> None:
    with pytest.raises(InvalidSetting, match="reads one picture at a time, not 2"):
        load("paligemma").answer([picture(), picture(1)], "what ?")
    with pytest.raises(InvalidSetting, match="600 pictures exceed the model's context of 512"):
        load("idefics3").answer([picture()] * 600, "what ?")
    with pytest.raises(InvalidSetting, match="the list of pictures is empty"):
        load("idefics3").chat([])


def test_what_a_model_thinks_is_no_part_of_its_answer(load: Any) -> None:
    generator = transformers_generator(load("smolvlm"))
    ids = generator.tokenizer("<think>hm, a dog?</think> a dog", add_special_tokens=False).input_ids
    assert generator.decode(ids) == "a dog"
    assert generator.decode(ids[len("<think>") :], thinking=True) == "a dog"
    assert generator.decode(ids[:9]) == ""


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "moonbeam"}))
    with pytest.raises(ModelError, match="model type moonbeam is not known; known are"):
        VisionLanguageModel.from_pretrained(tmp_path)


def test_code_from_the_hub_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "moonbeam", "auto_map": {"AutoModelForCausalLM": "modeling.Moonbeam"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text("raise SystemExit('this code ran')\n")
    with pytest.raises(ModelError, match="needs code from the hub, which is never run"):
        VisionLanguageModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_a_missing_template_is_named(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        VisionLanguageModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_a_template_that_fails_is_an_error_of_the_model(family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no pictures, please') }}")
    with pytest.raises(ModelError, match=r"its chat template fails .*no pictures, please"):
        VisionLanguageModel.from_pretrained(tmp_path).caption(picture())


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_a_missing_tensor_is_refused(family: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    FAMILIES[family](tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(name for name in tensors if "connector" in name or "modality_projection" in name))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match=r"missing.*connector"):
        VisionLanguageModel.from_pretrained(tmp_path)


def test_the_folder_is_listed_as_a_vision_language_model(load: Any, folders: dict[str, Path]) -> None:
    load("smolvlm")
    assert kind_of(folders["smolvlm"]) == "vision-language model"


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_fast_stays_near_exact(family: str, load: Any, folders: dict[str, Path]) -> None:
    load(family)
    fast = VisionLanguageModel.from_pretrained(folders[family], device="cpu", precision="fast")
    assert isinstance(fast.caption(picture(), max_new_tokens=4), str)
