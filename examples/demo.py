"""Run Beholder on the photographs in demo/photographs and write the results to demo/index.html.

    python examples/demo.py
    python examples/demo.py --model openai/clip-vit-base-patch32

The page is self-contained, including pictures, and needs no JavaScript.

Shapes: n photographs, m sentences, L labels, E the shared space.
"""

import argparse
import base64
import html
import json
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from beholder import BeholderError, DualEncoder, VisionLanguageModel
from beholder.models.bridge import token_grid
from beholder.pictures.read import read_picture
from beholder.pictures.transform import to_pil_image, to_pixels
from beholder.tasks.plot import plot_similarity

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = ROOT / "demo" / "photographs"
PAGE = ROOT / "demo" / "index.html"
MATRIX = ROOT / "demo" / "matrix.png"
LICENCES = "https://creativecommons.org/publicdomain/zero/1.0/"

SHOWN_TO_THE_MODEL = ("astronaut.jpg", "raccoon.jpg", "machu-picchu.jpg", "windmill.jpg")
DISTRACTORS = ("car", "snake", "pizza", "guitar", "aeroplane", "book", "snowman", "boat")
SEARCHES = (
    ("a hot drink", "一杯热饮"),
    ("animals on a farm", "农场里的动物"),
    ("something sour to eat", "酸的食物"),
    ("a famous building", "著名的建筑"),
    ("outer space", "外太空"),
)
QUESTIONS = ("Is there a person in the picture?", "Where is this?")
LABELS_SHOWN, FOUND_SHOWN = 3, 5


@dataclass(frozen=True)
class Photograph:
    """A photograph of the demo with its human caption and label."""

    path: Path
    picture: Image.Image
    caption: str
    label: str

    def tag(self, side: int) -> str:
        """Return an ``<img>`` with the photograph embedded, at most ``side`` pixels a side."""
        small = self.picture.copy()
        small.thumbnail((side, side))
        return image_tag(small, self.caption)


def main() -> None:
    """Run the models and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help="the dual encoder: a name, a folder or a hub id")
    parser.add_argument("--writer", default="mini", help="the vision-language model: a name, a folder or a hub id")
    given = parser.parse_args()
    model = given.model

    print(f"Loading {model} (downloading its parts on first use)")
    encoder = DualEncoder.from_pretrained(model)
    photographs = read_photographs()
    print(f"Embedding {len(photographs)} photographs")
    images = encoder.embed_images([photograph.path for photograph in photographs])  # (n, E)
    captions = [photograph.caption for photograph in photographs]
    texts = encoder.embed_texts(captions)  # (n, E)
    cosines, match = images @ texts.T, encoder.match(images, texts, captions)  # (n, n)

    best = int((cosines.argmax(axis=1) == np.arange(len(photographs))).sum())
    right, labels = zero_shot(encoder, photographs, images)
    print(f"  own caption ranked first: {best} of {len(photographs)} photographs")
    print(f"  own label ranked first:   {right} of {len(photographs)} photographs")

    print("Generating captions and answers")
    generated = captions_and_answers(VisionLanguageModel.from_pretrained(given.writer), photographs)

    sections = (
        header(len(photographs), best, right),
        "<main>",
        what_the_model_sees(encoder, photographs),
        matrix(photographs, cosines, match, best),
        labels,
        search(encoder, photographs, images),
        generated,
        "</main>",
        footer(model, given.writer),
    )
    PAGE.write_text(page("".join(sections)), encoding="utf-8")
    plot_similarity(
        MATRIX, [photograph.path for photograph in photographs], captions, match, "match", limits=(0.0, 1.0)
    )
    print(f"The page:   {PAGE.resolve().as_uri()}")
    print(f"The matrix: {MATRIX.resolve().as_uri()}")


def read_photographs() -> list[Photograph]:
    """Return the photographs listed in captions.jsonl, in order."""
    lines = (PHOTOGRAPHS / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    paths = [PHOTOGRAPHS / row["image"] for row in rows]
    return [
        Photograph(path, read_picture(path), row["captions"][0], row["label"])
        for path, row in zip(paths, rows, strict=True)
    ]


def header(photographs: int, captions_right: int, labels_right: int) -> str:
    """Return the header, with the two key figures."""
    return f"""<header><h1>What Beholder sees in {photographs} photographs</h1>
