"""Bridge losses against slow, literal implementations of the paper's equations."""

import math

import torch

from beholder.training.bridge_losses import (
    IGNORED,
    hard_negatives,
    itc_loss,
    itm_loss,
    language_modeling_loss,
    pair_similarity,
)


def test_pair_similarity_is_the_maximum_over_the_queries():
    images = torch.nn.functional.normalize(torch.randn(3, 4, 5), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(3, 5), dim=-1)
    slow = [[max(float(query @ text) for query in image) for text in texts] for image in images]
    assert torch.allclose(pair_similarity(images, texts), torch.tensor(slow), atol=1e-6)


def test_the_contrastive_loss_is_the_mean_cross_entropy_of_both_directions():
    similarity, scale = torch.rand(4, 4), torch.tensor(2.0)

    def one_way(table):
        shares = [[math.exp(math.exp(2.0) * float(value)) for value in row] for row in table]
        return sum(-math.log(row[place] / sum(row)) for place, row in enumerate(shares)) / 4

    slow = (one_way(similarity) + one_way(similarity.T)) / 2
    assert math.isclose(float(itc_loss(similarity, scale, smoothing=0.0)), slow, rel_tol=1e-5)


def test_texts_of_the_same_picture_are_not_negatives():
    similarity, scale = torch.rand(3, 3), torch.tensor(1.0)
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    changed = similarity.clone()
    changed[0, 1] = changed[1, 0] = 50.0
    assert torch.equal(itc_loss(similarity, scale, same), itc_loss(changed, scale, same))


def test_hard_negatives_are_never_positives_and_favor_high_similarity():
    similarity = torch.tensor([[0.9, 0.8, 0.0], [0.1, 0.9, 0.1], [0.0, 0.7, 0.9]])
    same = torch.eye(3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([hard_negatives(similarity, torch.tensor(3.0), same, generator) for _ in range(200)])
    assert not (drawn == torch.arange(3)).any()
    assert (drawn[:, 0] == 1).float().mean() > 0.95


def test_a_row_without_negatives_falls_back_to_its_own_column():
    same = torch.ones(2, 2, dtype=torch.bool)
    assert hard_negatives(torch.rand(2, 2), torch.tensor(1.0), same, None).tolist() == [0, 1]


def test_the_matching_loss_is_the_mean_negative_log_likelihood():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    slow = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(2.0))) / 2
    assert math.isclose(float(itm_loss(logits, torch.tensor([True, True]))), slow, rel_tol=1e-6)


def test_ignored_targets_do_not_contribute_to_the_loss():
    logits = torch.randn(2, 3, 7)
    targets = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED]])
    picked = [logits[0, 0], logits[0, 1], logits[1, 0]]
    slow = sum(float(-row.log_softmax(0)[word]) for row, word in zip(picked, (1, 2, 3), strict=True)) / 3
    assert math.isclose(float(language_modeling_loss(logits, targets)), slow, rel_tol=1e-5)
