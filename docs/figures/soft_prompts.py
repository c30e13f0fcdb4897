"""The language model's input: soft prompts followed by text tokens, all vectors of its own width."""

from pathlib import Path

import numpy as np
import torch

from computed import CAPTIONED, PHOTOGRAPHS, Computed
from drawing import GRAY, LIT, Canvas, square

NUMBERS = 64  # of each vector's
WIDTH = 3.8  # of all soft prompts and words


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    model = computed.vision_language
    prompts = model.soft_prompts(PHOTOGRAPHS / CAPTIONED)[0]
    ids = model.codec.encode(model.loaded.prompts.caption, special=True)
    with torch.inference_mode():
        words = model.language.embed(torch.tensor([ids]))[0].float()
        table = model.language.embed(torch.arange(model.loaded.language_tokenizer.get_vocab_size())[None])[0].float()
        near = torch.nn.functional.normalize(prompts, dim=-1) @ torch.nn.functional.normalize(table, dim=-1).T
    closest, nearest = near.max(1)
    spelled = [model.loaded.language_tokenizer.decode([token]).strip() for token in nearest.tolist()]
    vectors = torch.cat([prompts, words])[:, :NUMBERS].numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    canvas = Canvas(7.4, 3.3)
    left, top, height = 1.3, 0.4, 1.45
    canvas.picture(square(computed.photograph(CAPTIONED)), 0.1, top, 1.0, 1.0)
    canvas.arrow((1.12, top + 0.5), (1.27, top + 0.5))
    column = WIDTH / len(vectors)
    many, written = len(prompts), [model.loaded.language_tokenizer.decode([token]).strip() for token in ids]
    for place, vector in enumerate(vectors):
        x = left + place * column + (0.15 if place >= many else 0)
        canvas.values(vector[:, None], x, top, column - 0.03, height, most=0.4)
        if place < many:
            word = f"{spelled[place]} ({closest[place]:.2f})"
            canvas.text(x + column / 2, top + height + 0.06, _readable(word), 6.3, rotation=90, va="top", color=GRAY)
        else:
            word = written[place - many]
            canvas.text(x + column / 2, top + height + 0.06, word, 7.5, rotation=90, va="top", color=LIT)
    middle = left + many * column / 2
    whole = model.bridge.settings.global_prompts
    made_of = f"{whole} global, {many - whole} from queries" if whole else "the Q-Former's output"
    canvas.text(middle, 0.2, f"{many} soft prompts: {made_of}", 8)
    below = "below each, the nearest token of the vocabulary and its cosine"
    canvas.text(middle, 2.8, below, 7, color=GRAY)
    x = left + many * column + 0.15
    canvas.text(x + len(ids) * column / 2, 0.2, "text", 8, color=LIT)
    canvas.arrow((x + len(ids) * column + 0.06, top + height / 2), (x + len(ids) * column + 0.32, top + height / 2))
    caption = computed.caption(CAPTIONED).split()
    start = x + len(ids) * column + 0.38
    canvas.text(start, top - 0.2, "generated text", 8, ha="left")
    canvas.text(start, top + height / 2, "\n".join(caption), 8, ha="left", color=LIT)
    shown = f"The first {NUMBERS} of {prompts.shape[1]} dimensions of each vector, from top to bottom, at unit length."
    canvas.text(0.1, 3.12, shown, 7, ha="left", color=GRAY)
    canvas.save(path)


def _readable(word: str) -> str:
    return "".join(letter if letter.isascii() else "·" for letter in word)
