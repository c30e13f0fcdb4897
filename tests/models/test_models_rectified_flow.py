"""Rectified flow against flows whose velocity and end are known."""

import math

import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.rectified_flow import guide, integrate, interpolate, logit_normal_times, velocity

MEAN, STD = 3.0, 0.5


def gaussian_velocity(sample: torch.Tensor, time: float) -> torch.Tensor:
    """The velocity that carries N(0, 1) to N(MEAN, STD²) on straight paths, independent noise and data.

    At time t a sample is (1 - t) · noise + t · data, and the velocity is the conditional expectation of data - noise.
    """
    variance = (1 - time) ** 2 + (time * STD) ** 2
    covariance = time * STD**2 - (1 - time)
    return MEAN + covariance / variance * (sample - time * MEAN)


@pytest.mark.parametrize(("method", "error"), [("euler", 0.1), ("heun", 0.003)])
def test_the_flow_from_one_gaussian_to_another_ends_at_its_quantiles(method, error):
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    end = integrate(gaussian_velocity, noise, 50, method)
    assert torch.allclose(end, MEAN + STD * noise, atol=error)


def test_heun_errs_by_the_square_of_the_step_and_euler_by_the_step():
    noise = torch.tensor([1.5], dtype=torch.float64)
    errors = {
        (method, steps): float((integrate(gaussian_velocity, noise, steps, method) - MEAN - STD * noise).abs())
        for method in ("euler", "heun")
        for steps in (40, 80)
    }
    assert 1.8 < errors["euler", 40] / errors["euler", 80] < 2.2
    assert 3.3 < errors["heun", 40] / errors["heun", 80] < 4.7


def test_a_single_step_follows_the_first_velocity():
    end = integrate(lambda sample, time: 2 * sample, torch.tensor([3.0]), 1, "heun")
    assert end.tolist() == [9.0]


def test_every_step_is_reported_with_its_sample():
    seen = []
    integrate(lambda sample, time: torch.ones_like(sample), torch.zeros(1), 4, "euler", lambda *step: seen.append(step))
    assert [(number, float(sample)) for number, sample in seen] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]


@pytest.mark.parametrize(("steps", "method"), [(0, "euler"), (3, "midpoint")])
def test_steps_and_method_are_checked(steps, method):
    with pytest.raises(InvalidSetting, match=r"steps 0 must|'midpoint' is none of euler, heun"):
        integrate(lambda sample, time: sample, torch.zeros(1), steps, method)


def test_a_sample_between_noise_and_data_has_their_difference_as_velocity():
    data, noise, time = torch.tensor([[4.0], [2.0]]), torch.tensor([[0.0], [6.0]]), torch.tensor([0.25, 0.5])
    sample = interpolate(data, noise, time)
    assert sample.tolist() == [[1.0], [4.0]]
    assert torch.allclose(velocity(data, sample, time), data - noise)


def test_the_velocity_stays_bounded_at_the_data():
    found = velocity(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    assert found.tolist() == pytest.approx([20.0])


def test_guidance_goes_beyond_the_condition():
    conditional, unconditional = torch.tensor([2.0]), torch.tensor([1.0])
    assert [float(guide(conditional, unconditional, scale)) for scale in (0, 1, 3)] == [1.0, 2.0, 4.0]


def test_the_logit_of_the_times_is_normal():
    times = logit_normal_times(20_000, -0.4, 1.5, torch.Generator().manual_seed(0))
    logits = torch.log(times / (1 - times))
    assert math.isclose(float(logits.mean()), -0.4, abs_tol=0.05)
    assert math.isclose(float(logits.std()), 1.5, abs_tol=0.05)
