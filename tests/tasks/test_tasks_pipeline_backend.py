"""Pipelines of diffusers: our embeddings are their own, and so are the pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="diffusers runs these pipelines")
import tiny_pipelines
from beholder import DualEncoder, ImageGenerator
from beholder.errors import InvalidSetting, ModelError
from beholder.tasks.pipeline_backend import PipelineBackend
from beholder.text.tokenizer import TruncationWarning

PROMPTS = ["a dog in the snow", "two cats, black", "", "A Dog dog dog"]


@pytest.fixture(scope="module", name="written")
def _written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """The folder of each pipeline, and the pipeline itself."""
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "sd": (folder / "sd" / "tiny-sd", tiny_pipelines.write_stable_diffusion(folder / "sd" / "tiny-sd")),
        "sdxl": (folder / "xl" / "tiny-xl", tiny_pipelines.write_sdxl(folder / "xl" / "tiny-xl")),
    }


@pytest.fixture(scope="module", name="generators")
def _generators(written: dict[str, tuple[Path, Any]]) -> dict[str, ImageGenerator]:
    return {kind: ImageGenerator.from_pretrained(folder, device="cpu") for kind, (folder, _) in written.items()}


def backend(generator: ImageGenerator) -> PipelineBackend:
    assert isinstance(generator.backend, PipelineBackend)
    return generator.backend


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_embeddings_of_prompts_are_those_of_the_pipeline(
    written: dict[str, tuple[Path, Any]], generators: dict[str, ImageGenerator], kind: str
) -> None:
    folder, pipeline = written[kind]
    generator = generators[kind]
    assert generator.name == folder.name
    for prompt in PROMPTS:
        ours = backend(generator).embed(prompt)
        with torch.inference_mode():
            if kind == "sd":
                theirs = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
            else:
                theirs, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
                assert torch.allclose(ours.pooled, pooled, atol=1e-4)
        assert ours.tokens.shape == theirs.shape and theirs.std() > 0.1
        assert torch.allclose(ours.tokens, theirs, atol=1e-4)
    different = backend(generator).embed(PROMPTS[0]).tokens - backend(generator).embed(PROMPTS[1]).tokens
    assert different.abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize(("minus", "guidance"), [("", 1.0), ("", 4.0), ("a cat", 4.0)])
def test_pictures_are_those_of_the_pipeline(
    written: dict[str, tuple[Path, Any]], generators: dict[str, ImageGenerator], kind: str, minus: str, guidance: float
) -> None:
    pipeline = written[kind][1]
    pipeline.set_progress_bar_config(disable=True)
    ours = generators[kind].generate(PROMPTS[0], minus=[minus] if minus else [], seed=3, steps=2, guidance=guidance)[0]
    theirs = pipeline(
        PROMPTS[0],
        negative_prompt=minus or None,
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert ours.size == theirs.size == (16, 16)
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    assert np.asarray(ours).std() > 1


def test_size_seed_and_steps_are_followed(generators: dict[str, ImageGenerator]) -> None:
    generator = generators["sd"]
    seen: list[tuple[int, int, tuple[int, int]]] = []

    def on_step(step: int, steps: int, picture: Any) -> None:
        seen.append((step, steps, picture().size))

    first, second = (
        each.picture for each in generator.stream("a dog", seed=1, count=2, steps=2, size=(32, 16), on_step=on_step)
    )
    assert first.size == second.size == (32, 16) and seen[:2] == [(1, 2, (32, 16)), (2, 2, (32, 16))]
    (again,) = generator.generate("a dog", seed=2, steps=2, size=(32, 16))
    assert np.array_equal(np.asarray(again), np.asarray(second))
    assert not np.array_equal(np.asarray(first), np.asarray(second))
    with pytest.warns(TruncationWarning):
        generator.generate("dog " * 100, steps=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"like": Image.new("RGB", (8, 8))}, InvalidSetting, "draws texts only"),
        ({"text": "a dog", "size": 100}, InvalidSetting, "multiples of 8"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(
    generators: dict[str, ImageGenerator], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generators["sd"].generate(**arguments)


def test_the_reranker_chooses_among_candidates(written: dict[str, tuple[Path, Any]], tiny_model: Path) -> None:
    generator = ImageGenerator.from_pretrained(written["sd"][0], device="cpu", reranker=tiny_model)
    every = list(generator.stream("a dog", count=3, seed=5, steps=1))
    (kept,) = generator.stream("a dog", candidates=3, seed=5, steps=1)
    winner = max(every, key=lambda each: each.cosine or 0.0)
    assert kept.seed == winner.seed and kept.cosine == pytest.approx(winner.cosine, abs=1e-6)
    expected = DualEncoder.from_pretrained(tiny_model, device="cpu").similarity([kept.picture], ["a dog"])[0, 0]
    assert kept.cosine == pytest.approx(float(expected), abs=1e-5) and 0 <= (kept.match or 0.0) <= 1


def test_mini_chooses_among_candidates_by_default_and_is_loaded_only_for_them(
    written: dict[str, tuple[Path, Any]], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    tiny = DualEncoder.from_pretrained(tiny_model, device="cpu")

    def from_pretrained(name: str, **_: Any) -> DualEncoder:
        loaded.append(name)
        return tiny

    monkeypatch.setattr(DualEncoder, "from_pretrained", from_pretrained)
    generator = ImageGenerator.from_pretrained(written["sd"][0], device="cpu")
    (alone,) = generator.stream("a dog", seed=1, steps=1)
    assert alone.cosine is None and not loaded
    (best,) = generator.stream("a dog", candidates=2, seed=1, steps=1)
    assert best.cosine is not None and loaded == ["mini"]


def test_other_weights_have_another_fingerprint(
    written: dict[str, tuple[Path, Any]], generators: dict[str, ImageGenerator]
) -> None:
    other = ImageGenerator.from_pretrained(written["sd"][0], device="cpu")
    with torch.no_grad():
        next(backend(other).pipeline.unet.parameters()).add_(1)
    assert generators["sd"].fingerprint != other.fingerprint


def test_a_pipeline_that_cannot_be_loaded_says_why(written: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(written["sd"][0], half)
    shutil.rmtree(half / "unet")
    with pytest.raises(ModelError, match="the folder unet is missing"):
        ImageGenerator.from_pretrained(half)
    index = json.loads((half / "model_index.json").read_text())
    (half / "model_index.json").write_text(json.dumps(index | {"_class_name": "OtherPipeline"}))
    with pytest.raises(ModelError, match="'OtherPipeline' can't be driven; known are StableDiffusionPipeline"):
        ImageGenerator.from_pretrained(half)
    whole = tmp_path / "whole"
    shutil.copytree(written["sd"][0], whole)
    (whole / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"half of it")
    with pytest.raises(ModelError, match="diffusers can't load this pipeline"):
        ImageGenerator.from_pretrained(whole)
