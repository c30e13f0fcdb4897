"""Pictures as prompts of pipelines: an IP-Adapter and Kandinsky's decoder draw what the pipelines themselves draw."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="diffusers runs these pipelines")
from transformers import CLIPImageProcessor

import tiny_pipelines
from beholder import ImageGenerator
from beholder.errors import BeholderError, InvalidSetting, ModelError, ModelNotFound
from beholder.tasks.kandinsky_backend import KandinskyBackend
from beholder.tasks.pipeline_backend import PipelineBackend
from serving import picture

SIZE = 32
PROCESSOR = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
WRITERS = {"sd": tiny_pipelines.write_stable_diffusion, "sdxl": tiny_pipelines.write_sdxl}


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts")


@pytest.fixture(scope="module", name="adapted")
def _adapted(folder: Path) -> dict[str, tuple[ImageGenerator, Any]]:
    """Each pipeline with an adapter: ours, and that of diffusers with its own image tower."""
    found = {}
    tower = tiny_pipelines.write_image_encoder(folder / "adapters" / "image_encoder")
    for kind, write in WRITERS.items():
        file = folder / "adapters" / f"{kind}.safetensors"
        pipeline = write(folder / kind / "pipeline")
        tiny_pipelines.write_ip_adapter(file, pipeline.unet)
        ours = ImageGenerator.from_pretrained(folder / kind / "pipeline", device="cpu", ip_adapter=file)
        pipeline.register_modules(image_encoder=tower, feature_extractor=CLIPImageProcessor(**PROCESSOR))
        pipeline.load_ip_adapter(
            folder / "adapters",
            subfolder="",
            weight_name=file.name,
            image_encoder_folder=None,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        found[kind] = ours, pipeline
    return found


def differ(left: Any, right: Any) -> int:
    assert left.size == right.size and np.asarray(left).std() > 1
    return int(np.abs(np.asarray(left).astype(int) - np.asarray(right)).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_adapter_draws_what_the_pipeline_draws(
    adapted: dict[str, tuple[ImageGenerator, Any]], kind: str, guidance: float
) -> None:
    ours, pipeline = adapted[kind]
    like = picture(3, (50, 40))
    backend = ours.backend
    assert isinstance(backend, PipelineBackend) and backend.tower is not None
    with torch.inference_mode():
        theirs = pipeline.prepare_ip_adapter_image_embeds([like], None, "cpu", 1, False)[0][0]
    embedded = backend.tower.embed([like])
    assert torch.allclose(embedded, theirs, atol=1e-4) and embedded.norm() > 1.5  # and not of unit length
    (drawn,) = ours.generate("a dog", like=like, seed=3, steps=2, guidance=guidance)
    reference = pipeline(
        "a dog",
        ip_adapter_image=like,
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert differ(drawn, reference) <= 1
    given = ours.generate("a dog", embedding=embedded[0].numpy(), seed=3, steps=2, guidance=guidance)[0]
    assert differ(drawn, given) == 0
    assert differ(drawn, ours.generate("a dog", seed=3, steps=2, guidance=guidance)[0]) > 1
    alone = ours.generate(like=[like, picture(4)], seed=3, steps=2, guidance=guidance)[0]
    assert differ(drawn, alone) > 1


@pytest.fixture(scope="module", name="kandinsky")
def _kandinsky(folder: Path) -> tuple[ImageGenerator, Any, Any]:
    pipeline = tiny_pipelines.write_kandinsky(folder / "kandinsky")
    tower = tiny_pipelines.write_image_encoder(folder / "prior" / "image_encoder")
    pipeline.set_progress_bar_config(disable=True)
    ours = ImageGenerator.from_pretrained(
        folder / "kandinsky", device="cpu", image_encoder=folder / "prior" / "image_encoder"
    )
    return ours, pipeline, tower


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_kandinsky_draws_what_the_pipeline_draws(kandinsky: tuple[ImageGenerator, Any, Any], guidance: float) -> None:
    ours, pipeline, tower = kandinsky
    like = picture(3, (50, 40))
    with torch.inference_mode():
        pixels = CLIPImageProcessor(**PROCESSOR)(like, return_tensors="pt").pixel_values
        embedding = tower(pixels).image_embeds
        nothing = tower(torch.zeros(1, 3, SIZE, SIZE)).image_embeds
    backend = ours.backend
    assert isinstance(backend, KandinskyBackend)
    assert torch.allclose(backend.tower.embed([like]), embedding, atol=1e-4)
    assert torch.allclose(backend.tower.embed_zeros(), nothing, atol=1e-4)
    seen: list[tuple[int, int, tuple[int, int]]] = []
    (drawn,) = ours.stream(
        like=like,
        seed=3,
        steps=2,
        size=(64, 128),
        guidance=guidance,
        on_step=lambda step, steps, shown: seen.append((step, steps, shown().size)),
    )
    reference = pipeline(
        image_embeds=embedding,
        negative_image_embeds=nothing,
        width=64,
        height=128,
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert differ(drawn.picture, reference) <= 1
    assert seen == [(1, 2, drawn.picture.size), (2, 2, drawn.picture.size)]
    (given,) = ours.generate(embedding=embedding[0].numpy(), seed=3, steps=2, size=(64, 128), guidance=guidance)
    assert differ(drawn.picture, given) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "a dog"}, "and no texts"),
        ({"embedding": np.ones(7)}, "an array of 32 finite numbers"),
        ({"embedding": np.eye(32)[0]}, "has unit length"),
        ({"embedding": np.full(32, np.nan)}, "an array of 32 finite numbers"),
        ({"embedding": np.ones(32), "size": 100}, "multiples of 8"),
    ],
)
def test_what_kandinsky_cannot_draw_is_refused(
    kandinsky: tuple[ImageGenerator, Any, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        kandinsky[0].generate(**arguments)


def test_candidates_of_an_embedding_need_an_encoder_of_its_space(folder: Path, tiny_model: Path) -> None:
    tower = folder / "other" / "image_encoder"
    tiny_pipelines.write_kandinsky(folder / "other")
    tiny_pipelines.write_image_encoder(tower)
    ours = ImageGenerator.from_pretrained(folder / "other", device="cpu", image_encoder=tower, reranker=tiny_model)
    with pytest.raises(InvalidSetting, match="own dual encoder can choose"):
        ours.plan(embedding=np.ones(32), candidates=2)
    plan = ours.plan(like=picture(), candidates=2)
    assert plan.encoder is not None and ours.plan(embedding=np.ones(32)).encoder is None


@pytest.mark.slow
def test_adapters_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path) -> None:
    pipeline = tiny_pipelines.write_stable_diffusion(tmp_path / "sd" / "pipeline")
    file = tmp_path / "adapters" / "a.safetensors"
    tiny_pipelines.write_ip_adapter(file, pipeline.unet)

    def load(error: type[BeholderError], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            ImageGenerator.from_pretrained(tmp_path / "sd" / "pipeline", device="cpu", **options)

    load(ModelNotFound, "folder with the image tower", ip_adapter=file)
    load(ModelNotFound, r"is a file \.safetensors", ip_adapter=tmp_path / "nothing.safetensors")
    load(ModelNotFound, "no such folder", ip_adapter=file, image_encoder=tmp_path / "nothing")
    tiny_pipelines.write_image_encoder(tmp_path / "adapters" / "image_encoder", projection=20)
    load(ModelError, "takes embeddings of 32 numbers", ip_adapter=file)
    load(InvalidSetting, "without an IP-Adapter", image_encoder=tmp_path / "adapters" / "image_encoder")
    shutil.rmtree(tmp_path / "adapters" / "image_encoder")
    tiny_pipelines.write_image_encoder(tmp_path / "adapters" / "image_encoder")
    tensors = load_file(file)
    broken = {
        "plus": {name.replace("image_proj.proj", "image_proj.latents"): tensor for name, tensor in tensors.items()},
        "other": {**tensors, "unet.weight": torch.zeros(2)},
        "narrow": {name: tensor[:, :8].contiguous() if "_ip." in name else tensor for name, tensor in tensors.items()},
    }
    messages = {"plus": "not Plus or Face", "other": "unet.weight is no tensor", "narrow": "does not fit this pipeline"}
    for name, changed in broken.items():
        save_file(changed, file.with_stem(name))
        load(ModelError, messages[name], ip_adapter=file.with_stem(name))
    file.with_stem("cut").write_bytes(file.read_bytes()[:50])
    load(ModelError, "cannot be read as safetensors", ip_adapter=file.with_stem("cut"))


def test_kandinsky_without_an_image_tower_says_what_is_missing(folder: Path) -> None:
    tiny_pipelines.write_kandinsky(folder / "alone")
    with pytest.raises(ModelNotFound, match="that of Kandinsky's prior"):
        ImageGenerator.from_pretrained(folder / "alone", device="cpu")
