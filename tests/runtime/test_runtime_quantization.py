"""Group-wise eight-bit weights against those of the gguf package's quantizer."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from numpy.random import default_rng

from beholder import VisionLanguageModel
from beholder.runtime import quantization
from beholder.runtime.autotune import min_cosine, unit
from beholder.runtime.compiled_decoder import teacher_forced_logits
from beholder.runtime.compiled_language import CompiledLanguageModel
from beholder.runtime.compiled_vision_language import CompiledVisionLanguageModel
from beholder.runtime.engine import NetworkConfig, openvino
from beholder.weights.load import load_vision_language
from beholder.weights.native_vision_language import save_vision_language
from tiny_blip2 import make

pytest.importorskip("openvino")
OUTPUTS, INPUTS = 96, 512
PACKED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return min_cosine(one.double().numpy(), unit(other.double().numpy()))


def weights(outputs: int = OUTPUTS, inputs: int = INPUTS) -> np.ndarray:
    return (default_rng(0).standard_t(4, (outputs, inputs)) / 50).astype(np.float32)  # heavy-tailed


def packed(array: np.ndarray, kind: str) -> np.ndarray:
    """Quantize and dequantize weights as a GGUF file of this type does."""
    name = GGMLQuantizationType[kind]
    return gguf.quants.dequantize(gguf.quants.quantize(array, name), name).astype(np.float32)


def random_blocks(kind: str) -> np.ndarray:
    """Return blocks of a type that the gguf package can only dequantize: random bits after valid scales."""
    name = GGMLQuantizationType[kind]
    size, length = gguf.GGML_QUANT_SIZES[name]
    blocks = default_rng(0).integers(0, 256, (OUTPUTS, INPUTS // size, length), dtype=np.uint8)
    scale = np.array([0.001, 0.002], np.float16).view(np.uint8)
    blocks[..., :4] = scale
    return gguf.quants.dequantize(blocks.reshape(OUTPUTS, -1), name).astype(np.float32)


def layer(array: np.ndarray, transposed: bool = True) -> Any:
    """Build a network with a single linear layer."""
    ov = openvino()
    operations = ov.opset13
    vectors = operations.parameter([-1, array.shape[1]], np.float32)
    constant = operations.constant(array if transposed else np.ascontiguousarray(array.T))
    return ov.Model([operations.matmul(vectors, constant, False, transposed)], [vectors])


def run(model: Any, vectors: np.ndarray) -> np.ndarray:
    return openvino().Core().compile_model(model, "CPU", NetworkConfig("").options)(vectors)[0]


def is_grouped(model: Any) -> bool:
    return not quantization.linear_layers(model)


@pytest.mark.parametrize("kind", [*PACKED, "Q4_K", "Q5_K"])
@pytest.mark.parametrize("transposed", [True, False])
def test_weights_of_a_gguf_file_are_converted_without_loss(kind: str, transposed: bool) -> None:
    array = packed(weights(), kind) if kind in PACKED else random_blocks(kind)
    small = quantization.quantize_grouped(layer(array, transposed), lossless=True)
    assert is_grouped(small)
    vectors = default_rng(1).standard_normal((5, INPUTS)).astype(np.float32)
    expected = vectors.astype(np.float64) @ array.T
    np.testing.assert_allclose(run(small, vectors), expected, atol=2e-6 * np.abs(expected).max())


def test_other_weights_are_quantized_only_if_loss_is_allowed() -> None:
    model = layer(weights())
    assert not is_grouped(quantization.quantize_grouped(model, lossless=True))
    small = quantization.quantize_grouped(model, lossless=False)
    assert is_grouped(small)
    vectors = default_rng(1).standard_normal((64, INPUTS)).astype(np.float32)
    one, other = (torch.from_numpy(run(each, vectors)) for each in (model, small))
    assert 0.9999 < cosine(one, other) < 1 - 1e-7


def test_a_single_weight_off_the_grid_is_detected() -> None:
    array = packed(weights(), "Q4_1")
    array[-1, 40] += 1e-5 * np.abs(array[-1, 32:64]).max()
    assert not is_grouped(quantization.quantize_grouped(layer(array), lossless=True))


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_groups_with_a_single_value_are_exact(value: float) -> None:
    array = packed(weights(), "Q8_0")
    array[3, :64] = value
    small = quantization.quantize_grouped(layer(array), lossless=True)
    assert is_grouped(small)
    np.testing.assert_allclose(run(small, np.eye(INPUTS, dtype=np.float32)).T, array, atol=1e-6)


def test_layers_with_incomplete_groups_are_not_quantized() -> None:
    assert not is_grouped(quantization.quantize_grouped(layer(weights(inputs=48)), lossless=False))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save a small model whose language model comes from a GGUF file with four- and eight-bit weights."""
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    make("opt", tmp_path / "opt")
    loaded = load_vision_language(tmp_path / "opt")
    assert loaded.language is not None
    for name, weight in loaded.language.module.named_parameters():
        if weight.dim() == 2:
            kind = "Q8_0" if "embed" in name else "Q4_1"
            weight.data = torch.from_numpy(packed(weight.detach().numpy(), kind))
    save_vision_language(loaded, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_a_quantized_language_model_stays_quantized_when_compiled(folder: Path) -> None:
    compiled = VisionLanguageModel.compile(folder)
    assert isinstance(compiled.loaded, CompiledVisionLanguageModel) and isinstance(
        compiled.language, CompiledLanguageModel
    )
    language = openvino().Core().read_model(str(compiled.loaded.folder / "language.xml"))
    assert is_grouped(language)
    network = load_vision_language(folder).language
    assert network is not None
    prompts = torch.randn(3, 5, compiled.language.width)
    logits, words = teacher_forced_logits(network, prompts)
    torch.testing.assert_close(
        teacher_forced_logits(compiled.language, prompts, words)[0], logits, rtol=0, atol=1e-5 * logits.std()
    )
    for precision in ("fast", "fastest"):
        VisionLanguageModel.from_pretrained(folder, device="cpu", precision=precision)  # type: ignore[arg-type]
    assert [path.name for path in compiled.loaded.folder.glob("language*.xml")] == ["language.xml"]
