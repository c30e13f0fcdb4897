"""Whether torch can compile here."""

import torch

from beholder.errors import InvalidSetting


def check_compiler(device: torch.device) -> None:
    """Check that torch can compile for a device: it needs a C++ compiler, which only an attempt shows.

    Raises:
        InvalidSetting: it can't.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InvalidSetting(
            f"train.compile: torch can't compile for {device} here ({reason}); install a C++ compiler, or leave it out"
        ) from error
