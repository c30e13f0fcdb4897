"""Our own part of the interface: labels, similarity, captions, and where a caption was looked for."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from beholder.server.openai_api import Address, Strict, Text, service_of
from beholder.server.service import Drawing
from beholder.text.templates import SINGLE

router = APIRouter(prefix="/v1")

Sentence = Annotated[str, Field(min_length=1, max_length=2000)]


class ClassifyRequest(Strict):
    """A picture and the labels to choose from; the options are those of ``beholder classify``."""

    image: Address
    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=1000)]
    template: Sentence | Annotated[list[Sentence], Field(min_length=1, max_length=16)] = SINGLE[0]
    none: bool = False
    multi: bool = False
    top: Annotated[int, Field(ge=1)] | None = None
    model: str | None = None


class SimilarityRequest(Strict):
    """Pictures and sentences."""

    images: Annotated[list[Address], Field(min_length=1, max_length=64)]
    texts: Annotated[list[Sentence], Field(min_length=1, max_length=1000)]
    model: str | None = None


class CaptionRequest(Strict):
    """A picture; the options are those of ``beholder caption``."""

    image: Address
    prompt: Annotated[str, Field(max_length=2000)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=256)] = 20
    num_beams: Annotated[int, Field(ge=1, le=8)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    candidates: Annotated[int, Field(ge=1, le=16)] | None = None
    model: str | None = None


class AttentionRequest(Strict):
    """A picture and a caption, the model's own by default."""

    image: Address
    text: Annotated[Text, Field(min_length=1, max_length=2000)] | None = None
    model: str | None = None


@router.post("/classify")
async def classify(request: Request, asked: ClassifyRequest) -> dict[str, Any]:
    """Which label fits, with probabilities, best first."""
    encoder = service_of(request).encoder(asked.model)
    templates = (asked.template,) if isinstance(asked.template, str) else tuple(asked.template)
    ranked = await encoder.classify([asked.image], asked.labels, templates, asked.none, asked.multi)
    rows = [{"label": label, "probability": share} for label, share in ranked[: asked.top]]
    return {"model": encoder.name, "labels": rows}


@router.post("/similarity")
async def similarity(request: Request, asked: SimilarityRequest) -> dict[str, Any]:
    """Cosines, a row for each picture; ``match`` is the probability that each fits, null without a calibration."""
    encoder = service_of(request).encoder(asked.model)
    await encoder.count(asked.texts)
    images = await encoder.embed_pictures(asked.images)
    texts = await encoder.embed_texts(asked.texts)
    match = encoder.model.match(images, texts).tolist() if encoder.model.calibrated else None
    return {"model": encoder.name, "cosines": (images @ texts.T).tolist(), "match": match}


@router.post("/caption")
async def caption(request: Request, asked: CaptionRequest) -> dict[str, Any]:
    """A sentence; of several ``candidates``, the model's own number by default, the one that fits best.

    The others come with it, each with its score.
    """
    writer = service_of(request).writer(asked.model)
    drawing = Drawing(asked.max_new_tokens, asked.top_p, seed=asked.seed)
    written = await writer.caption([asked.image], asked.prompt, drawing, asked.num_beams, asked.candidates)
    candidates = [{"caption": text, "score": score} for text, score in written.candidates]
    return {"model": writer.name, "caption": written.text, "score": written.score, "candidates": candidates}


@router.post("/attention")
async def attention(request: Request, asked: AttentionRequest) -> dict[str, Any]:
    """For each word of a caption a map (rows, from the top) of where it was looked for; each adds up to 1.

    The maps lie over ``seen``: the picture as the network sees it, a PNG as a data address.
    """
    writer = service_of(request).writer(asked.model)
    attention_maps, seen = await writer.attention_maps([asked.image], asked.text)
    file = BytesIO()
    seen.save(file, "PNG")
    return {
        "model": writer.name,
        "words": attention_maps.words,
        "maps": attention_maps.maps.tolist(),
        "overall": attention_maps.overall.tolist(),
        "seen": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
    }
