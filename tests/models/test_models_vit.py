import pytest
import torch
from torch import nn

from beholder.errors import InvalidSetting
from beholder.models.vit import VisionSettings, VisionTransformer

SMALL = {"image_height": 32, "image_width": 48, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24}


def build(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(VisionSettings(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 1 + 4 * 6),
        ({"class_token": False, "pooling": "mean"}, 4 * 6),
        ({"class_token": False, "pooling": "attention"}, 4 * 6),
        ({"registers": 3}, 1 + 3 + 4 * 6),
        ({"patch_size": 16}, 1 + 2 * 3),
        ({"stem": (4, 8), "patch_size": 1}, 1 + 8 * 12),
        ({"stem": (4, 8), "patch_size": 2, "image_height": 33}, 1 + 4 * 6),
    ],
)
def test_there_is_one_token_per_patch_plus_class_token_and_registers(changes: dict, tokens: int) -> None:
    network = build(**changes)
    height, width = network.settings.image_height, network.settings.image_width
    encoded = network(torch.randn(2, 3, height, width))
    assert encoded.tokens.shape == (2, tokens, 16)
    assert encoded.pooled.shape == (2, 16)


def test_a_token_depends_on_the_receptive_field_of_the_stem() -> None:
    network = build(stem=(4, 8), patch_size=1)
    pixels = torch.randn(2, 3, 32, 48)
    before = network.stem[0](pixels)  # only the first layer: the next normalizes over the whole picture
    pixels[:, :, :, 24:] += 1
    after = network.stem[0](pixels)
    assert before.shape == (2, 4, 16, 24)
    torch.testing.assert_close(after[..., :12], before[..., :12])
    assert (after[..., 12:] != before[..., 12:]).all()


def test_the_stem_does_not_depend_on_the_batch() -> None:
    network = build(stem=(4, 8), patch_size=1)
    pixels = torch.randn(5, 3, 32, 48)
    torch.testing.assert_close(network(pixels).pooled[:1], network(pixels[:1]).pooled, atol=1e-5, rtol=0)


def test_a_stem_needs_channels() -> None:
    with pytest.raises(InvalidSetting, match="at least 1"):
        build(stem=(4, 0), patch_size=1)


def test_position_embeddings_of_the_trained_size_are_used_unchanged() -> None:
    network = build()
    class_position, positions = network.positions_for(4, 6)
    assert torch.equal(torch.cat([class_position, positions]), network.positions)


def test_position_embeddings_are_interpolated_for_other_sizes() -> None:
    network = build(image_height=16, image_width=16)
    with torch.no_grad():  # a ramp from left to right stays a ramp from left to right
        network.positions[1:] = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None]
    _, positions = network.positions_for(2, 4)
    rows = positions.unflatten(0, (2, 4))[..., 0]
    assert torch.equal(rows[0], rows[1])
    assert (rows[0].diff() > 0).all()


def test_a_layer_scale_of_zero_disables_a_block() -> None:
    network = build(layer_scale=True)
    with torch.no_grad():
        for block in network.blocks:
            block.scale_attention.zero_()
            block.scale_mlp.zero_()
    pixels = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(network(pixels).tokens, network.final_norm(network.embed_patches(pixels)))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 5},
        {"pooling": "mean", "final_norm": "pooled", "norm_first": True},
        {"pooling": "attention", "class_token": False},
        {"layer_scale": True, "swiglu": True, "registers": 2, "classes": 3, "classify_mean": True},
        {"tanh_pooler": True, "qkv_bias": False, "patch_bias": False},
        {"stem": (4, 8), "patch_size": 2},
    ],
)
def test_every_parameter_gets_a_gradient(changes: dict) -> None:
    network = build(**changes).train()
    encoded = network(torch.randn(2, 3, 64, 96))
    loss = encoded.pooled.square().sum() + encoded.tokens.square().sum()
    if network.classifier is not None:
        loss = loss + network.classify(encoded).square().sum()
    loss.backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_attention_pooling_equals_torch_multihead_attention() -> None:
    pooling = build(pooling="attention", class_token=False).attention_pooling
    reference = nn.MultiheadAttention(16, 2, batch_first=True)
    reference.in_proj_weight, reference.in_proj_bias = pooling.attention.qkv.weight, pooling.attention.qkv.bias
    reference.out_proj = pooling.attention.out
    tokens, query = torch.randn(3, 7, 16), pooling.query.expand(3, 1, 16)
    expected = reference(query, tokens, tokens)[0]
    torch.testing.assert_close(pooling.attention.cross_attention(query, tokens), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "class", "class_token": False}, "class token"),
        ({"pooling": "middle"}, "middle"),
        ({"final_norm": "none"}, "final_norm"),
        ({"patch_size": 64}, "fewer than one patch"),
        ({"heads": 3}, "3 heads"),
        ({"activation": "relu"}, "relu"),
    ],
)
def test_invalid_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        build(**changes)


def test_classification_without_a_head_is_refused() -> None:
    network = build()
    with pytest.raises(InvalidSetting, match="no classification head"):
        network.classify(network(torch.randn(1, 3, 32, 48)))
