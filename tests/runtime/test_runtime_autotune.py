from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import tiny_model
from beholder import DualEncoder
from beholder.errors import InvalidSetting
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.runtime import autotune, compiled_dual_encoder, compiled_model, precision, quantization, split_network
from beholder.runtime.compiled_dual_encoder import COMPILED_DUAL_ENCODER, CompiledTowers
from beholder.runtime.engine import NetworkConfig, NetworkSequence, openvino
from beholder.runtime.precision import BOUNDS, Precision
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.weights.load import load_dual_encoder
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import save_dual_encoder

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow
SENTENCES = ["a dog", "two dogs on the beach", "the old harbour at night", "a boat and a red light in front", "sea"]
WIDE = {"width": 128, "layers": 2, "heads": 4, "mlp_width": 256}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))


def wide() -> LoadedDualEncoder:
    """Build a model wide enough for its linear layers to benefit from eight bits."""
    base = tiny_model.build()
    vision = VisionSettings(image_height=32, image_width=32, patch_size=8, **WIDE)
    text = TextTransformerSettings(vocabulary=160, context_length=16, pooling="end", end_id=3, **WIDE)
    return replace(base, network=TwoTowers(TwoTowersSettings(vision, text, 64)).eval())


def convolutional() -> LoadedDualEncoder:
    base = wide()
    text = base.network.settings.text
    return replace(base, network=TwoTowers(TwoTowersSettings(EfficientNetLiteSettings(classes=0), text, 64)).eval())


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    save_dual_encoder(wide(), folder)
    return folder


@pytest.mark.parametrize("precision", ["fast", "fastest"])
@pytest.mark.parametrize("build", [wide, convolutional])
def test_each_precision_stays_within_its_error_bound(build, precision: Precision, tmp_path: Path) -> None:
    save_dual_encoder(build(), tmp_path / "model")
    own = DualEncoder(load_dual_encoder(tmp_path / "model"), "cpu")
    quick = DualEncoder.from_pretrained(tmp_path / "model", device="cpu", precision=precision)
    assert isinstance(quick.towers, CompiledTowers) and quick.towers.engine.endswith(precision)
    pictures = tiny_model.paint(tmp_path)
    for expected, found in (
        (own.embed_images(pictures), quick.embed_images(pictures)),
        (own.embed_texts(SENTENCES), quick.embed_texts(SENTENCES)),
    ):
        assert np.sum(expected * found, axis=1).min() >= BOUNDS[precision]
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert quick.fingerprint == own.fingerprint, "the vectors may be compared"


