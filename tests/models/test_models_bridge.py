from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beholder.errors import InvalidSetting
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.qformer import QFormerSettings

QFORMER = QFormerSettings(queries=3, width=8, layers=1, heads=2, mlp_width=16, image_width=6, dropout=0.5)
SETTINGS = BridgeSettings(QFORMER, embedding=0, language_width=10, global_tokens=2, global_prompts=4)


@pytest.fixture
def bridge() -> Bridge:
    torch.manual_seed(0)
    return Bridge(SETTINGS).eval()


@torch.no_grad()
def test_global_prompts_precede_those_of_the_queries(bridge: Bridge) -> None:
    image = torch.randn(2, 5, 6)
    prompts = bridge.soft_prompts(image)
    assert prompts.shape == (2, SETTINGS.soft_prompts, 10) and SETTINGS.soft_prompts == 4 + 3
    assert torch.equal(prompts[:, 4:], bridge.to_language(bridge.queries(image)))
    part = bridge.global_prompts
    hidden = F.gelu(part.up(F.layer_norm(image[:, 0] + image[:, 1], (6,))))
    assert torch.allclose(prompts[:, :4].flatten(1), part.down(hidden), atol=1e-6)


@torch.no_grad()
def test_global_prompts_depend_on_the_global_tokens_alone(bridge: Bridge) -> None:
    image = torch.randn(1, 5, 6)
    before = bridge.global_prompts(image)
    changed = image.clone()
    changed[:, 2:] += 1
    assert torch.equal(bridge.global_prompts(changed), before)
    changed[:, 1, 0] += 1
    assert not torch.allclose(bridge.global_prompts(changed), before)


@pytest.mark.parametrize(
    ("tokens", "prompts", "width", "message"),
    [(2, 0, 10, "both be 0, or both above"), (0, 4, 10, "both"), (-1, -1, 10, "both"), (2, 4, 0, "language_width")],
)
def test_inconsistent_settings_are_refused_with_the_reason(tokens: int, prompts: int, width: int, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        BridgeSettings(QFORMER, 0, width, global_tokens=tokens, global_prompts=prompts)


def test_settings_survive_conversion_to_a_dict() -> None:
    assert BridgeSettings.from_dict(SETTINGS.to_dict()) == SETTINGS


@torch.no_grad()
def test_soft_prompts_of_the_remaining_tokens_keep_their_positions() -> None:
    torch.manual_seed(0)
    qformer = replace(QFORMER, grid_height=2, grid_width=3, prefix_tokens=2)
    bridge = Bridge(replace(SETTINGS, qformer=qformer)).eval()
    image, order = torch.randn(2, 8, 6), torch.tensor([0, 1, 5, 2, 7, 4, 3, 6])
    torch.testing.assert_close(bridge.soft_prompts(image[:, order], order), bridge.soft_prompts(image))
    assert not torch.allclose(bridge.soft_prompts(image[:, order]), bridge.soft_prompts(image), atol=1e-4)
