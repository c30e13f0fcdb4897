"""The device that a network runs on."""

import math
import os
import platform
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting

if TYPE_CHECKING:
    import torch

ROUNDS = 10  # of two products of matrices, the first of which warm up


def select_device(name: str | None = None) -> "torch.device":
    """Return the named device, or the fastest available: CUDA, Apple's MPS, the CPU.

    Raises:
        InvalidSetting: torch does not know the device or can't use it.
    """
    import torch

    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSetting(f"device {name!r} can't be used here ({error}); try device='cpu'") from error
    return device


def has_accelerator() -> bool:
    """Return whether this machine seems to have a device that `select_device` prefers to the CPU, without torch."""
    return sys.platform == "darwin" or Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


@cache
def bfloat16_is_faster(device: "torch.device") -> bool:
    """Return whether a device multiplies bfloat16 faster than float32; a processor without support is far slower."""
    import torch

    if device.type != "cpu":
        return True
    matrices = [torch.ones(256, 256, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    fastest = [math.inf, math.inf]
    for _ in range(ROUNDS):  # in turn; the fastest counts, since other programs may disturb any of them
        for place, matrix in enumerate(matrices):
            began = time.perf_counter()
            matrix @ matrix
            fastest[place] = min(fastest[place], time.perf_counter() - began)
    return fastest[1] < fastest[0]


def hardware_name(device: "torch.device") -> str:
    """Return the model of the GPU, or of the processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {processor_name()}"


@cache
def processor_name() -> str:
    """Return the processor's model and features, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = [platform.machine(), platform.processor()]
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(("model name", "flags", "Features", "CPU part")):
                    facts.append(line.partition(":")[2].strip())
                if not line.strip():  # the other cores are alike
                    break
    except OSError:
        pass  # only Linux has it
    return f"{' '.join(facts)} {cores}"
