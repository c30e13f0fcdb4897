import numpy as np
import pytest
import torch

import tiny_model
from beholder import DualEncoder
from beholder.runtime import towers
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.runtime.towers import TorchTowers, torch_towers

CPU = torch.device("cpu")


def test_a_batch_that_does_not_fit_is_computed_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    own = TorchTowers(loaded.network, CPU)
    pixels = sample_pixels(loaded.preprocessing, 7)
    expected = own.embed_image(pixels)
    sizes = []
    whole = loaded.network.embed_image

    def small_memory(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(batch)

    monkeypatch.setattr(loaded.network, "embed_image", small_memory)
    np.testing.assert_allclose(own.embed_image(pixels), expected, atol=1e-6)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_a_picture_that_does_not_fit_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()

    def none(batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.network, "embed_image", none)
    with pytest.raises(torch.OutOfMemoryError):
        TorchTowers(loaded.network, CPU).embed_image(sample_pixels(loaded.preprocessing, 3))


def test_bfloat16_is_near_and_leaves_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(towers.time, "perf_counter", iter([0.0, 9.0, 9.0, 10.0]).__next__)  # the second is faster
    half = torch_towers(loaded, CPU, "fastest")
    assert half.engine == "torch on cpu, bfloat16" and half.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in loaded.network.parameters()} == {torch.float32}
    own = TorchTowers(loaded.network, CPU)
    pixels, tokens = sample_pixels(loaded.preprocessing), sample_tokens(loaded.tokenizer)
    for one, other in (
        (own.embed_image(pixels), half.embed_image(pixels)),
        (own.embed_text(tokens.ids, tokens.mask), half.embed_text(tokens.ids, tokens.mask)),
    ):
        assert other.dtype == np.float32 and 0.999 <= np.sum(one * other, axis=1).min() < 1
    assert half.scale == pytest.approx(own.scale, rel=1e-2)


def test_bfloat16_is_not_used_where_it_is_too_far_off_or_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(towers, "BOUNDS", {"fast": 1.0})
    assert torch_towers(loaded, CPU, "fast").engine == "torch on cpu"
    monkeypatch.undo()
    monkeypatch.setattr(towers.time, "perf_counter", iter([0.0, 1.0, 1.0, 10.0]).__next__)
    assert torch_towers(loaded, CPU, "fastest").engine == "torch on cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA reaches")
@pytest.mark.parametrize("precision", ["exact", "fast", "fastest"])
def test_on_a_gpu_the_vectors_are_those_of_the_cpu(precision: str) -> None:
    on_cpu = DualEncoder(tiny_model.build(), "cpu")
    on_gpu = DualEncoder(tiny_model.build(), "cuda", precision)  # type: ignore[arg-type]
    pictures = [np.full((40, 40, 3), shade, np.uint8) for shade in (0, 90, 255)]
    bound = {"exact": 1 - 1e-5, "fast": 0.9999, "fastest": 0.999}[precision]
    assert np.sum(on_cpu.embed_images(pictures) * on_gpu.embed_images(pictures), axis=1).min() >= bound
