"""Indexes of shards: search, and columns, vectors and thumbnails by number."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BeforeValidator, Field

from beholder.server.dependencies import get_service
from beholder.server.http_errors import HTTPError
from beholder.server.indexes import ServedIndex
from beholder.server.schemas import ImageURL, StrictModel, parse_digits

router = APIRouter(prefix="/v1/vectors")

IndexName = Annotated[str, Path(max_length=500)]
RowNumber = Annotated[int, BeforeValidator(parse_digits), Path(ge=0, le=2**63 - 1)]
Words = Annotated[str, Field(max_length=2000)]


class VectorSearchRequest(StrictModel):
    """A query: text, a picture, or both; text and a picture to subtract; a filter over the columns."""

    query: Words = ""
    image: ImageURL | None = None
    minus: Words = ""
    minus_image: ImageURL | None = None
    where: Annotated[str, Field(max_length=10_000, description="As in `beholder search --vectors --where`.")] | None = (
        None
    )
    top: Annotated[int, Field(ge=1, le=1000)] = 10
    index: str | None = None


@router.get("")
async def indexes(request: Request) -> dict[str, Any]:
    """All served indexes."""
    service = get_service(request)
    service.check_ready()
    data = [
        {"id": name, "object": "index", "pictures": len(served.index), "model": served.encoder.name}
        for name, served in service.indexes.items()
    ]
    return {"object": "list", "data": data}


@router.post("/search")
async def search(request: Request, body: VectorSearchRequest) -> dict[str, Any]:
    """The pictures that come closest to a query, best first; ``score`` is the cosine."""
    served = get_service(request).index(body.index)
    if not body.query and body.image is None:
        raise HTTPError(400, "query: give words, a picture, or both", code="invalid_value", param="query")
    data = await served.search(body.query, body.image, body.minus, body.minus_image, body.where or "", body.top)
    return {"index": served.name, "data": data}


@router.get("/{index}/rows/{id}")
async def row(request: Request, index: IndexName, id: RowNumber) -> dict[str, Any]:
    """The columns of one picture."""
    return {"id": id} | await _index(request, index).row(id)


@router.get("/{index}/rows/{id}/vector")
async def vector(request: Request, index: IndexName, id: RowNumber) -> dict[str, Any]:
    """The vector of one picture, as it is stored: of unit length, in half precision."""
    return {"id": id, "embedding": (await _index(request, index).vector(id)).tolist()}


@router.get("/{index}/rows/{id}/thumbnail")
async def thumbnail(request: Request, index: IndexName, id: RowNumber) -> Response:
    """The thumbnail of one picture, a JPEG, if the pictures were embedded with `--thumbnails`."""
    data = await _index(request, index).thumbnail(id)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, no-cache"})


def _index(request: Request, name: str) -> ServedIndex:
    return get_service(request).index(name)
