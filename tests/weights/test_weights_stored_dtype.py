"""A checkpoint in half precision is converted tensor by tensor: it never exists twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_blip2
from beholder import VisionLanguageModel
from beholder.runtime import device, vision_front_end
from beholder.runtime.precision import Precision
from beholder.runtime.samples import sample_pixels
from beholder.runtime.vision_front_end import TorchFrontEnd, round_linear_weights
from beholder.weights.load import load_any_vision_language, load_vision_language
from beholder.weights.loaded import LoadedVisionLanguage
from beholder.weights.tensors import read_tensors

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="module", params=["opt", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint in half precision."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_blip2.make(request.param, folder).half().save_pretrained(folder)
    return folder


@pytest.fixture
def half_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (device, vision_front_end):
        monkeypatch.setattr(module, "bfloat16_is_faster", lambda place: True)


def as_stored(folder: Path) -> LoadedVisionLanguage:
    loaded = load_any_vision_language(folder, stored_dtype=True)
    assert isinstance(loaded, LoadedVisionLanguage)
    return loaded


def parameters(loaded: LoadedVisionLanguage) -> Iterator[tuple[str, nn.Parameter]]:
    assert loaded.language is not None
    for network in (loaded.image, loaded.bridge, loaded.language):
        yield from network.named_parameters()


@pytest.mark.parametrize("dtype", HALVES)
def test_tensors_of_half_precision_are_read_into_memory_of_their_own(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = {"half": torch.randn(50, 30).to(dtype), "single": torch.randn(20), "integers": torch.arange(9)}
    save_file(whole, tmp_path / "model.safetensors")
    for name, tensor in read_tensors(tmp_path, ("model",), separately=True).items():
        assert torch.equal(tensor, whole[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_tensors_of_single_precision_stay_mapped(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"one": torch.randn(20), "other": torch.randn(9)}, file)
    header = json.JSONDecoder().raw_decode(file.read_bytes()[8:].decode("latin-1"))[0]
    one, other = (header[name]["data_offsets"][0] for name in ("one", "other"))
    found = read_tensors(tmp_path, ("model",), separately=True)
    assert found["other"].data_ptr() - found["one"].data_ptr() == other - one


def test_a_checkpoint_is_loaded_as_it_is_stored(folder: Path) -> None:
    stored = sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    loaded = dict(parameters(as_stored(folder)))
    widened = {name: tensor for name, tensor in loaded.items() if ".wo." in name}  # by transformers, for T5
    assert {tensor.dtype for name, tensor in loaded.items() if name not in widened} == {torch.float16}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in loaded.values()}
    assert sum(storages.values()) <= stored + sum(tensor.nbytes // 2 for tensor in widened.values())


def test_single_precision_holds_the_stored_numbers(folder: Path) -> None:
    single = dict(parameters(load_vision_language(folder)))
    for name, tensor in parameters(as_stored(folder)):
        assert single[name].dtype == torch.float32 and torch.equal(single[name], tensor.float()), name


class Conversions(TorchDispatchMode):
    """Counts, at each conversion to another dtype, how many of the stored tensors' storages are free."""

    def __init__(self, loaded: LoadedVisionLanguage):
        super().__init__()
        tensors = [tensor for _, tensor in parameters(loaded) if tensor.dtype == torch.float16]
        self.stored = {tensor.data_ptr(): StorageWeakRef(tensor.untyped_storage()) for tensor in tensors}
        self.converted: set[int] = set()
        self.occupied: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float16:
            occupied = [pointer for pointer in self.converted if not self.stored[pointer].expired()]
            self.occupied.append(len(occupied))
            self.converted.add(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("half_is_faster")
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_each_tensor_is_free_before_the_next_but_one_is_converted(folder: Path, precision: Precision) -> None:
    loaded = as_stored(folder)
    with Conversions(loaded) as conversions:
        VisionLanguageModel(loaded, "cpu", precision)
    assert len(conversions.occupied) >= len(conversions.stored), "some tensors were not converted"
    assert max(conversions.occupied) <= 1
    assert all(storage.expired() for storage in conversions.stored.values())


@pytest.mark.usefixtures("half_is_faster")
def test_the_weights_of_products_are_kept_in_half_precision(folder: Path) -> None:
    model = VisionLanguageModel.from_pretrained(folder, device="cpu", precision="fast").with_bridge("this")
    language = model.language
    assert isinstance(language, nn.Module)
    for network in (model.image, model.bridge, language):
        linear = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        assert {layer.weight.dtype for layer in linear} == {torch.bfloat16}


def test_rounded_linear_weights_give_what_autocast_gives(folder: Path) -> None:
    loaded = load_vision_language(folder)
    pixels = sample_pixels(loaded.preprocessing, 2)
    front_end = TorchFrontEnd(loaded.image, loaded.bridge, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        expected = front_end.prompts(front_end.tokens(pixels))
    for network in (loaded.image, loaded.bridge):
        round_linear_weights(network)
    found = front_end.prompts(front_end.tokens(pixels))
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("half_is_faster")
def test_attention_maps_of_rounded_weights_are_close_to_exact_ones(folder: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    exact, fast = (
        VisionLanguageModel.from_pretrained(folder, device="cpu", precision=precision).attention_maps(picture, "a dog")
        for precision in ("exact", "fast")
    )
    np.testing.assert_allclose(fast.maps.sum((1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(fast.maps, exact.maps, atol=0.1)
