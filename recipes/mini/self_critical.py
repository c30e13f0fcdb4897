"""Self-critical sequence training: captions sampled from the model are reinforced by their CIDEr score.

The advantage of a sampled caption is its score minus the mean score of the other captions sampled for the same image.

Source: Rennie et al., *Self-critical Sequence Training for Image Captioning* (arXiv:1612.00563), section 3.2; the
baseline is that of Luo, *A Better Variant of Self-Critical Sequence Training* (arXiv:2003.09971).

Shapes: B images, K captions per image, N image tokens, Di their width, Q soft prompts, D the language model's width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from beholder.errors import MissingExtra
from beholder.evaluation.caption_metrics import tokenize_caption
from beholder.models.bridge import Bridge
from beholder.models.language_model import LanguageModel
from beholder.runtime.decoding import DecodingSettings, generate

END = "<end>"  # a token of its own, so that a truncated caption scores lower than a complete one


class CiderReward:
    """CIDEr of single captions, with document frequencies computed over a whole collection of references.

    Args:
        references: The reference captions of each image.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        try:
            from pycocoevalcap.cider.cider_scorer import CiderScorer
        except ImportError as error:
            raise MissingExtra("judging captions", "evaluate") from error
        self.make = CiderScorer
        self.references = [[f"{tokenize_caption(caption)} {END}" for caption in several] for several in references]
        scorer_of_all = CiderScorer()
        for several in self.references:
            scorer_of_all += ("", several)
        scorer_of_all.compute_doc_freq()
        self.rarity, self.collection = scorer_of_all.document_frequency, scorer_of_all.crefs

    def __call__(self, picture: int, captions: Sequence[str]) -> list[float]:
        """Score captions of one image; a caption without a final period counts as truncated."""
        scorer = self.make()
        for caption in captions:
            ended = f" {END}" if caption.rstrip().endswith(".") else ""
            scorer += (tokenize_caption(caption) + ended, self.references[picture])
        scorer.document_frequency = self.rarity
        scorer.crefs += self.collection[len(captions) :]  # only their number matters, as the document count
        return [float(score) for score in scorer.compute_cider()]


@torch.no_grad()
def sample_captions(
    bridge: Bridge, language: LanguageModel, image: Tensor, prompt: Sequence[int], count: int, longest: int, seed: int
) -> list[list[list[int]]]:
    """Sample ``count`` captions for each image (B, N, Di); return their token ids without the end token."""
    prompts = bridge.soft_prompts(image)
    prompt_embeddings = language.embed(torch.tensor([list(prompt)], device=prompts.device)).expand(len(prompts), -1, -1)
    embeddings = torch.cat([prompts.to(prompt_embeddings.dtype), prompt_embeddings], 1)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    settings = DecodingSettings(longest, top_p=1.0, seed=seed)
    texts = generate(language, embeddings, mask, settings, num_return_sequences=count)
    return [[text.ids for text in texts[row * count : (row + 1) * count]] for row in range(len(image))]


def advantages(scores: Tensor) -> Tensor:
    """Return each caption's score (B, K) minus the mean of the image's other captions: (B, K)."""
    count = scores.shape[1]
    return scores - (scores.sum(1, keepdim=True) - scores) / (count - 1)


def score_captions(
    captions: Sequence[Sequence[list[int]]],
    pictures: Sequence[int],
    decode: Callable[[list[int]], str],
    reward: CiderReward,
) -> Tensor:
    """Return the scores (B, K) of captions sampled for these images."""
    return torch.tensor(
        [reward(picture, [decode(ids) for ids in several]) for picture, several in zip(pictures, captions, strict=True)]
    )
