"""The Q-Former: queries that ask a frozen picture, and share their self-attention with a text."""

from pathlib import Path

from drawing import FROZEN, GREY, LIT, TRAINED, Sheet
from seen import WRITTEN_ABOUT, Seen


def draw(seen: Seen, path: Path) -> None:
    """Draws it."""
    settings = seen.writer.bridge.settings.qformer
    language = seen.writer.bridge.settings.language_width
    prepared, tokens = seen.prepared(WRITTEN_ABOUT), seen.tokens(WRITTEN_ABOUT)
    tokenizer = seen.writer.loaded.tokenizer
    sheet = Sheet(7.4, 4.6)

    sheet.picture(prepared, 0.1, 2.35, 1.05, 1.05)
    sheet.words(0.62, 3.52, "the picture", 7.5)
    sheet.arrow((1.2, 2.87), (1.4, 2.87))
    sheet.box(1.45, 2.55, 0.85, 0.65, "picture tower\n(frozen)", FROZEN, 7.5)
    sheet.arrow((1.87, 2.55), (1.87, 2.2))
    sheet.values(tokens[:, :120], 1.45, 1.45, 0.85, 0.75, most=2.5)
    sheet.words(1.87, 1.3, f"{len(tokens)} tokens × {tokens.shape[1]:,}", 7)
    left, middle, right = 3.15, 4.7, 6.25
    sheet.box(2.95, 0.75, 3.5, 2.8, "", "#ffffff")
    sheet.words(6.38, 0.87, f"× {settings.layers} layers", 7.5, ha="right", color=GREY)
    shared = "self-attention: queries and words look at each other,\nas the task's mask allows"
    sheet.box(left, 2.85, right - left, 0.5, shared, TRAINED, 7.5)
    sheet.arrow((2.3, 1.85), (left - 0.03, 1.85), colour=LIT)
    sheet.box(left, 1.6, 1.45, 0.5, "cross-attention:\nqueries look at the picture", TRAINED, 7.5)
    sheet.box(left, 1.0, 1.45, 0.4, "feed-forward", TRAINED, 7.5)
    sheet.box(middle + 0.1, 1.0, 1.45, 0.4, "feed-forward", TRAINED, 7.5)
    query, word = left + 0.72, middle + 0.82
    for x in (query, word):
        sheet.arrow((x, 3.85), (x, 3.35))
        sheet.arrow((x, 1.0), (x, 0.55))
    sheet.arrow((query, 2.85), (query, 2.1))
    sheet.arrow((query, 1.6), (query, 1.4))
    sheet.arrow((word, 2.85), (word, 1.4))

    for number in range(settings.queries):
        x = left + number * 1.45 / settings.queries
        sheet.box(x, 3.9, 1.45 / settings.queries - 0.02, 0.16, "", LIT)
    sheet.words(query, 4.25, f"{settings.queries} learned queries\nof width {settings.width}", 7.5)
    pieces = [piece.strip("<>") for piece in tokenizer.show(seen.captions[WRITTEN_ABOUT])[:6]]
    sheet.words(word, 3.98, " ".join(pieces) + " …", 7)
    sheet.words(word, 4.25, "the words of a caption\n(stage 1 alone)", 7.5)
    sheet.words(query, 0.3, f"what the queries saw\n→ {settings.queries} soft prompts of width {language}", 7.5)
    sheet.words(word, 0.3, "what the words became\n→ the heads of stage 1", 7.5)
    sheet.save(path)
