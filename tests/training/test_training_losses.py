"""The losses against the papers' equations, written out as loops over numbers."""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from beholder.training.losses import contrastive_loss, distillation_loss, sigmoid_loss


def unit(rows: int, seed: int, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def dot(one: Tensor, other: Tensor) -> float:
    return sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))


def log_share(scores: list[float], chosen: int) -> float:
    return scores[chosen] - log(sum(exp(score) for score in scores))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_contrastive_loss_is_the_mean_of_both_directions(smoothing: float) -> None:
    image, text, scale = unit(5, 0), unit(5, 1), 7.0
    expected = 0.0
    for row in range(5):
        by_image = [scale * dot(image[row], text[other]) for other in range(5)]
        by_text = [scale * dot(image[other], text[row]) for other in range(5)]
        for scores in (by_image, by_text):
            for chosen in range(5):
                target = smoothing / 5 + (1 - smoothing) * (chosen == row)
                expected -= target * log_share(scores, chosen) / 10
    found = contrastive_loss(image, text, torch.tensor(scale, dtype=torch.float64), smoothing)
    assert found.item() == pytest.approx(expected)


def test_the_sigmoid_loss_asks_about_every_pair() -> None:
    image, text, scale, bias = unit(5, 0), unit(5, 1), 7.0, -3.0
    expected = 0.0
    for row in range(5):
        for other in range(5):
            sign = 1 if row == other else -1
            expected += log(1 + exp(-sign * (scale * dot(image[row], text[other]) + bias))) / 5
    found = sigmoid_loss(image, text, torch.tensor(scale), torch.tensor(bias))
    assert found.item() == pytest.approx(expected)


def test_the_distillation_loss_is_the_cross_entropy_with_the_teacher() -> None:
    image, names, scale = unit(5, 0), unit(3, 1), 7.0
    teacher = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64), dim=-1)
    expected = 0.0
    for row in range(5):
        scores = [scale * dot(image[row], names[name]) for name in range(3)]
        for name in range(3):
            expected -= teacher[row, name].item() * log_share(scores, name) / 5
    found = distillation_loss(image, names, torch.tensor(scale, dtype=torch.float64), teacher)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("loss", ["contrastive", "sigmoid", "distillation"])
def test_gradients_are_finite_and_not_all_zero(loss: str, scale: float) -> None:
    image, text = unit(6, 0).float().requires_grad_(), unit(6, 1).float().requires_grad_()
    factor, bias = torch.tensor(scale, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    match loss:
        case "contrastive":
            value, leaves = contrastive_loss(image, text, factor), [image, text, factor]
        case "sigmoid":
            value, leaves = sigmoid_loss(image, text, factor, bias), [image, text, factor, bias]
        case _:
            value, leaves = distillation_loss(image, text, factor, torch.full((6, 6), 1 / 6)), [image, text, factor]
    value.backward()
    assert value.isfinite()
    for leaf in leaves:
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert image.grad is not None and image.grad.abs().max() > 0


def test_both_losses_are_lower_for_pairs_that_match() -> None:
    same, scale, bias = unit(6, 0).float(), torch.tensor(10.0), torch.tensor(-5.0)
    apart = same.roll(1, dims=0)
    assert contrastive_loss(same, same, scale) < contrastive_loss(same, apart, scale)
    assert sigmoid_loss(same, same, scale, bias) < sigmoid_loss(same, apart, scale, bias)
