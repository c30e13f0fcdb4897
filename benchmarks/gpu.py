"""Share of a GPU's bfloat16 peak that CLIP ViT-L/14 reaches, and latency for one picture.

    python benchmarks/gpu.py

The weights are random; the time does not depend on them. The peak is the throughput of a large matrix product on this
GPU in the same run; operations are those that torch counts in the network's matrix products and attention, forward
and backward. A training step is forward, contrastive loss, backward, gradient clipping and AdamW under autocast, as
in ``beholder train clip`` with ``precision: bfloat16``; pictures and texts are already in GPU memory. The single
picture is transferred to the GPU, and its vector back.
"""

import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.runtime.towers import FusedTowers, TorchTowers
from beholder.training.losses import contrastive_loss

SIDE = 8192  # of the square matrices that determine the peak
BATCH = 256  # pictures or training pairs
SECONDS = 4.0  # per timing
LARGE = TwoTowersSettings(
    VisionSettings(
        patch_size=14,
        width=1024,
        layers=24,
        heads=16,
        mlp_width=4096,
        activation="quick_gelu",
        norm_first=True,
        patch_bias=False,
    ),
    TextTransformerSettings(width=768, heads=12, mlp_width=3072),
    768,
)


def seconds(run: Callable[[], object]) -> float:
    """Return the mean time of runs queued back to back, after a warm-up."""
    for _ in range(3):
        run()
    one = timed(run, 3)
    return timed(run, max(3, round(SECONDS / one)))


def timed(run: Callable[[], object], count: int) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def product(device: torch.device) -> float:
    """Return the operations per second of a large matrix product."""
    one, other = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    return float(2 * SIDE**3 / seconds(lambda: one @ other))


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counted:
        run()
    return int(counted.get_total_flops())


def show(name: str, run: Callable[[], object], work: int, peak: float) -> None:
    taken = seconds(run)
    figures = {"a second": round(BATCH / taken, 1), "TFLOP/s": round(work / taken / 1e12, 1)}
    print(json.dumps({"metric": name, **figures, "of the peak": round(work / taken / peak, 3)}), flush=True)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("CUDA reaches no GPU here")
    device = torch.device("cuda")
    peak = product(device)
    card = torch.cuda.get_device_name()
    print(json.dumps({"metric": "peak", "card": card, "torch": torch.__version__, "TFLOP/s": round(peak / 1e12, 1)}))

    torch.manual_seed(0)
    with device:
        network = TwoTowers(LARGE)
    pixels = torch.randn(BATCH, 3, 224, 224, device=device)
    ids = torch.randint(1, 49000, (BATCH, 77), device=device)
    ids[:, 40] = 49407
    mask = torch.ones_like(ids, dtype=torch.bool)

    half = TwoTowers(LARGE).to(device, torch.bfloat16).eval()
    halves = pixels.bfloat16()
    with torch.inference_mode():
        work = operations(partial(half.embed_image, halves))
        show("embedding", partial(half.embed_image, halves), work, peak)
        show("embedding, compiled", partial(torch.compile(half.embed_image), halves), work, peak)
    one = np.zeros((1, 3, 224, 224), np.float32)
    for kind in (TorchTowers, FusedTowers):
        towers = kind(half, device)
        taken = seconds(partial(towers.embed_image, one))
        print(
            json.dumps({"metric": f"one picture, {towers.engine}", "milliseconds": round(1e3 * taken, 2)}), flush=True
        )

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def steps(image: Callable[..., torch.Tensor], text: Callable[..., torch.Tensor]) -> Callable[[], None]:
        def step() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                seen, said = image(pixels), text(ids, mask)
            loss = contrastive_loss(seen.float(), said.float(), network.logit_scale.exp())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

        return step

    plain = steps(network.embed_image, network.embed_text)
    work = operations(plain)
    show("training step", plain, work, peak)
    compiled = steps(torch.compile(network.embed_image), torch.compile(network.embed_text))
    show("training step, compiled", compiled, work, peak)
    print(json.dumps({"metric": "memory", "GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1)}))


if __name__ == "__main__":
    main()