def test_measurements_are_cached(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = DualEncoder.compile(wide_model, precision="fastest").towers
    assert isinstance(first, CompiledTowers)
    choices = [first.choice(tower) for tower in ("image", "text")]
    monkeypatch.setattr(compiled_dual_encoder, "Autotuner", lambda *_: pytest.fail("it is measured again"))
    again = DualEncoder.from_pretrained(wide_model, device="cpu", precision="fastest").towers
    assert isinstance(again, CompiledTowers)
    assert [again.choice(tower) for tower in ("image", "text")] == choices
    assert all(choice is not None and choice.seconds > 0 and choice.cosine >= 0.999 for choice in choices)


def test_a_configuration_beyond_the_error_bound_is_not_used(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "BOUNDS", {"fastest": 1 - 1e-9})
    towers = DualEncoder.compile(wide_model, precision="fastest").towers
    assert isinstance(towers, CompiledTowers)
    choice = towers.choice("image")
    assert choice is not None and choice.config == [asdict(NetworkConfig("image.xml"))] and choice.speedup == 1


def test_each_processor_has_its_own_cache_entry(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DualEncoder.compile(wide_model)
    assert COMPILED_DUAL_ENCODER.find(wide_model) is not None
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(compiled_model, "processor_name", lambda: "another")
        assert COMPILED_DUAL_ENCODER.find(wide_model) is None
        DualEncoder.compile(wide_model)
    assert COMPILED_DUAL_ENCODER.find(wide_model) is not None, "two machines may share a cache"


def test_each_precision_has_its_own_kernel_cache(wide_model: Path) -> None:
    """OpenVINO does not distinguish them: kernels cached for float32 and run in bfloat16 gave NaN or crashed."""
    DualEncoder.compile(wide_model)
    compiled = COMPILED_DUAL_ENCODER.find(wide_model)
    assert compiled is not None
    tokens = sample_tokens(wide().tokenizer)
    model = openvino().Core().read_model(str(compiled.folder / "text.xml"))
    for config in (NetworkConfig("text.xml"), NetworkConfig("text.xml", "bf16"), NetworkConfig("text.xml", "bf16", 64)):
        fresh = NetworkSequence.of_models([model], [config])(tokens.ids, tokens.mask)[0]
        for _ in range(2):  # first written, then read
            cached = NetworkSequence.read(compiled.folder, [config])(tokens.ids, tokens.mask)[0]
            np.testing.assert_allclose(cached, fresh, atol=1e-6)
    kernels = [path for path in (compiled.folder / "kernels").rglob("*.blob") if path.stat().st_size]
    assert len({path.parent for path in kernels}) >= 3


def test_an_unknown_precision_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InvalidSetting, match="precision: one of exact, fast, fastest, not 'half'"):
        DualEncoder.from_pretrained(tiny_model, precision="half")  # type: ignore[arg-type]


def model_of(folder: Path, tower: str) -> object:
    DualEncoder.compile(folder)
    found = COMPILED_DUAL_ENCODER.find(folder)
    assert found is not None
    return openvino().Core().read_model(str(found.folder / f"{tower}.xml"))


def test_eight_bit_weights_take_a_quarter_of_the_size(wide_model: Path, tmp_path: Path) -> None:
    model = model_of(wide_model, "image")
    small = quantization.quantize_per_channel(model)
    for name, one in (("whole", model), ("small", small)):
        openvino().save_model(one, str(tmp_path / f"{name}.xml"), compress_to_fp16=False)
    assert (tmp_path / "small.bin").stat().st_size < 0.35 * (tmp_path / "whole.bin").stat().st_size
    pixels = sample_pixels(wide().preprocessing)
    stages = [NetworkConfig("image.xml")], [NetworkConfig("image-int8.xml", "bf16", quantization.group_sizes(model)[0])]
    whole, rounded = (
        NetworkSequence.of_models([one], way)(pixels)[0] for one, way in zip((model, small), stages, strict=True)
    )
    apart = np.abs(whole - autotune.unit(rounded)).max()
    assert 0 < apart < 0.05
    assert quantization.group_sizes(model) == [128, 64]


def test_convolutions_are_not_quantized(tmp_path: Path) -> None:
    save_dual_encoder(convolutional(), tmp_path / "model")
    assert quantization.group_sizes(model_of(tmp_path / "model", "image")) == []


def test_splitting_a_network_does_not_change_its_output(wide_model: Path) -> None:
    model = model_of(wide_model, "image")
    places = split_network.split_points(model)
    assert len(places) >= 4, "two sums for each layer"
    pixels = sample_pixels(wide().preprocessing)
    expected = NetworkSequence.of_models([model], [NetworkConfig("image.xml")])(pixels)[0]
    parts = split_network.split_at(model, places[1])
    assert parts is not None
    found = NetworkSequence.of_models(parts, [NetworkConfig("before.xml"), NetworkConfig("after.xml")])(pixels)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_calibration_samples_are_distinct_pictures_and_sentences() -> None:
    loaded = tiny_model.build()
    pixels = sample_pixels(loaded.preprocessing)
    assert pixels.shape == (8, 3, 32, 32) and pixels.dtype == np.float32 and np.abs(pixels).max() <= 1
    assert len(np.unique(pixels.reshape(8, -1), axis=0)) == 8 and pixels.std() > 0.2
    assert sample_tokens(loaded.tokenizer, 3).ids.shape[0] == 3


@pytest.mark.mini
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fast", "fastest"])
def test_mini_stays_within_each_error_bound_on_photographs(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BEHOLDER_CACHE")
    photographs = sorted((Path(__file__).parents[2] / "demo" / "photographs").glob("*.jpg"))
    labels = [path.stem for path in photographs]
    exact, quick = (DualEncoder.from_pretrained("mini", device="cpu", precision=one) for one in ("exact", precision))
    images, texts = quick.embed_images(photographs), quick.embed_labels(labels)
    assert np.sum(images * exact.embed_images(photographs), axis=1).min() >= BOUNDS[precision]
    assert np.sum(texts * exact.embed_labels(labels), axis=1).min() >= BOUNDS[precision]
