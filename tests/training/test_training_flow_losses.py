"""The loss of rectified flow on cases worked out by hand."""

import pytest
import torch

from beholder.training.flow_losses import flow_matching_loss


def test_the_loss_is_the_squared_error_of_the_velocity():
    data, time = torch.tensor([[2.0, 0.0]]), torch.tensor([0.5])
    noise = torch.tensor([[0.0, 4.0]])
    sample = 0.5 * noise + 0.5 * data  # (1, 2)
    predicted = torch.tensor([[3.0, 1.0]])
    # The velocity is data - noise = (2, -4); predicted, it is ((3 - 1) / 0.5, (1 - 2) / 0.5) = (4, -2).
    assert float(flow_matching_loss(predicted, data, sample, time)) == pytest.approx((2**2 + 2**2) / 2)


def test_the_loss_is_zero_for_the_data_itself():
    data, time = torch.randn(3, 2), torch.tensor([0.0, 0.4, 1.0])
    assert float(flow_matching_loss(data, data, torch.randn(3, 2), time)) == 0


def test_near_the_data_the_error_counts_for_at_most_400_times():
    data, sample = torch.zeros(1, 1), torch.zeros(1, 1)
    losses = [float(flow_matching_loss(torch.ones(1, 1), data, sample, torch.tensor([t]))) for t in (0.0, 0.9, 0.99, 1)]
    assert losses == pytest.approx([1, 100, 400, 400], rel=1e-4)
