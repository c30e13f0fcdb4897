"""Rectified flow: straight paths from noise to data, learned as a velocity (arXiv:2209.03003, 2210.02747).

Time runs from 0, noise, to 1, data. A sample at time t is (1 - t) · noise + t · data, and its velocity data - noise.
Networks predict the data, from which the velocity follows (arXiv:2511.13720).

Shapes: B batch; data of any shape behind it.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from beholder.errors import InvalidSetting

SMALLEST_REMAINDER = 0.05  # of the time, by which a velocity is divided: it has no bound near the data
Method = Literal["euler", "heun"]


def align(time: Tensor, data: Tensor) -> Tensor:
    """Give times (B,) the number of axes of the data, so that they broadcast."""
    return time.reshape(-1, *[1] * (data.ndim - 1))


def interpolate(data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return the samples at times (B,) on the paths from noise to data."""
    time = align(time, data)
    return (1 - time) * noise + time * data


def velocity(predicted: Tensor, sample: Tensor, time: Tensor) -> Tensor:
    """Return the velocity at samples at times (B,) of which a network predicted the data."""
    return (predicted - sample) / (1 - align(time, sample)).clamp(min=SMALLEST_REMAINDER)


def logit_normal_times(count: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Draw times (count,) whose logit is normal: those in between are more frequent (arXiv:2403.03206, section 3.1)."""
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator))


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: 1 is the condition alone, more goes beyond it (arXiv:2207.12598, equation 6)."""
    return unconditional + scale * (conditional - unconditional)


def integrate(
    velocity_at: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    steps: int,
    method: Method = "heun",
    on_step: Callable[[int, Tensor], None] = lambda step, sample: None,
) -> Tensor:
    """Follow a velocity field from time 0 to time 1 in steps of equal length.

    Args:
        velocity_at: the velocity at samples and a time.
        noise: the samples at time 0.
        steps: number of them.
        method: ``euler`` evaluates the velocity once a step; ``heun`` twice, but once in the last step, and errs by the
            square of a step's length.
        on_step: called with the number of each step, from 1, and the samples after it.

    Raises:
        InvalidSetting: there are no steps, or the method is unknown.
    """
    if steps < 1:
        raise InvalidSetting(f"steps {steps} must be at least 1")
    if method not in get_args(Method):
        raise InvalidSetting(f"method {method!r} is none of {', '.join(get_args(Method))}")
    sample = noise
    for step in range(steps):
        time, length = step / steps, 1 / steps
        slope = velocity_at(sample, time)
        ahead = sample + length * slope
        if method == "heun" and step < steps - 1:
            slope = (slope + velocity_at(ahead, time + length)) / 2
            ahead = sample + length * slope
        sample = ahead
        on_step(step + 1, sample)
    return sample
