"""A compiled vision-language model against the original network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beholder import VisionLanguageModel
from beholder.errors import InvalidSetting, ModelError
from beholder.models.bridge import Bridge
from beholder.runtime import device, vision_front_end
from beholder.runtime.autotune import min_cosine, unit
from beholder.runtime.compiled_decoder import teacher_forced_logits
from beholder.runtime.compiled_language import CompiledLanguageModel
from beholder.runtime.compiled_vision_language import (
    COMPILED_VISION_LANGUAGE,
    CompiledVisionLanguageModel,
)
from beholder.runtime.continuous_batching import ContinuousBatch, DecodingRequest
from beholder.runtime.engine import NetworkConfig
from beholder.runtime.precision import BOUNDS
from beholder.runtime.samples import sample_pixels
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.pictures import preprocess_image
from beholder.tasks.vision_language import CaptionedPicture
from beholder.weights.load import load_vision_language
from tiny_blip2 import make

pytestmark = pytest.mark.slow

KINDS = ["opt", "t5"]


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return min_cosine(one.double().numpy(), unit(other.double().numpy()))


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[VisionLanguageModel, VisionLanguageModel]:
    """Return the original model and the compiled one."""
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        network = VisionLanguageModel.from_pretrained(folder, device="cpu")
        compiled = VisionLanguageModel.compile(folder)
        assert isinstance(VisionLanguageModel.from_pretrained(folder, device="cpu").loaded, CompiledVisionLanguageModel)
    return network, compiled


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


PICTURES = [picture(seed) for seed in range(5)]


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 3, "prompt": "a photo of"}])
def test_the_compiled_model_writes_the_same_captions(
    pair: tuple[VisionLanguageModel, ...], options: dict[str, object]
) -> None:
    network, compiled = pair
    assert isinstance(compiled.language, CompiledLanguageModel) != compiled.language.encoder_decoder
    expected = network.caption(PICTURES, **options)
    assert compiled.caption(PICTURES, **options) == expected
    assert len(set(expected)) > 1, "the pictures do not matter, which tests little"


def test_the_compiled_model_gives_the_same_answers(pair: tuple[VisionLanguageModel, ...]) -> None:
    network, compiled = pair
    one, other = (model.ask(picture(), "what is this ?", choices=["dog", "red cat", "no"]) for model in pair)
    assert [text for text, _ in one.choices] == [text for text, _ in other.choices]
    np.testing.assert_allclose([share for _, share in one.choices], [share for _, share in other.choices], atol=1e-4)
    questions = [
        (picture(seed % 2), question) for seed, question in enumerate(("what ?", "how many red dog ?", "a cat ?"))
    ]
    assert compiled.answers(questions) == network.answers(questions)  # of different lengths, hence padded


def test_the_compiled_model_has_the_same_conversation(pair: tuple[VisionLanguageModel, ...]) -> None:
    chats = [model.chat(picture(), max_new_tokens=4) for model in pair]
    other = pair[1].chat(picture(1), max_new_tokens=4)  # two concurrent conversations do not interfere
    for question in ("what is this ?", "how many dog ?", "where ?"):
        other.ask("no ?")
        assert chats[0].ask(question) == chats[1].ask(question)
    assert chats[0].turns[-1].answer_ids == chats[1].turns[-1].answer_ids


def test_the_compiled_model_has_the_same_attention_maps(pair: tuple[VisionLanguageModel, ...]) -> None:
    one, other = (model.attention_maps(picture(), "the dog is red .") for model in pair)
    np.testing.assert_allclose(one.maps, other.maps, atol=1e-5)


def test_saving_the_compiled_model_writes_the_original_weights(
    pair: tuple[VisionLanguageModel, ...], tmp_path: Path
) -> None:
    network, compiled = pair
    compiled.save_pretrained(tmp_path / "saved")
    again = load_vision_language(tmp_path / "saved")
    for name, tensor in network.image.state_dict().items():
        assert torch.equal(again.image.state_dict()[name], tensor)


@pytest.mark.parametrize("precision", ["fast", "fastest"])
def test_a_precision_stays_within_its_error_bound(pair: tuple[VisionLanguageModel, ...], precision: str) -> None:
    network, compiled = pair
    model = VisionLanguageModel(compiled.loaded, precision=precision)  # type: ignore[arg-type]
    pixels = sample_pixels(compiled.loaded.preprocessing, 6)
    exact = network.front_end.prompts(network.front_end.tokens(pixels))
    prompts = model.front_end.prompts(model.front_end.tokens(pixels))
    assert cosine(prompts.flatten(1), exact.flatten(1)) >= BOUNDS[precision]  # type: ignore[index]
    logits, words = teacher_forced_logits(network.language, exact)
    assert cosine(teacher_forced_logits(model.language, exact, words)[0], logits) >= BOUNDS[precision]  # type: ignore[index]
    again = VisionLanguageModel(compiled.loaded, precision=precision)  # type: ignore[arg-type]
    assert again.caption(PICTURES) == model.caption(PICTURES)


def pretend_half_precision_is_faster(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    for module in (device, vision_front_end):
        monkeypatch.setattr(module, "bfloat16_is_faster", lambda place: faster)


def test_half_precision_without_compilation_stays_within_the_error_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_half_precision_is_faster(monkeypatch, True)  # regardless of this processor
    make("opt", tmp_path / "opt")
    loaded = load_vision_language(tmp_path / "opt")
    pixels = sample_pixels(loaded.preprocessing, 4)
    exact = VisionLanguageModel(loaded, "cpu")
    expected = exact.front_end.prompts(exact.front_end.tokens(pixels))
    fast = VisionLanguageModel(loaded, "cpu", "fast")
    found = fast.front_end.prompts(fast.front_end.tokens(pixels))
    assert 0.99 < cosine(found.flatten(1), expected.flatten(1)) < 1
    assert all(fast.caption(PICTURES))
    with pytest.raises(InvalidSetting, match="rounded the weights"):
        fast.save_pretrained(tmp_path / "saved")


def test_weights_stay_float32_if_half_precision_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_half_precision_is_faster(monkeypatch, False)
    make("opt", tmp_path / "opt")
    loaded = load_vision_language(tmp_path / "opt")
    exact, fast = VisionLanguageModel(loaded, "cpu"), VisionLanguageModel(loaded, "cpu", "fast")
    pixels = sample_pixels(loaded.preprocessing, 4)
    assert torch.equal(
        fast.front_end.prompts(fast.front_end.tokens(pixels)), exact.front_end.prompts(exact.front_end.tokens(pixels))
    )
    assert {weight.dtype for weight in fast.language.parameters()} == {torch.float32}  # type: ignore[attr-defined]


def test_a_changed_model_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    make("opt", tmp_path / "opt")
    first = VisionLanguageModel.compile(tmp_path / "opt").loaded
    assert (
        isinstance(first, CompiledVisionLanguageModel) and COMPILED_VISION_LANGUAGE.find(tmp_path / "opt") is not None
    )
    make("opt", tmp_path / "opt")  # overwritten
    assert COMPILED_VISION_LANGUAGE.find(tmp_path / "opt") is None
    second = VisionLanguageModel.compile(tmp_path / "opt").loaded
    assert isinstance(second, CompiledVisionLanguageModel)
    assert second.folder.is_dir() and not first.folder.exists()


def test_compiling_requires_a_local_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        VisionLanguageModel.compile(tmp_path / "nowhere")
    make("opt", tmp_path / "opt")
    with pytest.raises(InvalidSetting, match="precision: one of exact, fast, fastest"):
        VisionLanguageModel.from_pretrained(tmp_path / "opt", precision="quick")  # type: ignore[arg-type]


def test_texts_decoded_together_are_those_of_lone_requests(pair: tuple[VisionLanguageModel, ...]) -> None:
    model = pair[1]
    ends: dict[int, list[str]] = {}
    batch = ContinuousBatch(model.language, 250)  # so small that unused positions have to be dropped
    options = [
        CaptionOptions(max_new_tokens=4, num_beams=1, prompt="a photo of the red dog in a photo of a cat"),
        CaptionOptions(max_new_tokens=12, num_beams=1, no_repeat_ngram_size=0),
        CaptionOptions(max_new_tokens=12, num_beams=3),
        CaptionOptions(max_new_tokens=12, top_p=0.9, seed=3),
        CaptionOptions(max_new_tokens=12, num_beams=1, no_repeat_ngram_size=0),
    ]

    def add(number: int) -> None:
        preprocessed = [preprocess_image(PICTURES[number], model.loaded.preprocessing, name="")]
        demand, start = model.prepare_captions(preprocessed, options[number])

        def on_end(captions: list[CaptionedPicture]) -> None:
            ends[number] = [each.caption for each in captions]

        assert batch.fits(demand)
        batch.join([DecodingRequest(demand, start(), on_end)])

    for number in range(4):
        add(number)
        batch.step()
        batch.step()
    for _ in range(5):
        batch.step()
    add(4)
    while batch.requests:
        batch.step()
    for number, each in enumerate(options):
        assert ends[number] == [model.caption(PICTURES[number], max_new_tokens=each.max_new_tokens, options=each)]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_caches_of_every_precision_can_be_joined(pair: tuple[VisionLanguageModel, ...], precision: str) -> None:
    compiled = pair[1].loaded
    assert isinstance(compiled, CompiledVisionLanguageModel)
    if not compiled.decoder:
        pytest.skip("an encoder-decoder language model stays in torch")
    language = compiled.language_model(NetworkConfig("language.xml", precision))
    torch.manual_seed(0)
    prompts = [torch.randn(1, length, language.width) for length in (7, 3, 5)]
    tokens = torch.tensor([[4], [5], [6]])
    alone, joined = (
        [language.prefill(each, torch.ones(each.shape[:2], dtype=torch.bool))[1] for each in prompts] for _ in range(2)
    )
    joined[0].join(joined[1:])
    joined[0].select(torch.tensor([2, 0]))
    joined[0].trim()
    assert joined[0].mask.shape == (2, 7)
    found = language.decode(tokens[[2, 0]], joined[0])
    expected = torch.cat([language.decode(tokens[row : row + 1], alone[row]) for row in (2, 0)])
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "f32" else 0.05)
    joined[0].select(torch.tensor([0]))
    joined[0].trim()
    assert joined[0].mask.shape == (1, 6)
    found = language.decode(tokens[:1], joined[0])
    np.testing.assert_allclose(found, language.decode(tokens[:1], alone[2]), atol=1e-4 if precision == "f32" else 0.05)


def test_position_biases_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    make("opt", tmp_path / "opt")
    loaded = load_vision_language(tmp_path / "opt")
    qformer = replace(loaded.bridge.settings.qformer, grid_height=4, grid_width=4, prefix_tokens=1)
    bridge = Bridge(replace(loaded.bridge.settings, qformer=qformer)).eval()
    bridge.load_state_dict(bridge.state_dict() | loaded.bridge.state_dict())
    network = VisionLanguageModel(replace(loaded, bridge=bridge), "cpu")
    network.save_pretrained(tmp_path / "grid")
    compiled = VisionLanguageModel.compile(tmp_path / "grid")
    assert isinstance(compiled.loaded, CompiledVisionLanguageModel)
    expected = network.soft_prompts(picture())
    torch.testing.assert_close(compiled.soft_prompts(picture()), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(VisionLanguageModel(loaded, "cpu").soft_prompts(picture()), expected, atol=1e-3)
    one, other = (model.attention_maps(picture(), "the dog is red .") for model in (network, compiled))
    np.testing.assert_allclose(one.queries, other.queries, atol=1e-5)
    assert np.std(one.queries, 0).max() > 0.05, "each query attends to its own part"
