import pytest
import torch
from torch import nn

from beholder.training.optimization import (
    ExponentialMovingAverage,
    adamw,
    cosine_schedule,
    muon,
    parameter_groups,
    set_learning_rate,
)


def test_the_schedule_warms_up_and_then_follows_half_a_cosine() -> None:
    assert cosine_schedule(0, 0.1) < 0.02 and cosine_schedule(0.1, 0.1) == 1
    assert cosine_schedule(1, 0.1) == pytest.approx(0) and cosine_schedule(1, 0.1, 0.5) == 0.5
    assert cosine_schedule(0.55, 0.1) == pytest.approx(0.5)


def test_only_the_matrices_of_layers_decay() -> None:
    layer = nn.Linear(2, 3)
    positions, scale = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.tensor(1.0))
    named = [*layer.named_parameters(), ("text.positions", positions), ("logit_scale", scale)]
    matrices, others, scalars = parameter_groups(named, 0.2)
    assert (matrices["weight_decay"], others["weight_decay"], scalars["weight_decay"]) == (0.2, 0.0, 0.0)
    assert [id(weight) for weight in matrices["params"]] == [id(layer.weight)]
    assert [id(weight) for weight in others["params"]] == [id(layer.bias), id(positions)]
    assert [id(weight) for weight in scalars["params"]] == [id(scale)]


def test_a_group_with_an_lr_scale_keeps_its_ratio_to_the_others() -> None:
    layer, slow = nn.Linear(2, 3), nn.Parameter(torch.zeros(3, 3))
    optimizer = adamw(layer.named_parameters(), 1.0, 0.1)
    optimizer.add_param_group({"params": [slow], "weight_decay": 0.0, "lr_scale": 0.1})
    for rate in (0.5, 0.25):
        set_learning_rate(optimizer, rate)
        assert [group["lr"] for group in optimizer.param_groups] == [rate, rate, rate * 0.1]


def test_muon_moves_a_matrix_in_all_directions_alike_and_as_far_as_adamw_would() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(16, 16))
    optimizer = muon([weight], 0.01, 0.0, lr_scale=2)
    set_learning_rate(optimizer, 0.01)
    u, _, v = torch.linalg.svd(torch.randn(16, 16))
    weight.grad = u @ torch.diag(torch.logspace(0, -1, 16)) @ v  # one direction has ten times the gradient of another
    optimizer.step()
    moved = torch.linalg.svdvals(weight.detach())
    assert float(moved.max() / moved.min()) < 2
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.02 * 0.2, rel=0.2)  # AdamW's usual RMS


def test_averages_equal_those_of_swa_utils() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    reference = torch.optim.swa_utils.AveragedModel(layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    weights = dict(layer.named_parameters())
    average = ExponentialMovingAverage(weights, 0.9)
    for _ in range(4):
        with torch.no_grad():
            for weight in weights.values():
                weight += torch.randn_like(weight)
        average.update(weights)
        reference.update_parameters(layer)
    expected = dict(reference.module.named_parameters())
    assert all(torch.equal(average.weights[name], expected[name]) for name in expected)


def test_a_warmed_up_average_soon_forgets_the_first_weights() -> None:
    weight = torch.zeros(1)
    average = ExponentialMovingAverage({"weight": weight}, 0.5, warmup=True)
    average.update({"weight": weight})
    values = []
    for _ in range(10):
        average.update({"weight": torch.ones(1)})
        values.append(float(average.weights["weight"]))
    # Decay 2 / 11, then 3 / 12, ...; from the eighth update on 0.5.
    assert values[:2] == pytest.approx([9 / 11, 1 - 2 / 11 * 3 / 12])
    assert (1 - values[-1]) / (1 - values[-2]) == pytest.approx(0.5, abs=1e-3)
