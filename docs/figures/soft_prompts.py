"""What the language model reads: soft prompts in front of words, all as vectors of its own width."""

from pathlib import Path

import numpy as np
import torch

from drawing import GREY, LIT, Sheet, square
from seen import PHOTOGRAPHS, WRITTEN_ABOUT, Seen

NUMBERS = 64  # of each vector's
WIDTH = 3.8  # of all soft prompts and words


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    writer = seen.writer
    prompts = writer.soft_prompts(PHOTOGRAPHS / WRITTEN_ABOUT)[0]
    ids = writer._encode(writer.loaded.prompts.caption, special=True)
    with torch.inference_mode():
        words = writer.language.embed(torch.tensor([ids]))[0].float()
        table = writer.language.embed(torch.arange(writer.loaded.language_tokenizer.get_vocab_size())[None])[0].float()
        near = torch.nn.functional.normalize(prompts, dim=-1) @ torch.nn.functional.normalize(table, dim=-1).T
    closest, nearest = near.max(1)
    spelled = [writer.loaded.language_tokenizer.decode([token]).strip() for token in nearest.tolist()]
    vectors = torch.cat([prompts, words])[:, :NUMBERS].numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    sheet = Sheet(7.4, 3.3)
    left, top, height = 1.3, 0.4, 1.45
    sheet.picture(square(seen.photograph(WRITTEN_ABOUT)), 0.1, top, 1.0, 1.0)
    sheet.arrow((1.12, top + 0.5), (1.27, top + 0.5))
    column = WIDTH / len(vectors)
    many, written = len(prompts), [writer.loaded.language_tokenizer.decode([token]).strip() for token in ids]
    for place, vector in enumerate(vectors):
        x = left + place * column + (0.15 if place >= many else 0)
        sheet.values(vector[:, None], x, top, column - 0.03, height, most=0.4)
        if place < many:
            word = f"{spelled[place]} ({closest[place]:.2f})"
            sheet.words(x + column / 2, top + height + 0.06, _readable(word), 6.3, rotation=90, va="top", color=GREY)
        else:
            word = written[place - many]
            sheet.words(x + column / 2, top + height + 0.06, word, 7.5, rotation=90, va="top", color=LIT)
    middle = left + many * column / 2
    whole = writer.bridge.settings.global_prompts
    made_of = f"{whole} of the whole picture, {many - whole} of queries" if whole else "what the Q-Former saw"
    sheet.words(middle, 0.2, f"{many} soft prompts: {made_of}", 8)
    below = "below each the word of the vocabulary that it is nearest to, with the cosine"
    sheet.words(middle, 2.8, below, 7, color=GREY)
    x = left + many * column + 0.15
    sheet.words(x + len(ids) * column / 2, 0.2, "words", 8, color=LIT)
    sheet.arrow((x + len(ids) * column + 0.06, top + height / 2), (x + len(ids) * column + 0.32, top + height / 2))
    said = seen.caption(WRITTEN_ABOUT).split()
    start = x + len(ids) * column + 0.38
    sheet.words(start, top - 0.2, "what it writes", 8, ha="left")
    sheet.words(start, top + height / 2, "\n".join(said), 8, ha="left", color=LIT)
    shown = f"The first {NUMBERS} of {prompts.shape[1]} numbers of each vector, from top to bottom; all of one length."
    sheet.words(0.1, 3.12, shown, 7, ha="left", color=GREY)
    sheet.save(path)


def _readable(word: str) -> str:
    return "".join(letter if letter.isascii() else "·" for letter in word)
