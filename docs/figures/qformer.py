"""The Q-Former: queries that cross-attend to frozen image features and share self-attention with text."""

from pathlib import Path

from computed import CAPTIONED, Computed
from drawing import FROZEN, GRAY, LIT, TRAINED, Canvas


def draw(computed: Computed, path: Path) -> None:
    """Draw the figure."""
    settings = computed.vision_language.bridge.settings.qformer
    language = computed.vision_language.bridge.settings.language_width
    prepared, tokens = computed.prepared(CAPTIONED), computed.tokens(CAPTIONED)
    tokenizer = computed.vision_language.loaded.tokenizer
    canvas = Canvas(7.4, 4.6)

    canvas.picture(prepared, 0.1, 2.35, 1.05, 1.05)
    canvas.text(0.62, 3.52, "image", 7.5)
    canvas.arrow((1.2, 2.87), (1.4, 2.87))
    canvas.box(1.45, 2.55, 0.85, 0.65, "image encoder\n(frozen)", FROZEN, 7.5)
    canvas.arrow((1.87, 2.55), (1.87, 2.2))
    canvas.values(tokens[:, :120], 1.45, 1.45, 0.85, 0.75, most=2.5)
    canvas.text(1.87, 1.3, f"{len(tokens)} tokens × {tokens.shape[1]:,}", 7)
    left, middle, right = 3.15, 4.7, 6.25
    canvas.box(2.95, 0.75, 3.5, 2.8, "", "#ffffff")
    canvas.text(6.38, 0.87, f"× {settings.layers} layers", 7.5, ha="right", color=GRAY)
    shared = "self-attention over queries and text,\nmasked by objective"
    canvas.box(left, 2.85, right - left, 0.5, shared, TRAINED, 7.5)
    canvas.arrow((2.3, 1.85), (left - 0.03, 1.85), color=LIT)
    canvas.box(left, 1.6, 1.45, 0.5, "cross-attention:\nqueries to image features", TRAINED, 7.5)
    canvas.box(left, 1.0, 1.45, 0.4, "feed-forward", TRAINED, 7.5)
    canvas.box(middle + 0.1, 1.0, 1.45, 0.4, "feed-forward", TRAINED, 7.5)
    query, word = left + 0.72, middle + 0.82
    for x in (query, word):
        canvas.arrow((x, 3.85), (x, 3.35))
        canvas.arrow((x, 1.0), (x, 0.55))
    canvas.arrow((query, 2.85), (query, 2.1))
    canvas.arrow((query, 1.6), (query, 1.4))
    canvas.arrow((word, 2.85), (word, 1.4))

    for number in range(settings.queries):
        x = left + number * 1.45 / settings.queries
        canvas.box(x, 3.9, 1.45 / settings.queries - 0.02, 0.16, "", LIT)
    canvas.text(query, 4.25, f"{settings.queries} learned queries\nof width {settings.width}", 7.5)
    pieces = [piece.strip("<>") for piece in tokenizer.tokenize(computed.captions[CAPTIONED])[:6]]
    canvas.text(word, 3.98, " ".join(pieces) + " …", 7)
    canvas.text(word, 4.25, "tokens of a caption\n(stage 1 only)", 7.5)
    canvas.text(query, 0.3, f"queries' output\n→ {settings.queries} soft prompts of width {language}", 7.5)
    canvas.text(word, 0.3, "text output\n→ the heads of stage 1", 7.5)
    canvas.save(path)
