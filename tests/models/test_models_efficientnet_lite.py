import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.efficientnet_lite import Conv2dSame, EfficientNetLite, EfficientNetLiteSettings
from beholder.weights import efficientnet_lite_names
from beholder.weights.table import build_empty, load_foreign

SMALL = EfficientNetLiteSettings(width_scale=0.25, depth_scale=0.3, classes=7)


def with_random_statistics(network: torch.nn.Module) -> None:
    """Give batch normalization random statistics, as after training."""
    torch.manual_seed(4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "sums"),
    [
        (4, 3, 2, [1 + 2 + 3, 3 + 4]),  # one pixel of padding: at the end
        (5, 3, 2, [1 + 2, 2 + 3 + 4, 4 + 5]),  # two pixels of padding: one on each side
        (4, 3, 1, [1 + 2, 1 + 2 + 3, 2 + 3 + 4, 3 + 4]),
        (5, 5, 2, [1 + 2 + 3, 1 + 2 + 3 + 4 + 5, 3 + 4 + 5]),
        (3, 1, 2, [1, 3]),  # no padding
    ],
)
def test_same_padding_adds_the_odd_pixel_at_the_end(size: int, kernel: int, stride: int, sums: list[int]) -> None:
    layer = Conv2dSame(1, 1, (1, kernel), stride=(1, stride), bias=False)
    torch.nn.init.ones_(layer.weight)
    row = torch.arange(1.0, size + 1).reshape(1, 1, 1, size)
    assert layer(row).flatten().tolist() == sums
    turned = Conv2dSame(1, 1, (kernel, 1), stride=(stride, 1), bias=False)
    torch.nn.init.ones_(turned.weight)
    assert turned(row.reshape(1, 1, size, 1)).flatten().tolist() == sums


def test_folding_batch_normalization_does_not_change_the_output() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite(SMALL).eval()
    with_random_statistics(network)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = network(pixels)
        after = network.folded()(pixels)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(after.grid, before.grid, atol=1e-5, rtol=1e-5)
    assert before.grid.std() > 1e-3  # the comparison is not trivial


@pytest.mark.parametrize(("size", "cells"), [(64, 2), (65, 3), (100, 4)])
def test_the_grid_has_one_cell_per_32_pixels_rounded_up(size: int, cells: int) -> None:
    features = EfficientNetLite(SMALL).eval()(torch.zeros(1, 3, size, 64))
    assert features.grid.shape == (1, SMALL.width, cells, 2)
    assert features.pooled.shape == (1, SMALL.width)


def test_a_network_without_a_classifier_cannot_classify() -> None:
    network = EfficientNetLite(EfficientNetLiteSettings(0.25, 0.3, classes=0))
    with pytest.raises(InvalidSetting, match="no classification head"):
        network.classify(torch.zeros(1, network.settings.width))


@pytest.mark.parametrize(("name", "width", "depth", "size"), [("lite0", 1.0, 1.0, 224), ("lite2", 1.1, 1.2, 260)])
def test_features_and_logits_equal_those_of_the_reference(name: str, width: float, depth: float, size: int) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch (--no-deps)")
    torch.manual_seed(0)
    theirs = reference.EfficientNet.from_name(f"efficientnet-{name}").eval()
    with_random_statistics(theirs)
    ours = load_foreign(
        build_empty(EfficientNetLite, EfficientNetLiteSettings(width, depth)),
        theirs.state_dict(),
        efficientnet_lite_names.ROWS,
    )
    pixels = torch.randn(1, 3, size, size)  # the reference always pads for this size
    with torch.inference_mode():
        grid, logits = theirs.extract_features(pixels), theirs(pixels)
        found = ours(pixels)
        torch.testing.assert_close(found.grid, grid, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.classify(found.pooled), logits, atol=1e-5, rtol=1e-5)
