"""A compiled SmolVLM against the original network."""

import json
from pathlib import Path

import numpy as np
import pytest

from beholder import VisionLanguageModel
from beholder.errors import ModelError
from beholder.runtime import execution_plan
from beholder.runtime.autotune import min_cosine, unit
from beholder.runtime.compiled_decoder import teacher_forced_logits
from beholder.runtime.compiled_language import CompiledLanguageModel
from beholder.runtime.compiled_smolvlm import COMPILED_SMOLVLM, CompiledSmolVLM
from beholder.runtime.engine import NetworkConfig, can_compile, openvino
from beholder.runtime.precision import BOUNDS
from beholder.runtime.quantization import has_joint_projections
from beholder.runtime.samples import sample_pixels
from beholder.tasks.smolvlm_conversation import SmolVLMConversation
from tiny_image_text_to_text import idefics3, picture, smolvlm, smolvlm_generator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(cache))


@pytest.fixture(scope="module")
def pair(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionLanguageModel, VisionLanguageModel]:
    """Return the original model and the compiled one."""
    folder = tmp_path_factory.mktemp("smolvlm")
    smolvlm(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_CACHE", str(cache))
        network = VisionLanguageModel.from_pretrained(folder, device="cpu")
        VisionLanguageModel.compile(folder)
        compiled = VisionLanguageModel.from_pretrained(folder, device="cpu")
    return network, compiled


PICTURES = [picture(0), picture(1, 60, 20), picture(2, 20, 60), picture(3, 28, 28)]


def test_it_is_found_and_the_processor_is_restored(pair: tuple[VisionLanguageModel, ...]) -> None:
    network, compiled = pair
    assert isinstance(compiled.loaded, CompiledSmolVLM)
    assert isinstance(smolvlm_generator(compiled).language, CompiledLanguageModel)
    assert compiled.loaded.processor.settings() == smolvlm_generator(network).processor.settings()
    assert compiled.loaded.suppress_tokens == smolvlm_generator(network).loaded.suppress_tokens


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_compiled_model_writes_the_same_captions(pair: tuple[VisionLanguageModel, ...], num_beams: int) -> None:
    network, compiled = pair
    expected = network.caption(PICTURES, max_new_tokens=8, num_beams=num_beams)
    assert compiled.caption(PICTURES, max_new_tokens=8, num_beams=num_beams) == expected
    assert len(set(expected)) > 1, "the pictures do not matter, which tests little"


def test_the_compiled_model_gives_the_same_answers(pair: tuple[VisionLanguageModel, ...]) -> None:
    network, compiled = pair
    one, other = (model.ask(PICTURES[:2], "what is this ?", choices=["dog", "red cat", "no"]) for model in pair)
    assert [text for text, _ in one.choices] == [text for text, _ in other.choices]
    np.testing.assert_allclose([share for _, share in one.choices], [share for _, share in other.choices], atol=1e-4)
    questions = [
        (each, question) for each, question in zip(PICTURES, ("what ?", "how many dogs ?", "a ?"), strict=False)
    ]
    assert compiled.answers(questions) == network.answers(questions)


def test_the_compiled_model_has_the_same_conversation(pair: tuple[VisionLanguageModel, ...]) -> None:
    chats = [model.chat(picture(), max_new_tokens=4) for model in pair]
    other = pair[1].chat(picture(1), max_new_tokens=4)  # two concurrent conversations do not interfere
    for question in ("what is this ?", "how many dogs ?", "where ?", "who ?", "why ?"):
        other.ask("no ?")
        assert chats[0].ask(question) == chats[1].ask(question)
    assert [turn.answer_ids for turn in chats[0].turns] == [turn.answer_ids for turn in chats[1].turns]


def test_an_answer_that_was_stopped_is_continued_from_the_cropped_cache(pair: tuple[VisionLanguageModel, ...]) -> None:
    whole = pair[1].chat(picture(), max_new_tokens=8)
    whole.ask("what is this ?")
    chat = pair[1].chat(picture(), max_new_tokens=8)
    assert isinstance(chat, SmolVLMConversation)
    pieces = chat.stream("what is this ?")
    for _ in range(3):
        next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    list(chat.continue_answer())
    length = len(whole.turns[-1].answer_ids)
    assert chat.turns[-1].answer_ids[:length] == whole.turns[-1].answer_ids
    chat.turns[-1].answer = "another answer"  # the cache agrees with the conversation only up to here
    fresh = pair[1].chat(picture(), max_new_tokens=8)
    fresh.add_turn("what is this ?", "another answer")
    assert chat.ask("and this ?") == fresh.ask("and this ?")


@pytest.mark.parametrize("precision", ["fast", "fastest"])
def test_a_precision_stays_within_its_error_bound(pair: tuple[VisionLanguageModel, ...], precision: str) -> None:
    network, compiled = pair
    assert isinstance(compiled.loaded, CompiledSmolVLM)
    model = VisionLanguageModel(compiled.loaded, precision=precision)  # type: ignore[arg-type]
    exact, rounded = smolvlm_generator(network), smolvlm_generator(model)
    pixels = sample_pixels(compiled.loaded.preprocessing, 6)
    expected, prompts = exact.soft_prompts(pixels), rounded.soft_prompts(pixels)
    assert min_cosine(prompts.double().numpy(), unit(expected.double().numpy())) >= BOUNDS[precision]  # type: ignore[index]
    expected = expected.unflatten(0, (6, -1))
    logits, words = teacher_forced_logits(exact.language, expected)
    found, _ = teacher_forced_logits(rounded.language, expected, words)
    assert min_cosine(found.double().numpy(), unit(logits.double().numpy())) >= BOUNDS[precision]  # type: ignore[index]
    assert isinstance(model.caption(picture(), max_new_tokens=4), str)


def test_a_changed_folder_is_compiled_again(tmp_path: Path) -> None:
    smolvlm(tmp_path)
    VisionLanguageModel.compile(tmp_path)
    assert COMPILED_SMOLVLM.find(tmp_path) is not None
    (tmp_path / "chat_template.jinja").write_text("another template")
    assert COMPILED_SMOLVLM.find(tmp_path) is None


def test_networks_that_differ_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smolvlm(tmp_path)
    original = CompiledSmolVLM.language_model

    def broken(self: CompiledSmolVLM, config: NetworkConfig) -> CompiledLanguageModel:
        language = original(self, config)
        language.embeddings = np.roll(language.embeddings, 1, axis=0)
        return language

    monkeypatch.setattr(CompiledSmolVLM, "language_model", broken)
    with pytest.raises(ModelError, match="language model's logits are off"):
        VisionLanguageModel.compile(tmp_path)
    assert COMPILED_SMOLVLM.find(tmp_path) is None


def test_a_configuration_that_takes_its_process_down_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smolvlm(tmp_path)
    tried: list[NetworkConfig] = []
    monkeypatch.setattr(execution_plan, "can_compile", lambda folder, config, **options: bool(tried.append(config)))
    compiled = VisionLanguageModel.compile(tmp_path, precision="fast").loaded
    assert isinstance(compiled, CompiledSmolVLM)
    assert tried == [NetworkConfig("language.xml", "bf16")]
    chosen = json.loads((compiled.folder / "language-fast.json").read_text())["config"]
    assert chosen["precision"] == "f32"


def test_what_compiles_is_found_out_in_another_process(pair: tuple[VisionLanguageModel, ...]) -> None:
    compiled = pair[1].loaded
    assert isinstance(compiled, CompiledSmolVLM)
    assert can_compile(compiled.folder, NetworkConfig("language.xml"), KV_CACHE_PRECISION="f32")
    assert not can_compile(compiled.folder, NetworkConfig("missing.xml"))
    core = openvino().Core()
    assert has_joint_projections(core.read_model(str(compiled.folder / "language.xml")))
    assert not has_joint_projections(core.read_model(str(compiled.folder / "tower.xml")))


def test_models_that_transformers_runs_are_not_compiled(tmp_path: Path) -> None:
    idefics3(tmp_path)
    with pytest.raises(ModelError, match="only models with a bridge and SmolVLM are compiled"):
        VisionLanguageModel.compile(tmp_path)


def test_matching_is_refused(pair: tuple[VisionLanguageModel, ...]) -> None:
    with pytest.raises(ModelError, match='reranker="siglip2"'):
        pair[1].match(picture(), ["a dog"])
