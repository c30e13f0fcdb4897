"""Attention masks of the Q-Former: which queries and tokens attend to which."""

from dataclasses import replace

import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.bridge import Bridge, BridgeSettings
from beholder.models.qformer import QFormer, QFormerSettings, spatial_prior

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


GRID = replace(SMALL, grid_height=4, grid_width=6, prefix_tokens=1)
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


def test_the_spatial_prior_is_a_gaussian_around_each_query_s_point_and_prefix_tokens_get_its_mean():
    prior = spatial_prior(GRID)  # four queries, two by two: their points are two rows and three columns of cells apart
    assert prior.shape == (4, 25) and GRID.image_positions == 25
    first = prior[0, 1:].view(4, 6)
    assert torch.equal(first[0, 1], first.max())
    torch.testing.assert_close(first[0, 1], torch.tensor(-2 * (0.5 / 2) ** 2))  # its point lies between rows 0 and 1
    torch.testing.assert_close(first[3, 4], torch.tensor(-2 * ((2.5 / 2) ** 2 + (3 / 3) ** 2)))
    torch.testing.assert_close(prior[:, 0].exp(), prior[:, 1:].exp().mean(1))
    torch.testing.assert_close(prior[3, 1:].view(4, 6), first.flip(0, 1))


@pytest.mark.parametrize(("queries", "rows"), [(1, 1), (7, 1), (12, 3), (16, 4)])
def test_the_points_of_the_queries_form_a_grid_as_square_as_their_number_allows(queries, rows):
    settings = replace(SMALL, queries=queries, grid_height=60, grid_width=60)
    nearest = spatial_prior(settings).argmax(1) // 60
    assert len(nearest.unique()) == rows


def test_with_a_grid_attention_starts_around_the_query_s_point_and_without_one_it_is_the_same_everywhere():
    def weights(settings):
        torch.manual_seed(0)
        network = QFormer(settings).eval()
        image = 0.01 * torch.randn(1, 25, 24, generator=torch.Generator().manual_seed(1))
        return network(image, output_attentions=True).cross_attentions[:, 0]  # (2, heads, queries, tokens)

    quarters = torch.tensor([[row // 2 * 2 + column // 3 for column in range(6)] for row in range(4)]).flatten()
    local = weights(GRID)[..., 1:]
    for query in range(4):
        assert (local[:, :, query, quarters == query].sum(-1) > 0.6).all()
    even = weights(replace(SMALL))[..., 1:]
    assert torch.allclose(even, torch.full_like(even, 1 / 25), atol=0.01)


def test_with_a_grid_queries_that_are_all_alike_still_see_different_things():
    def distance(settings):
        torch.manual_seed(0)
        network = QFormer(settings).eval()
        with torch.no_grad():
            network.query_tokens.copy_(network.query_tokens[:1].expand(4, -1).clone())
            for layer in network.layers:
                layer.cross_attention.value.weight.mul_(20)
            seen = network(torch.randn(1, 25, 24, generator=torch.Generator().manual_seed(1))).queries[0]
        return (seen[1:] - seen[:1]).abs().amax(1).min()

    assert distance(SMALL) < 1e-5
    assert distance(GRID) > 0.1


@pytest.mark.parametrize("cross_attention_first", [False, True])
def test_tokens_that_are_left_when_others_are_dropped_keep_their_positions(cross_attention_first):
    torch.manual_seed(0)
    network = QFormer(replace(GRID, cross_attention_first=cross_attention_first)).eval()
    image = torch.randn(2, 25, 24, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(25, generator=torch.Generator().manual_seed(2))
    whole, shuffled = network(image), network(network.cross_attention_cache(image[:, order], order))
    torch.testing.assert_close(shuffled.queries, whole.queries)
    few = order[:15]
    cache = network.cross_attention_cache(image[:, few], few)
    assert torch.equal(cache.biases[0], network.layers[0].cross_attention.position_bias[:, few])
    rows = torch.tensor([1, 0, 1])
    chosen = network.cross_attention_cache(image[rows][:, few], few)
    torch.testing.assert_close(network(cache.select(rows)).queries, network(chosen).queries)
    with torch.no_grad():  # a token that nobody attends to may as well be dropped
        for layer in network.layers:
            hidden = torch.ones(25, dtype=torch.bool).index_fill(0, few, False)
            layer.cross_attention.position_bias[:, hidden] = float("-inf")
    torch.testing.assert_close(network(image).queries, network(cache).queries)


def test_a_grid_adds_a_bias_to_each_cross_attention_and_none_is_there_without():
    known, biased = set(QFormer(SMALL).state_dict()), set(QFormer(GRID).state_dict())
    assert biased - known == {f"layers.{number}.cross_attention.position_bias" for number in range(2)}
    assert known < biased
    old = BridgeSettings(SMALL, 16, 40, True).to_dict()
    for name in ("grid_height", "grid_width", "prefix_tokens"):
        del old["qformer"][name]  # as in files from before there was a grid
    assert BridgeSettings.from_dict(old).qformer == SMALL


@pytest.mark.parametrize(("height", "width", "prefix"), [(3, 0, 0), (0, 3, 0), (-1, -1, 0), (3, 3, -1), (0, 0, 2)])
def test_half_a_grid_is_refused(height, width, prefix):
    with pytest.raises(InvalidSetting, match="grid_height"):
        replace(SMALL, grid_height=height, grid_width=width, prefix_tokens=prefix)


def test_bfloat16_autocast_takes_the_position_bias():
    torch.manual_seed(0)
    network = QFormer(GRID).eval()
    image = torch.randn(2, 25, 24, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image).queries
    torch.testing.assert_close(found.float(), network(image).queries, atol=0.1, rtol=0.1)
