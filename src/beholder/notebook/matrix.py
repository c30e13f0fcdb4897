"""Similarities of pictures and sentences, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beholder.notebook.markup import escape_html, img_tag, thumbnail_jpeg
from beholder.pictures.read import ImageSource, display_name
from beholder.tasks.dual_encoder import DualEncoder

SIDE = 160  # pixels of a thumbnail's longer side
IMAGE = "width:5rem;height:4rem;object-fit:cover;border-radius:4px"
CELL = "text-align:center;padding:.35em .6em;font-variant-numeric:tabular-nums;border-radius:4px"


@dataclass(frozen=True, eq=False)
class SimilarityMatrix:
    """How well sentences match pictures; created by `beholder.notebook.similarity`.

    Attributes:
        names: names of the n pictures.
        texts: m sentences.
        cosines: (n, m).
        match: (n, m), matching probabilities; None for a model without a calibration.
    """

    names: list[str]
    texts: list[str]
    cosines: np.ndarray
    match: np.ndarray | None
    thumbnails: list[bytes]

    @classmethod
    def of(cls, encoder: DualEncoder, images: Sequence[ImageSource], texts: Sequence[str]) -> SimilarityMatrix:
        """Compute the similarities.

        Raises:
            PictureError: a picture can't be used.
        """
        pictures, sentences = encoder.embed_images(images), encoder.embed_texts(texts)
        return cls(
            [display_name(image, index) for index, image in enumerate(images)],
            list(texts),
            pictures @ sentences.T,
            encoder.match(pictures, sentences, list(texts)) if encoder.calibrated else None,
            [thumbnail_jpeg(image, index, SIDE) for index, image in enumerate(images)],
        )

    def __repr__(self) -> str:
        return f"Matrix of {len(self.names)} pictures and {len(self.texts)} sentences"

    def _repr_html_(self) -> str:
        best = self.cosines.argmax(1)
        low, high = float(self.cosines.min()), float(self.cosines.max())
        head = "".join(
            f'<th scope="col" style="{CELL};font-weight:500">{escape_html(text)}</th>' for text in self.texts
        )
        rows = []
        for row, (name, thumbnail) in enumerate(zip(self.names, self.thumbnails, strict=True)):
            cells = []
            for column in range(len(self.texts)):
                cosine = float(self.cosines[row, column])
                strength = (
                    float(self.match[row, column]) if self.match is not None else (cosine - low) / max(high - low, 1e-9)
                )
                number = f"{cosine:.2f}" if self.match is None else f"{strength:.0%}"
                number = f"<b>{number}</b>" if column == best[row] else number
                style = f"{CELL};background:rgba(31,111,178,{0.05 + 0.55 * strength:.2f})"
                cells.append(f'<td style="{style}" title="cosine {cosine:.3f}">{number}</td>')
            picture = f'<th scope="row" title="{escape_html(name)}">{img_tag(thumbnail, name, IMAGE)}</th>'
            rows.append(f"<tr>{picture}{''.join(cells)}</tr>")
        return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
