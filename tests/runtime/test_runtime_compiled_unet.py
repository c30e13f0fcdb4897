"""Denoisers of diffusers, compiled: the same pictures, wherever that is faster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="diffusers runs these pipelines")
pytest.importorskip("openvino")
import tiny_pipelines
from beholder import ImageGenerator
from beholder.runtime import compiled_denoiser, compiled_unet
from beholder.runtime.autotune import Autotuner
from beholder.runtime.compiled_unet import CompiledForward
from beholder.runtime.engine import NetworkConfig

pytestmark = pytest.mark.slow
KINDS = ["sd", "sdxl", "kandinsky"]
SINGLE = NetworkConfig("unet.xml")


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    tiny_pipelines.write_stable_diffusion(folder / "sd" / "pipeline")
    tiny_pipelines.write_sdxl(folder / "sdxl" / "pipeline")
    tiny_pipelines.write_kandinsky(folder / "kandinsky" / "pipeline")
    tiny_pipelines.write_image_encoder(folder / "image_encoder")
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def load(folder: Path, kind: str, precision: Any = "exact") -> ImageGenerator:
    tower = folder / "image_encoder" if kind == "kandinsky" else None
    return ImageGenerator.from_pretrained(
        folder / kind / "pipeline", device="cpu", precision=precision, image_encoder=tower
    )


def draw(generator: ImageGenerator, kind: str, **options: Any) -> np.ndarray:
    given = {"like": Image.new("RGB", (32, 32), "red")} if kind == "kandinsky" else {"text": "a dog"}
    return np.asarray(generator.generate(**given, **{"size": (16, 16), "seed": 3, "steps": 2} | options)[0]).astype(int)


def unet(generator: ImageGenerator) -> Any:
    return generator.backend.pipeline.unet  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_denoiser_draws_the_same_pictures(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_unet, "choose", lambda *_: SINGLE)
    ours, exact = load(folder, kind, "fast"), load(folder, kind)
    compiled = unet(ours).forward
    assert isinstance(compiled, CompiledForward) and not isinstance(unet(exact).forward, CompiledForward)
    original, in_torch = compiled.original, []
    compiled.original = lambda *arguments, **options: in_torch.append(1) or original(*arguments, **options)
    for options in ({"guidance": 1.0}, {"guidance": 4.0}, {"guidance": 4.0, "size": (16, 32)}):
        drawn, expected = draw(ours, kind, **options), draw(exact, kind, **options)
        assert drawn.shape == expected.shape and np.abs(drawn - expected).max() <= 1 < expected.std()
    assert not in_torch, "everything was computed by the compiled network"
    assert ours.fingerprint == exact.fingerprint


def test_calls_that_a_denoiser_was_not_compiled_for_run_in_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_unet, "choose", lambda *_: SINGLE)
    ours, exact = load(folder, "sd", "fast"), load(folder, "sd")
    unet(ours).forward.multiple = 16
    unet(ours).forward.network = lambda *inputs: pytest.fail("its sides can't be halved often enough")
    assert np.array_equal(draw(ours, "sd"), draw(exact, "sd"))
    unet(ours).forward.multiple = 2
    unet(ours).forward.network = lambda *inputs: [np.full_like(inputs[0], np.nan)]
    assert np.array_equal(draw(ours, "sd"), draw(exact, "sd")), "what is not finite is computed again"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((1.0, 2.0, 2.0), None), ((2.0, 1.0, 2.0), {"file": "unet.xml", "precision": "f32"})],
    ids=["torch is faster", "compiled is faster"],
)
def test_a_denoiser_runs_compiled_only_where_that_is_faster(
    folder: Path, tmp_path: Path, seconds: tuple[float, ...], chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path))
    times = iter(seconds)
    monkeypatch.setattr(Autotuner, "_seconds", lambda *_: next(times))
    generator = load(folder, "sd", "fast")
    assert isinstance(unet(generator).forward, CompiledForward) == (chosen is not None)
    (file,) = tmp_path.glob("compiled/unet-*/unet-fast.json")
    assert (chosen is None) == ('"config": null' in file.read_text())
    monkeypatch.setattr(compiled_unet, "_record", lambda *_: pytest.fail("nothing is measured again"))
    again = load(folder, "sd", "fast")
    assert isinstance(unet(again).forward, CompiledForward) == (chosen is not None)


def test_a_pipeline_that_cannot_be_compiled_draws_in_torch_and_a_warning_says_why(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(compiled_denoiser, "EXACT", 2.0)
        with pytest.warns(UserWarning, match=r"could not be compiled, so it is slower: .*predicts something else"):
            generator = load(folder, "sd", "fast")
    assert np.array_equal(draw(generator, "sd"), draw(load(folder, "sd"), "sd"))
    adapter = tmp_path / "adapter" / "ip-adapter.safetensors"
    tiny_pipelines.write_ip_adapter(adapter, unet(generator))
    tiny_pipelines.write_image_encoder(adapter.parent / "image_encoder")
    with pytest.warns(UserWarning, match="with an IP-Adapter, the denoiser runs in torch"):
        ImageGenerator.from_pretrained(folder / "sd" / "pipeline", device="cpu", precision="fast", ip_adapter=adapter)
