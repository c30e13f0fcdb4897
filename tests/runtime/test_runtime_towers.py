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
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path))


def take(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """What is measured next takes so long, one after the other."""
    times = [time for long in seconds for time in (0.0, long) * ROUNDS]
    monkeypatch.setattr(autotune.time, "process_time", iter(times).__next__)


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
    take(monkeypatch, 9, 1)
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
    monkeypatch.setattr(precision, "BOUNDS", {"fast": 1.0})
    assert torch_towers(loaded, CPU, "fast").engine == "torch on cpu"
    monkeypatch.undo()
    take(monkeypatch, 1, 9)
    assert torch_towers(loaded, CPU, "fastest").engine == "torch on cpu"


def test_what_is_compiled_says_the_same_of_any_number_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    sizes = []

    def compiled(embed: Callable[..., Any], real: Any = torch.compile, **options: Any) -> Callable[..., Any]:
        traced = real(embed, backend="aot_eager", **options)  # all but the C++, which takes half a minute

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
    assert sizes == [FEW, FEW, FEW, fused.batch]  # the one between ran as it is


def test_the_fastest_that_keeps_the_promise_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(torch, "compile", lambda embed, **_: embed)
    own, fused = TorchTowers(loaded.network, CPU), FusedTowers(loaded.network, CPU)
    for seconds, expected in (((2.0, 1.0), fused), ((1.0, 2.0), own)):
        take(monkeypatch, *seconds)
        tuner, complete = tune_towers(own, [fused], loaded, "fastest")
        assert tuner.best.config == expected.engine and complete


def test_where_torch_cannot_compile_it_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model.build()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    own, fused = TorchTowers(loaded.network, CPU), FusedTowers(loaded.network, CPU)
    with pytest.warns(UserWarning, match="torch can't compile it here, so it is slower"):
        tuner, complete = tune_towers(own, [fused], loaded, "fastest")
    assert tuner.best.config == own.engine and not complete


def test_what_was_the_fastest_is_remembered_for_the_same_weights_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 9, 1)
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"
    take(monkeypatch)  # nothing may be measured
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"
    others = tiny_model.build()
    with torch.no_grad():
        others.network.logit_scale.add_(1)
    for loaded, bound in ((others, "fastest"), (tiny_model.build(), "fast")):
        take(monkeypatch, 1, 9)
        assert torch_towers(loaded, CPU, bound).engine == "torch on cpu"  # type: ignore[arg-type]


def test_where_single_precision_was_the_fastest_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 1, 9)
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu"
    monkeypatch.delattr(towers, "deepcopy")
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu"


def test_what_is_kept_and_says_nothing_known_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 1, 9)
    torch_towers(tiny_model.build(), CPU, "fastest")
    (kept,) = (tmp_path / "fastest").iterdir()
    for broken in (b"", b"torch on", b"\xff\x00"):
        kept.write_bytes(broken)
        take(monkeypatch, 9, 1)
        assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"


def test_where_nothing_can_be_kept_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fastest").write_text("no folder")
    for _ in range(2):
        take(monkeypatch, 9, 1)
        assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"


def test_what_was_not_tried_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(own: TorchTowers, others: Any, *rest: Any) -> tuple[autotune.Autotuner, bool]:
        return tune_towers(own, [], *rest)[0], False

    with monkeypatch.context() as patched:
        patched.setattr(towers, "tune_towers", skipping)
        assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu"
    take(monkeypatch, 9, 1)
    assert torch_towers(tiny_model.build(), CPU, "fastest").engine == "torch on cpu, bfloat16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA reaches")
@pytest.mark.parametrize("precision", ["exact", "fast", "fastest"])
def test_on_a_gpu_the_vectors_are_those_of_the_cpu(precision: str) -> None:
    on_cpu = DualEncoder(tiny_model.build(), "cpu")
    on_gpu = DualEncoder(tiny_model.build(), "cuda", precision)  # type: ignore[arg-type]
    pictures = [np.full((40, 40, 3), shade, np.uint8) for shade in range(0, 256, 2)]
    bound = {"exact": 1 - 1e-5, "fast": 0.9999, "fastest": 0.999}[precision]
    for count in (3, 5, 20, len(pictures)):
        found, expected = (model.embed_images(pictures[:count]) for model in (on_gpu, on_cpu))
        assert np.sum(found * expected, axis=1).min() >= bound


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA reaches")
def test_on_a_gpu_what_is_compiled_and_recorded_says_the_same() -> None:
    loaded = tiny_model.build()
    own, fused = TorchTowers(loaded.network, torch.device("cuda")), FusedTowers(loaded.network, torch.device("cuda"))
    with ThreadPoolExecutor(4) as threads:
        for count in (1, 3, FEW, FEW + 1, fused.batch):
            pixels = sample_pixels(loaded.preprocessing, count)
            for found in threads.map(fused.embed_image, [pixels] * 8):
                np.testing.assert_allclose(found, own.embed_image(pixels), atol=1e-4)
