"""Where a network runs."""

from typing import TYPE_CHECKING

from beholder.errors import InvalidSetting

if TYPE_CHECKING:
    import torch


def pick_device(wish: str | None = None) -> "torch.device":
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
