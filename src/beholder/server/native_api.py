"""Beholder's native API: classification, similarity, captions, and attention maps of captions."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from beholder.server.dependencies import get_service
from beholder.server.schemas import ImageURL, StrictModel, Text
from beholder.server.served_models import SamplingParams
from beholder.text.templates import SINGLE

router = APIRouter(prefix="/v1")

ShortText = Annotated[str, Field(min_length=1, max_length=2000)]
Label = Annotated[str, Field(min_length=1, max_length=200)]


class ClassifyRequest(StrictModel):
    """A picture and candidate labels; the options are those of ``beholder classify``."""

    image: ImageURL
    labels: Annotated[list[Label], Field(min_length=1, max_length=1000)]
    template: ShortText | Annotated[list[ShortText], Field(min_length=1, max_length=16)] = SINGLE[0]
    none: bool = False
    multi: bool = False
    top: Annotated[int, Field(ge=1)] | None = None
    model: str | None = None


class SimilarityRequest(StrictModel):
    """Pictures and texts."""

    images: Annotated[list[ImageURL], Field(min_length=1, max_length=64)]
    texts: Annotated[list[ShortText], Field(min_length=1, max_length=1000)]
    model: str | None = None


class CaptionRequest(StrictModel):
    """A picture; the options are those of ``beholder caption``."""

    image: ImageURL
    prompt: Annotated[str, Field(max_length=2000)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=256)] = 20
    num_beams: Annotated[int, Field(ge=1, le=8)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    candidates: Annotated[int, Field(ge=1, le=16)] | None = None
    model: str | None = None


class AttentionRequest(StrictModel):
    """A picture and a caption, by default the model's own."""

    image: ImageURL
    text: Annotated[Text, Field(min_length=1, max_length=2000)] | None = None
    model: str | None = None


@router.post("/classify")
async def classify(request: Request, body: ClassifyRequest) -> dict[str, Any]:
    """The labels with their probabilities, best first."""
    encoder = get_service(request).encoder(body.model)
    templates = (body.template,) if isinstance(body.template, str) else tuple(body.template)
    ranked = await encoder.classify([body.image], body.labels, templates, body.none, body.multi)
    labels = [{"label": label, "probability": probability} for label, probability in ranked[: body.top]]
    return {"model": encoder.name, "labels": labels}


@router.post("/similarity")
async def similarity(request: Request, body: SimilarityRequest) -> dict[str, Any]:
    """Cosines, one row per picture; ``match`` is the probability that each text fits, null without a calibration."""
    encoder = get_service(request).encoder(body.model)
    await encoder.count_tokens(body.texts)
    images = await encoder.embed_images(body.images)
    texts = await encoder.embed_texts(body.texts)
    match = encoder.model.match(images, texts, body.texts).tolist() if encoder.model.calibrated else None
    return {"model": encoder.name, "cosines": (images @ texts.T).tolist(), "match": match}


@router.post("/caption")
async def caption(request: Request, body: CaptionRequest) -> dict[str, Any]:
    """A caption: of several ``candidates``, by default as many as the model prefers, the one that fits best.

    All candidates are returned with their scores.
    """
    vlm = get_service(request).vlm(body.model)
    sampling = SamplingParams(body.max_new_tokens, body.top_p, seed=body.seed)
    result = await vlm.caption([body.image], body.prompt, sampling, body.num_beams, body.candidates)
    candidates = [{"caption": text, "score": score} for text, score in result.candidates]
    return {"model": vlm.name, "caption": result.text, "score": result.score, "candidates": candidates}


@router.post("/attention")
async def attention(request: Request, body: AttentionRequest) -> dict[str, Any]:
    """The cross-attention map of each word of a caption: rows from the top, each map sums to 1.

    The maps lie over ``seen``: the picture as the network sees it, a PNG as a data URL.
    """
    vlm = get_service(request).vlm(body.model)
    attention_maps, image = await vlm.attention_maps([body.image], body.text)
    file = BytesIO()
    image.save(file, "PNG")
    return {
        "model": vlm.name,
        "words": attention_maps.words,
        "maps": attention_maps.maps.tolist(),
        "overall": attention_maps.overall.tolist(),
        "seen": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
    }
