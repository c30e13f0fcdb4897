"""Albums: what is in them, searching, pictures by number, and what a person says of them.

A picture of an album can be named wherever a picture is asked for, as ``album:NAME/NUMBER``.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from beholder.album.duplicates import DISTANCE
from beholder.errors import AlbumError
from beholder.server.albums import ServedAlbum, Wish, row
from beholder.server.openai_api import Address, Strict, service_of

router = APIRouter(prefix="/v1")

LARGEST = 2**63 - 1
Name = Annotated[str, Path(max_length=500)]
Number = Annotated[int, Path(ge=1, le=LARGEST)]
Numbers = Annotated[str, Query(pattern=r"^[0-9]{1,18}(,[0-9]{1,18}){0,199}$", description="Up to 200, with commas.")]
Where = Annotated[str, Query(max_length=10_000, description="A filter, as in `beholder search --where`.")]
Order = Annotated[Literal["path", "newest", "oldest"], Query()]
Caption = Annotated[str, Field(max_length=2000)]
Tag = Annotated[str, Field(min_length=1, max_length=200)]


class SearchRequest(Strict):
    """What to look for: words, a picture of the album (``like``), another picture, or several of these at once."""

    query: Annotated[str, Field(max_length=2000)] = ""
    like: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    image: Address | None = None
    minus: Annotated[str, Field(max_length=2000)] = ""
    where: Annotated[str, Field(max_length=10_000)] | None = None
    top: Annotated[int, Field(ge=1, le=1000)] = 10
    album: str | None = None


class DescribeRequest(Strict):
    """What a person says of a picture; what is left out stays as it is, and an empty caption is taken away."""

    caption: Caption | None = None
    tags: Annotated[list[Tag], Field(max_length=100)] | None = None
    into_file: bool = False


class GroupsRequest(Strict):
    """How many groups, None for as many as there are; without names to choose from, they come from captions."""

    clusters: Annotated[int, Field(ge=1, le=1000)] | None = None
    keywords: list[Tag] = Field(default=[], max_length=200)
    where: Annotated[str, Field(max_length=10_000)] | None = None


UNFINISHED: dict[int | str, dict[str, Any]] = {202: {"description": "It is being made; ask again."}}


@router.get("/albums")
async def albums(request: Request) -> dict[str, Any]:
    """All albums that are served."""
    service = service_of(request)
    service.check_ready()
    found = [
        {"id": name, "object": "album", "pictures": await asyncio.to_thread(len, album.catalogue)}
        for name, album in service.albums.items()
    ]
    return {"object": "list", "data": found, "read_only": service.settings.read_only}


@router.get("/albums/{album}")
async def album(request: Request, album: Name) -> dict[str, Any]:
    """How many pictures there are, and what filters can choose from, each with its number of pictures."""
    served = _album(request, album)
    facets = asdict(await asyncio.to_thread(served.catalogue.facets))
    return {"id": served.name, "object": "album", **facets}


@router.get("/albums/{album}/ids")
async def ids(request: Request, album: Name, where: Where = "", order: Order = "path") -> dict[str, Any]:
    """The numbers of all pictures that a filter lets through, in order."""
    served = _album(request, album)
    return {"album": served.name, "ids": await asyncio.to_thread(served.catalogue.contents, where, order)}


@router.get("/albums/{album}/pictures")
async def pictures(request: Request, album: Name, ids: Numbers) -> dict[str, Any]:
    """Pictures by their numbers, in this order; those that are gone are left out."""
    served = _album(request, album)
    numbers = [int(number) for number in ids.split(",")]
    known = await asyncio.to_thread(served.catalogue.get_pictures, numbers)
    return {"album": served.name, "data": [row(known[number]) for number in numbers if number in known]}


@router.get("/albums/{album}/pictures/{id}")
async def picture(request: Request, album: Name, id: Number) -> dict[str, Any]:
    """All that is known of one picture; ``own_tags`` are those that a person gave it."""
    return await asyncio.to_thread(_album(request, album).details, id)


@router.put("/albums/{album}/pictures/{id}")
async def describe(request: Request, album: Name, id: Number, said: DescribeRequest) -> dict[str, Any]:
    """A caption and tags by hand; ``into_file`` puts the caption into the metadata of the picture's files, too."""
    served = _album(request, album)
    await asyncio.to_thread(served.describe, id, said.caption, said.tags, said.into_file)
    return await asyncio.to_thread(served.details, id)


@router.get("/albums/{album}/pictures/{id}/thumbnail")
async def thumbnail(request: Request, album: Name, id: Number) -> Response:
    """A small JPEG."""
    return await _shown(request, _album(request, album), id, "thumbnail")


@router.get("/albums/{album}/pictures/{id}/view")
async def view(request: Request, album: Name, id: Number) -> Response:
    """A JPEG for a screen."""
    return await _shown(request, _album(request, album), id, "view")


@router.post("/albums/{album}/groups", response_model=None, responses=UNFINISHED)
async def groups(request: Request, album: Name, asked: GroupsRequest) -> dict[str, Any] | Response:
    """Pictures that go together, the largest group first, each with the numbers of its pictures."""
    served = _album(request, album)
    return _finished(served, await served.groups(asked.clusters, asked.keywords, asked.where), "data")


@router.get("/albums/{album}/map", response_model=None, responses=UNFINISHED)
async def map_of(request: Request, album: Name, where: Where = "") -> dict[str, Any] | Response:
    """Where the pictures lie on a map: numbers, and ``x`` and ``y`` within ±1."""
    served = _album(request, album)
    return _finished(served, await served.map(where), None)


@router.get("/albums/{album}/duplicates", response_model=None, responses=UNFINISHED)
async def duplicates(
    request: Request, album: Name, where: Where = "", distance: Annotated[float, Query(ge=0, le=1)] = DISTANCE
) -> dict[str, Any] | Response:
    """Pictures that are nearly the same, in groups, the one to keep first."""
    served = _album(request, album)
    return _finished(served, await served.duplicates(where, distance), "data")


@router.post("/search")
async def search(request: Request, asked: SearchRequest) -> dict[str, Any]:
    """The pictures that go best with what is looked for; ``fits`` says whether one stands out at all."""
    service = service_of(request)
    served = service.album(asked.album)
    image = None
    if asked.image is not None:
        if served.preprocessing is None:
            raise AlbumError("no model has been used with it")
        image = (await service.read([asked.image], served.preprocessing))[0]
    wish = Wish(asked.query, asked.like, image, asked.minus, asked.where, asked.top)
    found = await served.search(wish)
    data = [
        row(each.picture) | {"score": each.score, "match": each.match, "named": each.named, "fits": each.fits}
        for each in found
    ]
    return {"album": served.name, "data": data}


def _album(request: Request, name: str) -> ServedAlbum:
    return service_of(request).album(name)


async def _shown(request: Request, served: ServedAlbum, content: int, kind: str) -> Response:
    """A picture, or 304 where the browser has it: numbers of another album may have been served here before."""
    tag = await asyncio.to_thread(served.tag, content)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    data = await served.service.in_reader(served.rendered, content, kind)
    return Response(data, media_type="image/jpeg", headers=headers)


def _finished(served: ServedAlbum, found: Any, name: str | None) -> dict[str, Any] | Response:
    """What takes long, once it is there; before, who asks is told to ask again."""
    if found is None:
        return JSONResponse({"album": served.name, "object": "unfinished"}, 202, {"Retry-After": "1"})
    return {"album": served.name, **({name: found} if name else found)}
