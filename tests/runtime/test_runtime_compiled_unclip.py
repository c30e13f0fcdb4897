"""Image generators of our own, compiled: the same pictures within a bound, without torch."""

import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_generator
from beholder import ImageGenerator
from beholder.runtime import compiled_denoiser, compiled_unclip, engine
from beholder.runtime.autotune import min_cosine, unit
from beholder.runtime.compiled_denoiser import predictions
from beholder.runtime.compiled_unclip import COMPILED_UNCLIP, CompiledUnclip, CompiledUnclipNetworks, record
from beholder.runtime.precision import BOUNDS, Precision
from beholder.runtime.unclip_networks import TorchUnclip
from beholder.tasks.unclip_backend import UnclipBackend
from beholder.weights.native_generator import load_image_generator, save_image_generator

pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators") / "tiny"
    save_image_generator(tiny_generator.build(), folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", name="compiled")
def _compiled(folder: Path) -> CompiledUnclip:
    return COMPILED_UNCLIP.find(folder) or COMPILED_UNCLIP.compile(load_image_generator(folder), folder)


def difference(left: Any, right: Any) -> float:
    return float(np.abs(np.asarray(left).astype(int) - np.asarray(right).astype(int)).mean())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_compiled_for_single_precision_both_networks_give_what_torch_gives(
    folder: Path, compiled: CompiledUnclip, method: Any, guidance: float
) -> None:
    theirs = TorchUnclip(load_image_generator(folder).network, torch.device("cpu"))
    ours = CompiledUnclipNetworks(compiled, "exact")
    for expected, found in zip(theirs.noise(5), ours.noise(5), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    assert ours.fingerprint == theirs.fingerprint and ours.image_size == 16 and ours.embedding == 8
    embeddings = unit(np.random.default_rng(0).standard_normal((2, 8), np.float32))
    of_embedding, of_picture = (np.repeat(each, 2, axis=0) for each in theirs.noise(5))
    arguments = (4, guidance, method)
    imagined = theirs.imagine(embeddings, of_embedding, *arguments)
    np.testing.assert_allclose(ours.imagine(embeddings, of_embedding, *arguments), imagined, atol=1e-4)
    steps: dict[str, list[np.ndarray]] = {"theirs": [], "ours": []}
    drawn = [
        networks.draw(embeddings, of_picture, *arguments, lambda _, seen, name=name: steps[name].append(seen()))
        for name, networks in (("theirs", theirs), ("ours", ours))
    ]
    np.testing.assert_allclose(drawn[1], drawn[0], atol=1e-3)
    np.testing.assert_allclose(steps["ours"], steps["theirs"], atol=1e-3)
    assert len(steps["ours"]) == 4 and np.abs(steps["ours"][0] - steps["ours"][3]).max() > 0.01


@pytest.mark.parametrize("precision", ["fast", "fastest"])
@pytest.mark.parametrize("part", ["decoder", "prior"])
def test_each_precision_stays_within_its_bound(compiled: CompiledUnclip, part: str, precision: Precision) -> None:
    calls = record(compiled, part)
    assert len(calls) == compiled_unclip.RECORDED_STEPS and all(len(inputs[0]) == 2 for inputs in calls)
    exact, quick = (CompiledUnclipNetworks(compiled, each) for each in ("exact", precision))
    expected = unit(predictions(partial(exact.predict, part), calls))
    assert min_cosine(predictions(partial(quick.predict, part), calls), expected) >= BOUNDS[precision]
    assert (compiled.folder / f"{part}-{precision}.json").is_file(), "the choice is remembered"


def test_a_generator_is_compiled_on_first_use_with_any_precision_but_exact(folder: Path) -> None:
    fast = ImageGenerator.from_pretrained(folder, device="cpu", precision="fast")
    exact = ImageGenerator.from_pretrained(folder, device="cpu")
    assert isinstance(fast.backend, UnclipBackend) and isinstance(fast.backend.networks, CompiledUnclipNetworks)
    assert isinstance(exact.backend, UnclipBackend) and isinstance(exact.backend.networks, TorchUnclip)
    assert fast.backend.encoder.towers.engine == "OpenVINO on cpu, fast"
    assert fast.fingerprint == exact.fingerprint and fast.name == exact.name == "tiny"
    many = fast.generate("a red heart", count=3, seed=7, steps=4)
    assert difference(fast.generate("a red heart", seed=8, steps=4)[0], many[1]) == 0
    expected = exact.generate("a red heart", count=3, seed=7, steps=4)
    assert max(map(difference, many, expected)) < 3 < difference(expected[0], expected[1])


def test_a_compiled_generator_draws_without_torch(folder: Path) -> None:
    ImageGenerator.from_pretrained(folder, device="cpu", precision="fast").generate("a cat", steps=1)
    program = (
        "import sys; from beholder import ImageGenerator\n"
        f"generator = ImageGenerator.from_pretrained({str(folder)!r}, device='cpu', precision='fast')\n"
        "generator.generate('a cat', minus='a dog', seed=1, steps=2); generator.fingerprint\n"
        "print(sorted({'torch', 'transformers', 'openvino'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['openvino']"


def test_a_generator_that_cannot_be_compiled_draws_in_torch_and_a_warning_says_why(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled_denoiser, "EXACT", 2.0)
    with pytest.warns(UserWarning, match=r"could not be compiled, so it is slower: .*predicts something else"):
        generator = ImageGenerator.from_pretrained(folder, device="cpu", precision="fast")
    expected = ImageGenerator.from_pretrained(folder, device="cpu").generate("a cat", seed=1, steps=3)[0]
    assert difference(generator.generate("a cat", seed=1, steps=3)[0], expected) == 0
    assert COMPILED_UNCLIP.find(folder) is None


def test_without_openvino_every_precision_draws_in_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator = ImageGenerator.from_pretrained(folder, device="cpu", precision="fastest")
    assert isinstance(generator.backend, UnclipBackend) and isinstance(generator.backend.networks, TorchUnclip)


def test_what_is_not_finite_in_bfloat16_is_computed_in_single_precision(compiled: CompiledUnclip) -> None:
    exact, quick = CompiledUnclipNetworks(compiled, "exact"), CompiledUnclipNetworks(compiled, "fast")
    quick._networks["decoder", "fast"] = lambda *inputs: [np.full_like(inputs[0], np.nan)]  # type: ignore[assignment]
    inputs = record(compiled, "decoder")[0]
    np.testing.assert_array_equal(quick.predict("decoder", *inputs), exact.predict("decoder", *inputs))
