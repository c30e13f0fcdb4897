"""Who may look at whom in a Q-Former."""

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


def test_for_matching_all_see_all(qformer):
    one, two = qformer(IMAGE, IDS, attention_mask="bimodal"), qformer(IMAGE, OTHER, attention_mask="bimodal")
    assert not torch.allclose(one.queries, two.queries)
    assert not torch.allclose(one.text[:, 0], two.text[:, 0])


def test_for_generation_a_word_sees_the_picture_and_no_later_word(qformer):
    one, two = (
        qformer(IMAGE, IDS, attention_mask="multimodal_causal"),
        qformer(IMAGE, OTHER, attention_mask="multimodal_causal"),
    )
    assert torch.allclose(one.queries, two.queries, atol=1e-6)
    assert torch.allclose(one.text[:, :2], two.text[:, :2], atol=1e-6)
    assert not torch.allclose(one.text[:, 0], qformer(-IMAGE, IDS, attention_mask="multimodal_causal").text[:, 0])


def test_for_contrast_neither_sees_the_other(qformer):
    both = qformer(IMAGE, IDS, attention_mask="unimodal")
    assert torch.allclose(both.queries, qformer(IMAGE).queries, atol=1e-6)
    assert torch.allclose(both.text, qformer(None, IDS).text, atol=1e-6)


def test_padding_changes_nothing(qformer):
    padded, mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[True, True, True, False]])
    for attention_mask in ("bimodal", "multimodal_causal", "unimodal"):
        one, two = (
            qformer(IMAGE, IDS, attention_mask=attention_mask),
            qformer(IMAGE, padded, mask, attention_mask=attention_mask),
        )
        assert torch.allclose(one.queries, two.queries, atol=1e-6)
        assert torch.allclose(one.text, two.text[:, :3], atol=1e-6)


def test_where_the_queries_looked_adds_up_to_one(qformer):
    cross_attentions = qformer(IMAGE, output_attentions=True).cross_attentions
    assert cross_attentions.shape == (2, 1, 4, 4, 9)
    assert torch.allclose(cross_attentions.sum(-1), torch.ones(2, 1, 4, 4))


def test_only_every_second_layer_looks_at_the_picture():
    network = QFormer(QFormerSettings(queries=2, width=8, layers=4, heads=2, mlp_width=8, image_width=6))
    assert [layer.cross_attention is not None for layer in network.layers] == [True, False, True, False]


@pytest.mark.parametrize("ids", [None, torch.zeros(1, 9, dtype=torch.long)])
def test_nothing_and_too_much_to_read_are_refused(qformer, ids):
    with pytest.raises(InvalidSetting):
        qformer(None, ids)


def test_a_bridge_without_stage_1_says_what_it_lacks():
    plain = QFormerSettings(queries=2, width=8, layers=1, heads=2, mlp_width=8, image_width=6)
    bridge = Bridge(BridgeSettings(plain, embedding=0, language_width=12))
    assert bridge.soft_prompts(torch.randn(3, 5, 6)).shape == (3, 2, 12)
    with pytest.raises(InvalidSetting, match="stage 1"):
        bridge.image_features(torch.randn(3, 5, 6))


def test_bridge_settings_come_back_from_plain_values():
    settings = BridgeSettings(SMALL, 16, 40, True)
    assert BridgeSettings.from_dict(settings.to_dict()) == settings
