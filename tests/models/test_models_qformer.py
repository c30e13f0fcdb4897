"""Attention masks of the Q-Former: which queries and tokens attend to which."""

from dataclasses import replace

import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.qformer import QFormer, QFormerSettings

SMALL = QFormerSettings(
    queries=4,
    width=32,
    layers=2,
    heads=4,
    mlp_width=64,
    image_width=24,
    vocabulary=50,
    max_position_embeddings=8,
    cross_attention_frequency=1,
)


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    return QFormer(SMALL).eval()


IDS, OTHER = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8]])
IMAGE = torch.randn(1, 9, 24, generator=torch.Generator().manual_seed(1))


def test_with_the_bimodal_mask_queries_and_text_attend_to_each_other(qformer):
    one, two = qformer(IMAGE, IDS, attention_mask="bimodal"), qformer(IMAGE, OTHER, attention_mask="bimodal")
    assert not torch.allclose(one.queries, two.queries)
    assert not torch.allclose(one.text[:, 0], two.text[:, 0])


def test_with_the_causal_mask_a_token_attends_to_the_queries_and_to_no_later_token(qformer):
    one, two = (
        qformer(IMAGE, IDS, attention_mask="multimodal_causal"),
        qformer(IMAGE, OTHER, attention_mask="multimodal_causal"),
    )
    assert torch.allclose(one.queries, two.queries, atol=1e-6)
    assert torch.allclose(one.text[:, :2], two.text[:, :2], atol=1e-6)
    assert not torch.allclose(one.text[:, 0], qformer(-IMAGE, IDS, attention_mask="multimodal_causal").text[:, 0])


def test_with_the_unimodal_mask_queries_and_text_are_independent(qformer):
    both = qformer(IMAGE, IDS, attention_mask="unimodal")
    assert torch.allclose(both.queries, qformer(IMAGE).queries, atol=1e-6)
    assert torch.allclose(both.text, qformer(None, IDS).text, atol=1e-6)


def test_padding_does_not_change_the_output(qformer):
    padded, mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[True, True, True, False]])
    for attention_mask in ("bimodal", "multimodal_causal", "unimodal"):
        one, two = (
            qformer(IMAGE, IDS, attention_mask=attention_mask),
            qformer(IMAGE, padded, mask, attention_mask=attention_mask),
        )
        assert torch.allclose(one.queries, two.queries, atol=1e-6)
        assert torch.allclose(one.text, two.text[:, :3], atol=1e-6)


def test_cross_attention_weights_sum_to_one(qformer):
    cross_attentions = qformer(IMAGE, output_attentions=True).cross_attentions
    assert cross_attentions.shape == (2, 1, 4, 4, 9)
    assert torch.allclose(cross_attentions.sum(-1), torch.ones(2, 1, 4, 4))


def test_only_every_second_layer_has_cross_attention():
    network = QFormer(QFormerSettings(queries=2, width=8, layers=4, heads=2, mlp_width=8, image_width=6))
    assert [layer.cross_attention is not None for layer in network.layers] == [True, False, True, False]


@pytest.mark.parametrize("ids", [None, torch.zeros(1, 9, dtype=torch.long)])
def test_empty_input_and_overlong_text_are_refused(qformer, ids):
    with pytest.raises(InvalidSetting):
        qformer(None, ids)


def test_a_bridge_without_stage_1_heads_has_no_image_features():
    plain = QFormerSettings(queries=2, width=8, layers=1, heads=2, mlp_width=8, image_width=6)
    bridge = Bridge(BridgeSettings(plain, embedding=0, language_width=12))
    assert bridge.soft_prompts(torch.randn(3, 5, 6)).shape == (3, 2, 12)
    with pytest.raises(InvalidSetting, match="stage 1"):
        bridge.image_features(torch.randn(3, 5, 6))


def test_bridge_settings_survive_conversion_to_a_dict():
    settings = BridgeSettings(SMALL, 16, 40, True)
    assert BridgeSettings.from_dict(settings.to_dict()) == settings


def test_with_cross_attention_first_a_query_attends_to_the_image_before_it_knows_the_others():
    def first_weights(cross_attention_first: bool, others: int) -> torch.Tensor:
        torch.manual_seed(0)
        network = QFormer(replace(SMALL, cross_attention_first=cross_attention_first)).eval()
        with torch.no_grad():
            network.query_tokens[1:] = torch.randn(3, 32, generator=torch.Generator().manual_seed(others))
            return network(5 * IMAGE, output_attentions=True).cross_attentions[0, 0, :, 0]

    assert torch.equal(first_weights(True, 1), first_weights(True, 2))
    assert not torch.equal(first_weights(False, 1), first_weights(False, 2))


@pytest.mark.parametrize("cross_attention_first", [False, True])
def test_passes_over_cached_keys_and_values_equal_those_over_the_image(cross_attention_first):
    network = QFormer(
        replace(SMALL, layers=3, cross_attention_frequency=2, cross_attention_first=cross_attention_first)
    )
    network.eval()
    image = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(2))
    cache = network.cross_attention_cache(image)
    assert len(cache.keys) == len(cache.values) == 2
    for name in ("queries", "text", "cross_attentions"):
        ids = IDS.expand(3, -1)
        own = getattr(network(image, ids, output_attentions=True), name)
        assert torch.equal(own, getattr(network(cache, ids, output_attentions=True), name))
    rows = torch.tensor([2, 0, 2])
    torch.testing.assert_close(network(cache.select(rows)).queries, network(image[rows]).queries)
