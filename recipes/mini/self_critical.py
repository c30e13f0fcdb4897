"""Captions drawn from the model itself, and made likelier or less likely by how well they were received.

Word by word a model learns to go on as people did; whether the whole sentence says what people say of the picture, no
word tells. Here the whole sentence is judged by CIDEr, and each of several sentences drawn for the same picture is
pushed by how much better or worse it was than the others.

Source: Rennie et al., *Self-critical Sequence Training for Image Captioning* (arXiv:1612.00563), section 3.2; the other
drawn sentences as the yardstick are from Luo, *A Better Variant of Self-Critical Sequence Training* (arXiv:2003.09971).

Shapes: B pictures, K sentences of each, N picture tokens, Di their width, Q soft prompts, D the language model's width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from beholder.errors import MissingExtra
from beholder.evaluation.caption_metrics import tokenize_caption
from beholder.models.bridge import Bridge
from beholder.models.language_model import LanguageModel
from beholder.runtime.decoding import DecodingSettings, sample_texts

END = "<end>"  # a word of its own, so that a sentence broken off scores lower than one that ends


class CiderReward:
    """CIDEr of single sentences, with the rarity of words as it is in a collection of references.

    Args:
        references: for each picture what people said.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        try:
            from pycocoevalcap.cider.cider_scorer import CiderScorer
        except ImportError as error:
            raise MissingExtra("judging captions", "evaluate") from error
        self.make = CiderScorer
        self.references = [[f"{tokenize_caption(said)} {END}" for said in several] for several in references]
        whole = CiderScorer()
        for several in self.references:
            whole += ("", several)
        whole.compute_doc_freq()
        self.rarity, self.collection = whole.document_frequency, whole.crefs

    def __call__(self, picture: int, captions: Sequence[str]) -> list[float]:
        """The score of each caption of one picture; one that does not end in a full stop is taken as broken off."""
        scorer = self.make()
        for caption in captions:
            ended = f" {END}" if caption.rstrip().endswith(".") else ""
            scorer += (tokenize_caption(caption) + ended, self.references[picture])
        scorer.document_frequency = self.rarity
        scorer.crefs += self.collection[len(captions) :]  # only their number counts: rarity is a share of it
        return [float(score) for score in scorer.compute_cider()]


@torch.no_grad()
def drawn_captions(
    bridge: Bridge, language: LanguageModel, image: Tensor, prompt: Sequence[int], count: int, longest: int, seed: int
) -> list[list[list[int]]]:
    """For each picture (B, N, Di) the tokens of ``count`` drawn sentences, without their end."""
    prompts = bridge.soft_prompts(image)
    asked = language.embed(torch.tensor([list(prompt)], device=prompts.device)).expand(len(prompts), -1, -1)
    embeddings = torch.cat([prompts.to(asked.dtype), asked], 1)
    logits, kv_cache = language.prefill(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool))
    rows = torch.arange(len(image)).repeat_interleave(count)
    kv_cache.select(rows)
    settings = DecodingSettings(longest, top_p=1.0, seed=seed)
    texts = sample_texts(language, logits[rows], kv_cache, settings, lambda: None)
    return [[text.ids for text in texts[row * count : (row + 1) * count]] for row in range(len(image))]


def advantages(scores: Tensor) -> Tensor:
    """How much better each of a picture's sentences (B, K) was than the mean of its others: (B, K)."""
    count = scores.shape[1]
    return scores - (scores.sum(1, keepdim=True) - scores) / (count - 1)


def judged(
    captions: Sequence[Sequence[list[int]]],
    pictures: Sequence[int],
    decode: Callable[[list[int]], str],
    judge: CiderReward,
) -> Tensor:
    """The scores (B, K) of the sentences drawn for these pictures."""
    return torch.tensor(
        [judge(picture, [decode(ids) for ids in several]) for picture, several in zip(pictures, captions, strict=True)]
    )
