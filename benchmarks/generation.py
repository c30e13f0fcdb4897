"""Drawing on the CPU: compiled against torch, and against diffusers' own pipeline, in one run, with pictures compared.

    python benchmarks/generation.py                       # random weights of the sizes that people use
    python benchmarks/generation.py --model runs/emoji-generator/best --rounds 5

Two models are drawn with: a generator of our own with the settings of `recipes/emoji_generator` (64 pixels, 25 steps,
with guidance), and a pipeline with Stable Diffusion's architecture at a quarter of the width (`--size`, `--steps`, with
guidance). Each round runs every side once, in turn, with the same seed; a ratio is the median over the rounds, with the
smallest and the largest. The processor time of all threads is shown beside the time by the clock, since other programs
do not disturb it. Pictures are compared with the first side's: the mean difference of a pixel's channel, of 255; what
another seed differs by puts it into perspective. At last, the command is run from a cold start.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_pipelines
from beholder import ImageGenerator
from beholder.models.diffusion_transformer import DiffusionTransformerSettings
from beholder.models.prior import PriorSettings
from beholder.models.unclip import Unclip, UnclipSettings
from beholder.runtime.compiled_model import CompiledFormat
from beholder.runtime.compiled_unclip import COMPILED_UNCLIP
from beholder.runtime.compiled_unet import COMPILED_UNET
from beholder.weights.load import load_dual_encoder
from beholder.weights.native_generator import LoadedImageGenerator, save_image_generator

RECIPE = Path(__file__).parents[1] / "recipes" / "emoji_generator" / "emoji.json"
PROMPT, SEED = "a red heart", 7
TOKEN_WIDTH = 192  # a quarter of Stable Diffusion's 768
Draw = Callable[[int], Image.Image]  # of a seed


def make_generator(folder: Path) -> Path:
    """Write a generator of our own with the recipe's settings and random weights, driven by `mini`."""
    torch.manual_seed(0)
    settings = json.loads(RECIPE.read_text("utf-8"))["model"]
    embedding = load_dual_encoder("mini").network.settings.embedding
    decoder = DiffusionTransformerSettings(embedding, **settings["decoder"])
    network = Unclip(UnclipSettings(decoder, PriorSettings(embedding, **settings["prior"])))
    with torch.no_grad():
        for parameter in network.parameters():  # gates start at zero, and would let nothing be seen of the layers
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    save_image_generator(LoadedImageGenerator(network, "mini", "random"), folder)
    return folder


def make_pipeline(folder: Path) -> Path:
    """Write a Stable Diffusion of a quarter of its width with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    widths = (80, 160, 320, 320)
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=widths,
        norm_num_groups=16,
        attention_head_dim=2,
        cross_attention_dim=TOKEN_WIDTH,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=512,
    )
    tiny_pipelines.write_stable_diffusion(folder, unet, vae)
    return folder


def compare(title: str, sides: dict[str, Draw], rounds: int) -> None:
    """Print a table row for each side; the first is the baseline."""
    pictures = {name: np.asarray(draw(SEED)).astype(int) for name, draw in sides.items()}  # warm-up
    first = next(iter(sides))
    between = np.abs(np.asarray(sides[first](SEED + 1)).astype(int) - pictures[first]).mean()
    clock: dict[str, list[float]] = {name: [] for name in sides}
    work: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, draw in sides.items():
            began, before = time.perf_counter(), time.process_time()
            draw(SEED)
            clock[name].append(time.perf_counter() - began)
            work[name].append(time.process_time() - before)
    print(f"\n| {title} | seconds | ratio | processor, seconds | ratio | difference |\n|---|---:|---:|---:|---:|---:|")
    for name, picture in pictures.items():
        print(
            f"| {name} | {statistics.median(clock[name]):.2f} | {ratio(clock[first], clock[name])} "
            f"| {statistics.median(work[name]):.2f} | {ratio(work[first], work[name])} "
            f"| {np.abs(picture - pictures[first]).mean():.2f} |",
            flush=True,
        )
    print(f"\nAnother seed's picture differs by {between:.1f}.", flush=True)


def ratio(first: list[float], other: list[float]) -> str:
    """Return the median of the rounds' ratios, with the smallest and the largest."""
    ratios = sorted(one / two for one, two in zip(first, other, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def ours(folder: Path, precision: Any, **options: Any) -> Draw:
    """Return what draws by Beholder."""
    generator = ImageGenerator.from_pretrained(folder, device="cpu", precision=precision)
    return lambda seed: next(generator.stream(PROMPT, seed=seed, **options)).picture


def diffusers(folder: Path, **options: Any) -> Draw:
    """Return what draws by the pipeline of diffusers, as it is."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    def draw(seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        picture: Image.Image = pipeline(PROMPT, generator=generator, guidance_scale=7.5, **options).images[0]
        return picture

    return draw


def cold(folder: Path, precision: str, rounds: int) -> None:
    """Print how long the command takes from a cold start."""
    command = [sys.executable, "-m", "beholder", "generate", PROMPT, "--model", str(folder), "--steps", "25"]
    command += ["--device", "cpu", "--precision", precision, "--json"]
    seconds, work = [], []
    for _ in range(rounds + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with TemporaryDirectory() as out:
            began = time.perf_counter()
            subprocess.run([*command, "--out", out], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    del seconds[0], work[0]  # it brings the files into the page cache
    print(f"| {precision} | {statistics.median(seconds):.2f} | {statistics.median(work):.2f} |", flush=True)


def remove_compiled(kind: CompiledFormat[Any, Any], folder: Path) -> None:
    """Remove the compiled form of a model that will not be there any more."""
    compiled = kind.folder(folder)
    if compiled is not None:
        shutil.rmtree(compiled, ignore_errors=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, help="folder of a generator of our own; by default random weights")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--size", type=int, default=512, help="of the pipeline's pictures")
    options.add_argument("--steps", type=int, default=4, help="of the pipeline")
    given = options.parse_args()
    with TemporaryDirectory() as temporary:
        folder = given.model or make_generator(Path(temporary) / "generator")
        names = ("exact", "fast", "fastest")
        compare("our own, 64 pixels, 25 steps", {name: ours(folder, name, steps=25) for name in names}, given.rounds)
        print("\n| the command, cold | seconds | processor, seconds |\n|---|---:|---:|")
        for name in ("exact", "fast"):
            cold(folder, name, given.rounds)
        pipeline = make_pipeline(Path(temporary) / "pipeline" / "quarter")
        drawn = {"num_inference_steps": given.steps, "width": given.size, "height": given.size}
        sides = {"diffusers": diffusers(pipeline, **drawn)}
        for name in names:
            sides[name] = ours(pipeline, name, steps=given.steps, size=given.size)
        compare(f"Stable Diffusion, a quarter as wide, {given.size} pixels, {given.steps} steps", sides, given.rounds)
        remove_compiled(COMPILED_UNET, pipeline)
        if given.model is None:
            remove_compiled(COMPILED_UNCLIP, folder)


if __name__ == "__main__":
    main()
