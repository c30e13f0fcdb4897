import pytest
import torch

from beholder.models.bridge import image_tokens
from beholder.models.efficientnet_lite import EfficientNetLiteSettings
from beholder.models.global_token_encoder import GlobalTokenEncoder, GlobalTokenEncoderSettings

SETTINGS = GlobalTokenEncoderSettings(EfficientNetLiteSettings(width_scale=0.25, depth_scale=0.3, classes=7), 5)


@pytest.fixture
def network() -> GlobalTokenEncoder:
    torch.manual_seed(0)
    return GlobalTokenEncoder(SETTINGS).eval()


@torch.no_grad()
def test_two_global_tokens_precede_the_grid_each_in_its_own_channels(network: GlobalTokenEncoder) -> None:
    pixels = torch.randn(2, 3, 64, 96)
    tokens = image_tokens(network, pixels)
    grid, pooled = network.tower(pixels)
    assert tokens.shape == (2, 2 + 2 * 3, 1280 + 10)
    assert torch.equal(tokens[:, 2:, :1280], grid.flatten(2).mT) and not tokens[:, 2:, 1280:].any()
    root = pooled.sqrt()
    caption = network.caption(root / root.norm(dim=1, keepdim=True))
    assert torch.allclose(tokens[:, 0, 1280:1285], caption, atol=1e-5)
    shares = network.tower.classify(pooled).softmax(1)
    named = sum(shares[:, number, None] * network.names.weight[:, number] for number in range(7))
    assert torch.allclose(tokens[:, 1, 1285:], named, atol=1e-5)
    assert not tokens[:, 0, :1280].any() and not tokens[:, 0, 1285:].any() and not tokens[:, 1, :1285].any()


@torch.no_grad()
def test_another_caption_projection_changes_only_the_caption_token(network: GlobalTokenEncoder) -> None:
    grid, other = torch.rand(2, 4, 1280), torch.nn.Linear(1280, 5)
    differs = (network.add_global_tokens(grid) != network.add_global_tokens(grid, other)).flatten(2).any(2)
    assert differs.tolist() == [[True] + [False] * 5] * 2
