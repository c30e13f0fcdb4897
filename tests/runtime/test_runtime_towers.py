from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_model
from beholder import DualEncoder
from beholder.runtime import autotune, precision, towers
from beholder.runtime.autotune import ROUNDS
from beholder.runtime.samples import sample_pixels, sample_tokens
from beholder.runtime.towers import FEW, FusedTowers, TorchTowers, torch_towers, tune_towers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path))


def set_timings(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Replace the next measurements by these durations in seconds, in order."""
    times = [time for long in seconds for time in (0.0, long) * ROUNDS]
    monkeypatch.setattr(autotune.time, "process_time", iter(times).__next__)


def test_a_batch_that_does_not_fit_in_memory_is_split_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_single_picture_that_does_not_fit_in_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()

    def none(batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.network, "embed_image", none)
    with pytest.raises(torch.OutOfMemoryError):
        TorchTowers(loaded.network, CPU).embed_image(sample_pixels(loaded.preprocessing, 3))


def test_bfloat16_is_accurate_and_does_not_change_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    set_timings(monkeypatch, 9, 1)
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


def test_bfloat16_is_not_used_if_it_is_inaccurate_or_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(precision, "BOUNDS", {"fast": 1.0})
    assert torch_towers(loaded, CPU, "fast").engine == "torch on cpu"
    monkeypatch.undo()
    set_timings(monkeypatch, 1, 9)
    assert torch_towers(loaded, CPU, "fastest").engine == "torch on cpu"


@pytest.mark.slow
def test_compiled_towers_give_the_same_vectors_for_any_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    sizes = []

    def compiled(embed: Callable[..., Any], real: Any = torch.compile, **options: Any) -> Callable[..., Any]:
        traced = real(
            embed, backend="aot_eager", **options
        )  # everything but C++ compilation, which takes half a minute

        def counted(batch: torch.Tensor) -> torch.Tensor:
            sizes.append(len(batch))
            return traced(batch)

        return counted

    monkeypatch.setattr(torch, "compile", compiled)
    own, fused = TorchTowers(loaded.network, CPU), FusedTowers(loaded.network, CPU)
    assert fused.engine == "torch on cpu, compiled"
    for count in (1, FEW - 1, FEW, FEW + 1, fused.batch):
        pixels = sample_pixels(loaded.preprocessing, count)
        np.testing.assert_allclose(fused.embed_image(pixels), own.embed_image(pixels), atol=1e-5)
    assert sizes == [FEW, FEW, FEW, fused.batch]  # the batch size in between is not compiled


def test_the_fastest_configuration_within_the_bound_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(torch, "compile", lambda embed, **_: embed)
    own, fused = TorchTowers(loaded.network, CPU), FusedTowers(loaded.network, CPU)
    for seconds, expected in (((2.0, 1.0), fused), ((1.0, 2.0), own)):
        set_timings(monkeypatch, *seconds)
        tuner, complete = tune_towers(own, [fused], loaded, "fastest")
        assert tuner.best.config == expected.engine and complete


@pytest.mark.slow
def test_eager_mode_is_used_if_torch_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    own, fused = TorchTowers(loaded.network, CPU), FusedTowers(loaded.network, CPU)
    with pytest.warns(UserWarning, match="torch can't compile it here, so it is slower"):
        tuner, complete = tune_towers(own, [fused], loaded, "fastest")
    assert tuner.best.config == own.engine and not complete


def test_the_fastest_configuration_is_cached_by_weights_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timings(monkeypatch, 9, 1)
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"
    set_timings(monkeypatch)  # any measurement fails
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"
    others = tiny_model.build()
    with torch.no_grad():
        others.network.logit_scale.add_(1)
    for loaded, bound in ((others, "fastest"), (tiny_model.build(), "fast")):
        set_timings(monkeypatch, 1, 9)
        assert torch_towers(loaded, CPU, bound).engine == "torch on cpu"  # type: ignore[arg-type]


def test_the_network_is_not_copied_if_single_precision_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    set_timings(monkeypatch, 1, 9)
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu"
    monkeypatch.delattr(towers, "deepcopy")
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu"


def test_an_unreadable_cache_entry_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_timings(monkeypatch, 1, 9)
    torch_towers(tiny_model.build(), CPU, "fastest")
    (kept,) = (tmp_path / "fastest").iterdir()
    for broken in (b"", b"torch on", b"\xff\x00"):
        kept.write_bytes(broken)
        set_timings(monkeypatch, 9, 1)
        assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"


def test_an_unwritable_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fastest").write_text("no folder")
    for _ in range(2):
        set_timings(monkeypatch, 9, 1)
        assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"


def test_an_incomplete_search_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(own: TorchTowers, others: Any, *rest: Any) -> tuple[autotune.Autotuner, bool]:
        return tune_towers(own, [], *rest)[0], False

    with monkeypatch.context() as patched:
        patched.setattr(towers, "tune_towers", skipping)
        assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu"
    set_timings(monkeypatch, 9, 1)
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA reaches")
@pytest.mark.parametrize("precision", ["exact", "fast", "fastest"])
def test_vectors_of_a_gpu_equal_those_of_the_cpu(precision: str) -> None:
    on_cpu = DualEncoder(tiny_model.build(), "cpu")
    on_gpu = DualEncoder(tiny_model.build(), "cuda", precision)  # type: ignore[arg-type]
    pictures = [np.full((40, 40, 3), shade, np.uint8) for shade in range(0, 256, 2)]
    bound = {"exact": 1 - 1e-5, "fast": 0.9999, "fastest": 0.999}[precision]
    for count in (3, 5, 20, len(pictures)):
        found, expected = (model.embed_images(pictures[:count]) for model in (on_gpu, on_cpu))
        assert np.sum(found * expected, axis=1).min() >= bound


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA reaches")
def test_compilation_and_cuda_graphs_do_not_change_the_vectors() -> None:
    loaded = tiny_model.build()
    own, fused = TorchTowers(loaded.network, torch.device("cuda")), FusedTowers(loaded.network, torch.device("cuda"))
    with ThreadPoolExecutor(4) as threads:
        for count in (1, 3, FEW, FEW + 1, fused.batch):
            pixels = sample_pixels(loaded.preprocessing, count)
            for found in threads.map(fused.embed_image, [pixels] * 8):
                np.testing.assert_allclose(found, own.embed_image(pixels), atol=1e-4)
