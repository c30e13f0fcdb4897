import pytest
import torch

pytest.importorskip("pycocoevalcap", reason="captions are scored by pycocoevalcap")

import tiny_bridge
import tiny_language_models
from beholder.evaluation.caption_metrics import tokenize_caption
from beholder.training.bridge_stages import stage_2_loss
from self_critical import END, CiderReward, advantages, sample_captions, score_captions

REFERENCES = [
    ["A dog runs in the snow.", "A brown dog is running through snow.", "The dog plays."],
    ["Two men sit on a bench.", "Two people sit.", "Men on a wooden bench."],
    ["A child jumps into water.", "A kid jumps in a pool.", "A girl leaps into the pool."],
]


def test_the_reward_is_cider_with_document_frequencies_of_the_whole_collection() -> None:
    from pycocoevalcap.cider.cider import Cider

    captions = ["a dog runs in snow.", "two men sit on a bench.", "a dog in a pool."]
    expected = {
        number: [f"{tokenize_caption(caption)} {END}" for caption in several]
        for number, several in enumerate(REFERENCES)
    }
    found = {number: [f"{tokenize_caption(caption)} {END}"] for number, caption in enumerate(captions)}
    _, whole = Cider().compute_score(expected, found)
    reward = CiderReward(REFERENCES)
    single = [reward(number, [caption])[0] for number, caption in enumerate(captions)]
    assert single == pytest.approx(whole.tolist(), abs=1e-9)
    assert reward(1, [captions[0], captions[1]]) == pytest.approx([reward(1, [one])[0] for one in captions[:2]])


def test_a_truncated_caption_scores_lower() -> None:
    ended, broken = CiderReward(REFERENCES)(0, ["A dog runs in the snow.", "A dog runs in the snow"])
    assert broken < ended


def test_the_advantage_is_relative_to_the_other_captions_of_the_picture() -> None:
    scores = torch.tensor([[1.0, 2.0, 6.0], [1.0, 1.0, 1.0]])
    assert advantages(scores).tolist() == [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]


def test_sampled_captions_depend_on_the_seed() -> None:
    part, language = tiny_bridge.build().eval(), tiny_language_models.make("llama")
    image = torch.randn(2, 4, 16)
    first, same, other = (sample_captions(part, language, image, [3, 4], 4, 6, seed) for seed in (1, 1, 2))
    assert first == same != other
    assert [len(several) for several in first] == [4, 4] and max(len(ids) for ids in first[0]) <= 6
    reward = CiderReward(REFERENCES)
    scores = score_captions([[[1], [2]], [[2], [1]]], [0, 1], lambda ids: REFERENCES[ids[0] - 1][0], reward)
    assert scores[0, 0] > scores[0, 1] and scores[1, 0] > scores[1, 1]


def test_training_raises_the_likelihood_of_captions_with_positive_advantage() -> None:
    part, language = tiny_bridge.build(dropout=0.0), tiny_language_models.make("llama")
    image, rows = torch.randn(1, 4, 16), [[([3, 4], [5, 6, 7]), ([3, 4], [9, 8])]]

    def loss_of(number: int) -> float:
        with torch.no_grad():
            return float(stage_2_loss(part, language, image, [rows[0][number : number + 1]]))

    before = loss_of(0), loss_of(1)
    optimizer = torch.optim.SGD([weight for weight in part.parameters() if weight.requires_grad], 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        stage_2_loss(part, language, image, rows, weights=torch.tensor([1.0, -1.0])).backward()
        optimizer.step()
    assert loss_of(0) < before[0] and loss_of(1) > before[1]
