"""Where in an image each word of its caption comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from beholder.errors import InvalidSetting
from beholder.tasks.text_codec import TextCodec, append_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from beholder.models.bridge import Bridge
    from beholder.runtime.decoding import Language


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention over the image for each word of a caption; every map sums to 1.

    Attributes:
        words: the caption's W words.
        maps: (W, h, w), one map per word.
        overall: (h, w), their mean.
        queries: (Q, h, w), one map per query token.
    """

    words: list[str]
    maps: np.ndarray
    overall: np.ndarray
    queries: np.ndarray


def compute_attention_maps(
    bridge: Bridge,
    language: Language,
    codec: TextCodec,
    tokens: Tensor,
    prompt_ids: list[int],
    text: str,
    grid: tuple[int, int],
) -> AttentionMaps:
    """Return the attention maps of a caption.

    A word's map is the language model's attention from the word to each soft prompt, times the Q-Former's
    cross-attention from that prompt's query to each image token; means over layers and heads. Global prompts have no
    cross-attention and are left out.

    Args:
        bridge: the Q-Former and its projection.
        language: the language model.
        codec: of the language model.
        tokens: the image tokens (1, N, Di).
        prompt_ids: the tokens of the prompt.
        text: the caption.
        grid: rows and columns of image tokens, (h, w).

    Raises:
        InvalidSetting: the caption has no word, or is not a str.
    """
    import torch

    from beholder.runtime.vision_front_end import autocast_to_weights

    if not isinstance(text, str):
        raise InvalidSetting(f"the caption must be a str, not {type(text).__name__}")
    height, width = grid
    with torch.inference_mode():
        with autocast_to_weights(bridge):
            output = bridge.qformer(bridge.normalize_image(tokens), output_attentions=True)
            prompts = bridge.to_prompts(tokens, output.queries).float()
        ids = codec.encode(f" {text.strip()}") if text.strip() else []
        if not ids:
            raise InvalidSetting("the caption has no word to draw attention for")
        attention = language.prompt_attention(append_tokens(language, prompts, prompt_ids), ids)
    attention = attention.float()[:, bridge.settings.global_prompts : prompts.shape[1]]  # (T, Q)
    queries = output.cross_attentions.float().mean((0, 1, 2))[:, -height * width :]  # (Q, h·w)
    queries = queries / queries.sum(1, keepdim=True)
    weights = attention / attention.sum(1, keepdim=True)
    words, owner = codec.words(ids)
    word_of_token = torch.tensor(owner, device=weights.device)
    per_word = torch.stack([weights[word_of_token == word].mean(0) for word in range(len(words))])
    maps = (per_word @ queries).unflatten(1, grid).cpu().numpy()
    return AttentionMaps(words, maps, maps.mean(0), queries.unflatten(1, grid).cpu().numpy())