<p class="soft">Generated on this machine by <code>examples/demo.py</code>, without training on these photographs.</p>
<ul class="figures">
<li><b>{captions_right} of {photographs}</b> photographs match their own caption best</li>
<li><b>{labels_right} of {photographs}</b> photographs get the right label</li></ul></header>"""


def what_the_model_sees(encoder: DualEncoder, photographs: list[Photograph]) -> str:
    """Return the section that shows a few photographs as the network receives them, and its grid cells."""
    preprocessing = encoder.loaded.preprocessing
    rows, columns = cells(encoder)
    height, width = preprocessing.height, preprocessing.width
    figures = []
    for photograph in photographs:
        if photograph.path.name not in SHOWN_TO_THE_MODEL:
            continue
        model_input = to_pil_image(to_pixels(photograph.picture, preprocessing), preprocessing)
        size = f"{photograph.picture.width} × {photograph.picture.height} pixels"
        shown = (
            (photograph.tag(420), f"The photograph, {size}"),
            (image_tag(model_input, "the same photograph as model input"), f"Model input, {width} × {height} pixels"),
            (
                image_tag(with_grid(model_input, rows, columns), "the same photograph divided into cells"),
                f"Its {columns} × {rows} cells, each of which becomes a feature vector",
            ),
        )
        parts = (f"<figure>{tag}<figcaption>{caption}</figcaption></figure>" for tag, caption in shown)
        figures.append(f'<div class="seen">{"".join(parts)}</div>')
    return f"""<section><h2>What the model sees</h2>
<p>A photograph is resized to the shape that the network was trained with, and its values are normalized. The middle
column converts these numbers back to a picture: what is not in it, the model cannot know.</p>
<div class="seens">{"".join(figures)}</div></section>"""


def cells(encoder: DualEncoder) -> tuple[int, int]:
    """Return rows and columns of the image encoder's grid."""
    preprocessing = encoder.loaded.preprocessing
    return token_grid(encoder.network.image, preprocessing.height, preprocessing.width)


def with_grid(picture: Image.Image, rows: int, columns: int) -> Image.Image:
    """Draw the grid onto an enlarged picture."""
    large = picture.resize((picture.width * 2, picture.height * 2))
    draw = ImageDraw.Draw(large, "RGBA")
    for row in range(1, rows):
        y = round(row * large.height / rows)
        draw.line((0, y, large.width, y), fill=(255, 255, 255, 190), width=2)
    for column in range(1, columns):
        x = round(column * large.width / columns)
        draw.line((x, 0, x, large.height), fill=(255, 255, 255, 190), width=2)
    return large


def matrix(photographs: list[Photograph], cosines: np.ndarray, match: np.ndarray, best: int) -> str:
    """Return the similarity matrix as a table; cosines and match are (n photographs, n sentences)."""
    top = "".join(f'<th scope="col">{photograph.tag(96)}</th>' for photograph in photographs)
    rows = []
    for row, photograph in enumerate(photographs):
        parts = []
        for column in range(len(photographs)):
            percent = 100 * match[column, row]
            classes = " ".join(["own"] * (row == column) + ["strong"] * bool(percent > 55))
            title = f"cosine {cosines[column, row]:.3f}"
            parts.append(f'<td class="{classes}" style="--match:{percent:.0f}" title="{title}">{percent:.0f}</td>')
        rows.append(f'<tr><th scope="row">{html.escape(photograph.caption)}</th>{"".join(parts)}</tr>')
    return f"""<section><h2>Every photograph with every caption</h2>
<p>Each cell shows <em>match</em> in percent: the probability that the sentence fits the photograph, assuming even odds
beforehand. Hover over a cell to see the underlying cosine. Framed cells pair a photograph with its own caption. For
{best} of {len(photographs)} photographs, their own caption scores highest.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Similarity matrix"><table class="matrix">
<thead><tr><th></th>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>"""


