"""Rectified flow: straight paths from noise to data, learned as a velocity (arXiv:2209.03003, 2210.02747).

Time runs from 0, noise, to 1, data. A sample at time t is (1 - t) · noise + t · data, and its velocity data - noise.
Networks predict the data, from which the velocity follows (arXiv:2511.13720).

Sampling is arithmetic on arrays of either kind, NumPy's or torch's, so that a compiled network draws without torch.

Shapes: B batch; data of any shape behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

import numpy as np

from beholder.errors import InvalidSetting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMALLEST_REMAINDER = 0.05  # of the time, by which a velocity is divided: it has no bound near the data
Method = Literal["euler", "heun"]
Array = TypeVar("Array", "np.ndarray", "Tensor")


def align(time: Array, data: Array) -> Array:
    """Give times (B,) the number of axes of the data, so that they broadcast."""
    return time.reshape(-1, *[1] * (data.ndim - 1))


def interpolate(data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return the samples at times (B,) on the paths from noise to data."""
    time = align(time, data)
    return (1 - time) * noise + time * data


def velocity(predicted: Array, sample: Array, time: Array) -> Array:
    """Return the velocity at samples at times (B,) of which a network predicted the data."""
    return (predicted - sample) / (1 - align(time, sample)).clip(min=SMALLEST_REMAINDER)


def logit_normal_times(count: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Draw times (count,) whose logit is normal: those in between are more frequent (arXiv:2403.03206, section 3.1)."""
    import torch

    return torch.sigmoid(mean + std * torch.randn(count, generator=generator))


def guide(conditional: Array, unconditional: Array, scale: float) -> Array:
    """Classifier-free guidance: 1 is the condition alone, more goes beyond it (arXiv:2207.12598, equation 6)."""
    return unconditional + scale * (conditional - unconditional)


def integrate(
    velocity_at: Callable[[Array, float], Array],
    noise: Array,
    steps: int,
    method: Method = "heun",
    on_step: Callable[[int, Array], None] = lambda step, sample: None,
) -> Array:
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


class GuidedVelocity(Generic[Array]):
    """The velocity field of a network that predicts the data, with classifier-free guidance.

    Args:
        predict: the data, of samples, times (B,), conditions, and where these are to be left out (B,).
        condition: (B, E).
        guidance: scale; 1 is without, and takes half of the time.
        clip: keep predictions between -1 and 1.
        as_array: converts a NumPy array to the kind of the samples, on their device.

    Attributes:
        predicted: the data predicted by the latest call.
    """

    def __init__(
        self,
        predict: Callable[[Array, Array, Array, Array], Array],
        condition: Array,
        guidance: float,
        *,
        clip: bool,
        as_array: Callable[[np.ndarray], Any] = lambda array: array,
    ):
        self.predict: Callable[[Array, Array, Array, Array], Array] = predict
        self.condition: Array = condition
        self.guidance = guidance
        self.clip = clip
        self.as_array = as_array
        self.predicted: Array = condition

    def __call__(self, sample: Array, time: float) -> Array:
        """Return the velocity at samples at a time."""
        batch = len(sample)
        evaluated = np.arange(batch if self.guidance == 1 else 2 * batch)  # with the condition, then without it
        rows, dropped = self.as_array(evaluated % batch), self.as_array(evaluated >= batch)
        times = self.as_array(np.full(len(evaluated), time, np.float32))
        predicted = self.predict(sample[rows], times, self.condition[rows], dropped)
        if self.guidance != 1:
            predicted = guide(predicted[:batch], predicted[batch:], self.guidance)
        self.predicted = predicted.clip(-1, 1) if self.clip else predicted
        return velocity(self.predicted, sample, times[:batch])
