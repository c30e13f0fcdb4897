import pytest
import torch

from beholder.errors import InvalidSetting
from beholder.models.bert import Bert, BertSettings
from beholder.models.text_tower import TextTransformer, TextTransformerSettings

SMALL = {"vocabulary": 30, "context_length": 10, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24}


def build_transformer(**changes: object) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(TextTransformerSettings(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


def build_bert(**changes: object) -> Bert:
    torch.manual_seed(0)
    return Bert(BertSettings(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


def test_each_pooling_selects_its_token() -> None:
    ids = torch.tensor([[5, 29, 7, 3, 3, 0, 0, 0, 0, 0], [1, 2, 3, 28, 29, 9, 0, 0, 0, 0]])
    positions = {"highest_id": [1, 4], "end": [3, 2], "first": [0, 0], "last": [9, 9]}
    for pooling, expected in positions.items():
        network = build_transformer(pooling=pooling, end_id=3)
        encoded = network(ids)
        for row, position in enumerate(expected):
            assert torch.equal(encoded.pooled[row], encoded.tokens[row, position])


@pytest.mark.parametrize("pooling", ["highest_id", "end", "first"])
def test_padding_after_the_end_token_does_not_change_the_embedding_of_a_causal_network(pooling: str) -> None:
    network = build_transformer(pooling=pooling, end_id=29)
    ids = torch.tensor([[5, 6, 7, 29]])
    padded = torch.cat([ids, torch.tensor([[29, 0, 3, 0, 0, 1]])], dim=1)
    torch.testing.assert_close(network(padded).pooled, network(ids).pooled, atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{"causal": False, "pooling": "last"}, {"pooling": "last"}, {"causal": False}])
def test_a_network_that_attends_to_padding_requires_full_length_padding(changes: dict) -> None:
    network = build_transformer(**changes)
    assert network.settings.full_length
    network(torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(InvalidSetting, match="exactly 10"):
        network(torch.zeros(1, 9, dtype=torch.int64))


def test_a_sentence_longer_than_the_context_is_refused() -> None:
    for network in (build_transformer(), build_bert()):
        with pytest.raises(InvalidSetting, match="at most 10"):
            network(torch.zeros(1, 11, dtype=torch.int64))


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_does_not_change_the_embedding_of_a_masked_network(pooling: str) -> None:
    network = build_bert(pooling=pooling)
    ids = torch.tensor([[5, 6, 7]])
    padded = torch.cat([ids, torch.tensor([[0, 9]])], dim=1)
    mask = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(network(padded, mask).pooled, network(ids).pooled, atol=1e-6, rtol=0)
    assert not torch.allclose(network(padded).pooled, network(ids).pooled, atol=1e-3)


def test_mean_pooling_averages_the_tokens_without_padding() -> None:
    network = build_bert(pooling="mean")
    encoded = network(torch.tensor([[5, 6, 7, 0]]), torch.tensor([[True, True, True, False]]))
    torch.testing.assert_close(encoded.pooled[0], encoded.tokens[0, :3].mean(dim=0), atol=1e-6, rtol=0)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="middle"):
        build_transformer(pooling="middle")
    with pytest.raises(InvalidSetting, match="middle"):
        build_bert(pooling="middle")
