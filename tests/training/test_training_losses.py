"""The losses against the papers' equations, written as loops over scalars."""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from beholder.training.losses import contrastive_loss, distillation_loss, duplicate_pairs, sigmoid_loss


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


def test_the_sigmoid_loss_is_a_binary_classification_of_every_pair() -> None:
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


def test_both_losses_are_lower_for_matching_pairs() -> None:
    same, scale, bias = unit(6, 0).float(), torch.tensor(10.0), torch.tensor(-5.0)
    apart = same.roll(1, dims=0)
    assert contrastive_loss(same, same, scale) < contrastive_loss(same, apart, scale)
    assert sigmoid_loss(same, same, scale, bias) < sigmoid_loss(same, apart, scale, bias)


def by_hand(image: Tensor, text: Tensor, scale: float, same: Tensor, smoothing: float = 0.0) -> float:
    """Return the cross-entropy of both directions, excluding duplicates from the negatives."""
    count, lost = len(image), 0.0
    for row in range(count):
        kept = [other for other in range(count) if other == row or not same[row, other]]
        for scores in (
            [scale * dot(image[row], text[other]) for other in kept],
            [scale * dot(image[other], text[row]) for other in kept],
        ):
            for chosen, other in enumerate(kept):
                target = smoothing / len(kept) + (1 - smoothing) * (other == row)
                lost -= target * log_share(scores, chosen) / (2 * count)
    return lost


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_duplicate_pictures_or_texts_are_not_negatives(smoothing: float) -> None:
    pictures, texts = torch.tensor([1, 2, 3, 1, 4, 5]), torch.tensor([10, 11, 11, 12, 13, 14])
    same = duplicate_pairs(pictures, texts)
    assert same.nonzero().tolist() == [[0, 0], [0, 3], [1, 1], [1, 2], [2, 1], [2, 2], [3, 0], [3, 3], [4, 4], [5, 5]]
    image, text, scale = unit(6, 0), unit(6, 1), 7.0
    found = contrastive_loss(image, text, torch.tensor(scale, dtype=torch.float64), smoothing, same)
    assert found.item() == pytest.approx(by_hand(image, text, scale, same, smoothing))
    expected = 0.0
    for row in range(6):
        for other in range(6):
            if row == other or not same[row, other]:
                sign = 1 if row == other else -1
                expected += log(1 + exp(-sign * (scale * dot(image[row], text[other]) - 3))) / 6
    found = sigmoid_loss(image, text, torch.tensor(scale), torch.tensor(-3.0), same)
    assert found.item() == pytest.approx(expected)


def losses(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    return (
        contrastive_loss(image, text, scale, **options),  # type: ignore[arg-type]
        sigmoid_loss(image, text, scale, bias, **options),  # type: ignore[arg-type]
    )


def test_masked_rows_do_not_contribute_to_the_loss() -> None:
    image, text, scale, bias = unit(6, 0), unit(6, 1), torch.tensor(7.0), torch.tensor(-3.0)
    there = torch.tensor([True, False, True, True, False, True])
    whole = losses(image[there], text[there], scale, bias)
    image[~there], text[~there] = 5.0, 5.0
    image.requires_grad_()
    for found, expected in zip(losses(image, text, scale, bias, valid=there), whole, strict=True):
        assert found.item() == pytest.approx(expected.item())
        (gradient,) = torch.autograd.grad(found, image)
        assert (gradient[~there] == 0).all() and (gradient[there] != 0).any()


@pytest.mark.parametrize("same", [False, True])
def test_the_mean_over_the_chunks_is_the_loss_of_the_batch(same: bool) -> None:
    image, text, scale, bias = unit(6, 0), unit(6, 1), torch.tensor(7.0), torch.tensor(-3.0)
    options: dict[str, object] = {}
    if same:
        options["duplicates"] = duplicate_pairs(torch.tensor([1, 2, 3, 1, 4, 5]), torch.arange(6))
        options["valid"] = torch.tensor([True, False, True, True, True, True])
    whole = losses(image, text, scale, bias, **options)
    parts = [losses(image, text, scale, bias, rows=range(at, at + 2), **options) for at in (0, 2, 4)]
    for number, expected in enumerate(whole):
        mean = sum(part[number].item() for part in parts) / 3
        assert mean == pytest.approx(expected.item())
