"""Where a network runs."""

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


def select_device(wish: str | None = None) -> "torch.device":
    """The wished device, or the fastest that is there: CUDA, Apple's MPS, the CPU.

    Raises:
        InvalidSetting: torch does not know the device or can't reach it.
    """
    import torch

    if wish is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(wish)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSetting(f"device {wish!r} can't be used here ({error}); try device='cpu'") from error
    return device


def has_accelerator() -> bool:
    """Whether this machine seems to have a device that `select_device` would take before the CPU; without torch."""
    return sys.platform == "darwin" or Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


@cache
def bfloat16_is_faster(device: "torch.device") -> bool:
    """Whether this device multiplies bfloat16 faster than single precision: a processor without it takes far longer."""
    import torch

    if device.type != "cpu":
        return True
    seconds = []
    for kind in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=kind)
        matrix @ matrix  # what is set up at first
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return seconds[1] < seconds[0]


def hardware_name(device: "torch.device") -> str:
    """What computes on a device: the GPU's model, or the processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {processor_name()}"


@cache
def processor_name() -> str:
    """This machine's processor: its model, what it can do, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = [platform.machine(), platform.processor()]
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(("model name", "flags", "Features", "CPU part")):
                    told.append(line.partition(":")[2].strip())
                if not line.strip():  # the others are alike
                    break
    except OSError:
        pass  # only Linux has it
    return f"{' '.join(told)} {cores}"