def zero_shot(encoder: DualEncoder, photographs: list[Photograph], images: np.ndarray) -> tuple[int, str]:
    """Return how many photographs get their own label, and the section that shows the labels."""
    labels = [*dict.fromkeys(photograph.label for photograph in photographs), *DISTRACTORS]
    ranked = encoder.classify_embeddings(images, labels, encoder.embed_labels(labels))
    right = 0
    cards = []
    for photograph, answer in zip(photographs, ranked, strict=True):
        names = [name for name, _ in answer]
        bars = []
        for name, share in answer[:LABELS_SHOWN]:
            own = "bar right" if name == photograph.label else "bar"
            bars.append(
                f'<div class="{own}"><span>{html.escape(name)}</span>'
                f'<i style="--share:{100 * share:.1f}"></i><span>{share:.0%}</span></div>'
            )
        place = names.index(photograph.label) + 1
        right += place == 1
        verdict = (
            '<p class="verdict right">✓ right</p>'
            if place == 1
            else f'<p class="verdict wrong">✗ {html.escape(photograph.label)} is ranked {place}</p>'
        )
        cards.append(f'<div class="card">{photograph.tag(200)}<div>{"".join(bars)}{verdict}</div></div>')
    section = f"""<section><h2>Zero-shot classification</h2>
<p>Each photograph is classified among {len(labels)} labels, {len(DISTRACTORS)} of which fit none of them
({", ".join(DISTRACTORS)}). For {right} of {len(photographs)} the top label is the human one.</p>
<div class="cards">{"".join(cards)}</div></section>"""
    return right, section


def search(encoder: DualEncoder, photographs: list[Photograph], images: np.ndarray) -> str:
    """Return the section with the best photographs for sentences that are not captions, in English and Chinese."""
    sentences = [sentence for pair in SEARCHES for sentence in (pair if encoder.loaded.multilingual else pair[:1])]
    vectors = encoder.embed_texts(sentences)  # (m, E)
    match = encoder.match(images, vectors, sentences)  # (n, m)
    parts = []
    for column, sentence in enumerate(sentences):
        order = np.argsort(-match[:, column])[:FOUND_SHOWN]
        figures = "".join(
            f"<figure>{photographs[row].tag(280)}<figcaption>match {match[row, column]:.0%}</figcaption></figure>"
            for row in order
        )
        parts.append(f'<h3>“{html.escape(sentence)}”</h3><div class="found">{figures}</div>')
    return f"""<section><h2>Search</h2>
<p>The {FOUND_SHOWN} best photographs for sentences that are not captions, best first. There is always a best one; a low
match means that it hardly fits.</p>{"".join(parts)}</section>"""


def captions_and_answers(model: VisionLanguageModel, photographs: list[Photograph]) -> str:
    """Return the section with a generated caption and two answers for each photograph."""
    cards = []
    for photograph, caption in zip(photographs, model.caption([p.path for p in photographs]), strict=True):
        answers = ""
        for question in QUESTIONS:
            answer = model.ask(photograph.path, question)
            answers += (
                f'<p class="turn"><span class="soft">{html.escape(question)}</span> {html.escape(answer.text)} '
                f'<span class="soft">({answer.confidence:.0%})</span></p>'
            )
        generated = f'<p class="written">{html.escape(caption)}</p>{answers}'
        cards.append(f'<div class="card">{photograph.tag(200)}<div>{generated}</div></div>')
    return f"""<section><h2>Captions and answers</h2>
<p>A generated caption for each photograph, and the answers to two questions with the probability that the model assigns
to them. A caption often names the main thing, and as often gets its details wrong.</p>
<div class="cards">{"".join(cards)}</div></section>"""


def footer(model: str, writer: str) -> str:
    """Return the footer, with the sources of models and photographs."""
    made = "mini: a frozen EfficientNet-Lite2 and a frozen MiniLM, joined by two small heads trained on captions"
    described = made if model == "mini" else html.escape(model)
    bridge = "a Q-Former between the same EfficientNet-Lite2 and a frozen SmolLM2-135M"
    described += "; captions and answers: " + (bridge if writer == "mini" else html.escape(writer))
    return f"""<footer><p>Model: {described}.</p>
<p>Photographs: in the public domain or under <a href="{LICENCES}">CC0</a>; authors and origins are listed in
demo/photographs/LICENCES.md.</p></footer>"""


def page(content: str) -> str:
    """Return the whole document."""
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>What Beholder sees</title><style>
{style}</style></head><body>{content}</body></html>
"""


def image_tag(picture: Image.Image, alternative: str) -> str:
    """Return an ``<img>`` with the picture embedded as JPEG."""
    data = BytesIO()
    picture.save(data, "JPEG", quality=85)
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{html.escape(alternative)}">'


if __name__ == "__main__":
    try:
        main()
    except BeholderError as error:
        sys.exit(f"demo: {error}")
