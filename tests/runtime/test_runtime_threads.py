"""Threads share an encoder or a vision-language model: every call returns what it returns alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_model
from beholder import DualEncoder, VisionLanguageModel
from beholder.runtime.compiled_dual_encoder import CompiledDualEncoder, CompiledTowers
from beholder.runtime.engine import Network
from beholder.weights.native import save_dual_encoder
from tiny_blip2 import make

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow
THREADS = 8
CALLS = 32
IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)) for seed in range(6)
]
TEXTS = ["a dog", "two dogs on the beach", "a", "the old harbour at night", "a red light", "no"]


def run_in_threads(call: Callable[[int], Any]) -> list[Any]:
    """Return the results of calls 0, 1, … from threads that start simultaneously."""
    start = Barrier(THREADS)

    def work(first: int) -> list[Any]:
        start.wait()
        return [call(number) for number in range(first, CALLS, THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(work, range(THREADS)))
    return [parts[number % THREADS][number // THREADS] for number in range(CALLS)]


@pytest.fixture(scope="module", params=["exact", "fast"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    save_dual_encoder(tiny_model.build(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        DualEncoder.compile(folder, precision=request.param)
        return DualEncoder.from_pretrained(folder, device="cpu", precision=request.param)


def test_an_encoder_can_be_shared_by_threads(encoder: DualEncoder) -> None:
    assert isinstance(encoder.towers, CompiledTowers)
    found = run_in_threads(lambda number: encoder.embed_images([IMAGES[number % 6]])[0])  # also loads the tower
    expected = encoder.embed_images(IMAGES)
    atol = 1e-5 if encoder.towers.precision == "exact" else 1e-2
    for number, vector in enumerate(found):
        np.testing.assert_allclose(vector, expected[number % 6], atol=atol)
    found = run_in_threads(lambda number: encoder.embed_texts([TEXTS[number % 6]])[0])
    for number, vector in enumerate(found):
        np.testing.assert_allclose(vector, encoder.embed_texts([TEXTS[number % 6]])[0], atol=atol)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_vision_language_model_can_be_shared_by_threads(
    compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    make("opt", tmp_path / "opt")
    if compiled:
        model = VisionLanguageModel.compile(tmp_path / "opt")
    else:
        model = VisionLanguageModel.from_pretrained(tmp_path / "opt", device="cpu")
    found = run_in_threads(lambda number: model.caption([IMAGES[number % 6]], num_beams=1 + number % 3)[0])
    expected = {
        (number % 6, number % 3): model.caption([IMAGES[number % 6]], num_beams=1 + number % 3)[0]
        for number in range(CALLS)
    }
    assert found == [expected[number % 6, number % 3] for number in range(CALLS)]
    assert len(set(found)) > 1, "the images do not matter, which tests little"


def test_attention_maps_are_correct_while_other_threads_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    make("opt", tmp_path / "opt")
    model = VisionLanguageModel.from_pretrained(tmp_path / "opt", device="cpu")
    expected = model.attention_maps(IMAGES[0], "the dog is red .").maps
    for maps in run_in_threads(lambda _: model.attention_maps(IMAGES[0], "the dog is red .").maps):
        np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_infer_requests_are_reused() -> None:
    from beholder.runtime.engine import NetworkConfig, NetworkSequence, openvino

    operations = openvino().opset13
    numbers = operations.parameter([-1, 4], np.float32)
    model = openvino().Model([operations.add(numbers, operations.constant(np.float32(1)))], [numbers])
    (network,) = NetworkSequence.of_models([model], [NetworkConfig("")]).networks
    assert isinstance(network, Network)
    for rows in (1, 3):
        first = network(np.zeros((rows, 4), np.float32))[0]
        np.testing.assert_array_equal(first, np.ones((rows, 4)))
        network(np.ones((rows, 4), np.float32))
        np.testing.assert_array_equal(first, np.ones((rows, 4)), err_msg="the next call has overwritten the result")
    assert len(network.idle) == 1
    with pytest.raises(RuntimeError):
        network(np.zeros((1, 5), np.float32))
    np.testing.assert_array_equal(network(np.zeros((2, 4), np.float32))[0], np.ones((2, 4)))


def test_pooled_features_equal_those_of_torch(encoder: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def features(model: DualEncoder) -> np.ndarray:
        return np.stack([embedded.embedding for embedded in model.stream_images(IMAGES, features=True)])  # type: ignore[union-attr]

    assert isinstance(encoder.loaded, CompiledDualEncoder)
    expected = features(DualEncoder(encoder.loaded.loaded, "cpu"))
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("torch is computing"))
    np.testing.assert_allclose(features(encoder), expected, atol=1e-5, rtol=1e-5)
