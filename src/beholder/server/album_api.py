"""Albums: contents, search, pictures by number, and captions and tags by hand.

A picture of an album can be given wherever a picture is expected, as ``album:NAME/NUMBER``.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from beholder.album.duplicates import DISTANCE
from beholder.errors import AlbumError
from beholder.server.album_indexing import AllowedFolders
from beholder.server.albums import SearchQuery, ServedAlbum, to_row
from beholder.server.dependencies import get_service
from beholder.server.schemas import ImageURL, StrictModel, parse_digits

router = APIRouter(prefix="/v1")

MAX_ID = 2**63 - 1


AlbumName = Annotated[str, Path(max_length=500)]
PictureID = Annotated[int, BeforeValidator(parse_digits), Path(ge=1, le=MAX_ID)]
PictureIDs = Annotated[
    str, Query(pattern=r"^[0-9]{1,18}(,[0-9]{1,18}){0,199}$", description="Up to 200, separated by commas.")
]
Where = Annotated[str, Query(max_length=10_000, description="A filter, as in `beholder search --where`.")]
Order = Annotated[Literal["path", "newest", "oldest"], Query()]
CaptionText = Annotated[str, Field(max_length=2000)]
FolderName = Annotated[str, Field(max_length=4000)]
Tag = Annotated[str, Field(min_length=1, max_length=200)]


class SearchRequest(StrictModel):
    """A query: text, a picture of the album (``like``), another picture, or several of these combined."""

    query: Annotated[str, Field(max_length=2000)] = ""
    like: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    image: ImageURL | None = None
    minus: Annotated[str, Field(max_length=2000)] = ""
    where: Annotated[str, Field(max_length=10_000)] | None = None
    top: Annotated[int, Field(ge=1, le=1000)] = 10
    album: str | None = None


class DescribeRequest(StrictModel):
    """A caption and tags by hand. Omitted fields stay unchanged; an empty caption removes it."""

    caption: CaptionText | None = None
    tags: Annotated[list[Tag], Field(max_length=100)] | None = None
    into_file: bool = False


class MarksRequest(StrictModel):
    """A rating, a label and tags by hand for many pictures. What is omitted stays; an empty label removes it."""

    ids: Annotated[list[Annotated[int, Field(ge=1, le=MAX_ID)]], Field(min_length=1, max_length=20_000)]
    rating: Annotated[int, Field(ge=-1, le=5)] | None = None
    label: Annotated[str, Field(max_length=50)] | None = None
    add_tags: Annotated[list[Tag], Field(max_length=100)] = Field(default=[])
    remove_tags: Annotated[list[Tag], Field(max_length=100)] = Field(default=[])


class IndexRequest(StrictModel):
    """The folders to add, as `/v1/folders` names them; none to update the album with those indexed before."""

    folders: Annotated[list[FolderName], Field(max_length=100)] = Field(default=[])


class GroupsRequest(StrictModel):
    """The number of clusters, null to choose it automatically; without keywords, names come from captions."""

    clusters: Annotated[int, Field(ge=1, le=1000)] | None = None
    keywords: list[Tag] = Field(default=[], max_length=200)
    where: Annotated[str, Field(max_length=10_000)] | None = None


UNFINISHED: dict[int | str, dict[str, Any]] = {202: {"description": "It is being computed; ask again."}}


@router.get("/albums")
async def albums(request: Request) -> dict[str, Any]:
    """All served albums."""
    service = get_service(request)
    service.check_ready()
    data = [
        {"id": name, "object": "album", "pictures": await asyncio.to_thread(len, album.catalogue)}
        for name, album in service.albums.items()
    ]
    read_only = service.settings.read_only
    return {"object": "list", "data": data, "read_only": read_only}


@router.get("/folders")
async def folders(request: Request, parent: Annotated[str, Query(max_length=4000)] = "") -> dict[str, Any]:
    """The folders that may be added to albums, or those below one of them."""
    service = get_service(request)
    service.check_ready()
    allowed = AllowedFolders([] if service.settings.read_only else service.settings.folders)
    return {"object": "list", "data": await asyncio.to_thread(allowed.subfolders, parent)}


@router.get("/albums/{album}")
async def album(request: Request, album: AlbumName) -> dict[str, Any]:
    """The number of pictures, and the values that filters can select, each with its number of pictures."""
    served = _album(request, album)
    facets = asdict(await asyncio.to_thread(served.catalogue.facets))
    return {"id": served.name, "object": "album", **facets}


@router.get("/albums/{album}/ids")
async def ids(
    request: Request, album: AlbumName, where: Where = "", order: Order = "path", layout: bool = False
) -> dict[str, Any]:
    """The numbers of all pictures that a filter selects, in order.

    With ``layout``, also the width of each as a percentage of its height, and the months in which they were taken, each
    with the number of consecutive pictures.
    """
    served = _album(request, album)
    if not layout:
        return {"album": served.name, "ids": await asyncio.to_thread(served.catalogue.contents, where, order)}
    rows = await asyncio.to_thread(served.catalogue.layout, where, order)
    months = [[month, len(list(run))] for month, run in groupby(rows, key=lambda row: row.month)]
    return {
        "album": served.name,
        "ids": [row.content for row in rows],
        "ratios": [row.ratio for row in rows],
        "months": months,
    }


@router.post("/albums/{album}/marks")
async def marks(request: Request, album: AlbumName, body: MarksRequest) -> dict[str, Any]:
    """Rate, label and tag many pictures by hand; returns how many of them are in the album."""
    served = _album(request, album)
    changed = await asyncio.to_thread(served.rate, body.ids, body.rating, body.label, body.add_tags, body.remove_tags)
    return {"album": served.name, "changed": changed}


@router.post("/albums/{album}/index", status_code=202)
async def start_indexing(request: Request, album: AlbumName, body: IndexRequest) -> dict[str, Any]:
    """Start adding folders to the album, or updating it."""
    served = _album(request, album)
    allowed = AllowedFolders(get_service(request).settings.folders)
    paths = [await asyncio.to_thread(allowed.resolve, name) for name in body.folders]
    await asyncio.to_thread(served.start_indexing, paths)
    return {"album": served.name, **asdict(served.indexer.progress)}


@router.get("/albums/{album}/index")
async def indexing_progress(request: Request, album: AlbumName) -> dict[str, Any]:
    """The progress, or the result, of the last index run that was started here."""
    served = _album(request, album)
    return {"album": served.name, **asdict(served.indexer.progress)}


@router.delete("/albums/{album}/index")
async def stop_indexing(request: Request, album: AlbumName) -> dict[str, Any]:
    """Stop the index run; what was indexed is kept."""
    served = _album(request, album)
    served.check_writable()
    served.indexer.stop()
    return {"album": served.name, **asdict(served.indexer.progress)}


@router.get("/albums/{album}/pictures")
async def pictures(request: Request, album: AlbumName, ids: PictureIDs) -> dict[str, Any]:
    """Pictures by their numbers, in the order given; numbers no longer in the album are left out."""
    served = _album(request, album)
    numbers = [int(number) for number in ids.split(",")]
    known = await asyncio.to_thread(served.catalogue.get_pictures, numbers)
    return {"album": served.name, "data": [to_row(known[number]) for number in numbers if number in known]}


@router.get("/albums/{album}/pictures/{id}")
async def picture(request: Request, album: AlbumName, id: PictureID) -> dict[str, Any]:
    """All that is known of one picture; ``own_tags`` are those given by hand."""
    return await asyncio.to_thread(_album(request, album).details, id)


@router.put("/albums/{album}/pictures/{id}")
async def describe(request: Request, album: AlbumName, id: PictureID, body: DescribeRequest) -> dict[str, Any]:
    """Save a caption and tags by hand; ``into_file`` writes the caption into the metadata of the files, too."""
    served = _album(request, album)
    await asyncio.to_thread(served.describe, id, body.caption, body.tags, body.into_file)
    return await asyncio.to_thread(served.details, id)


@router.get("/albums/{album}/pictures/{id}/thumbnail")
async def thumbnail(request: Request, album: AlbumName, id: PictureID) -> Response:
    """A small JPEG."""
    return await _rendering(request, _album(request, album), id, "thumbnail")


@router.get("/albums/{album}/pictures/{id}/view")
async def view(request: Request, album: AlbumName, id: PictureID) -> Response:
    """A JPEG of screen size."""
    return await _rendering(request, _album(request, album), id, "view")


@router.post("/albums/{album}/groups", response_model=None, responses=UNFINISHED)
async def groups(request: Request, album: AlbumName, body: GroupsRequest) -> dict[str, Any] | Response:
    """Clusters of similar pictures, the largest first, each with the numbers of its pictures."""
    served = _album(request, album)
    return _job_response(served, await served.groups(body.clusters, body.keywords, body.where), "data")


@router.get("/albums/{album}/map", response_model=None, responses=UNFINISHED)
async def map_of(request: Request, album: AlbumName, where: Where = "") -> dict[str, Any] | Response:
    """The positions of the pictures on a map: numbers, and ``x`` and ``y`` within ±1."""
    served = _album(request, album)
    return _job_response(served, await served.map(where), None)


@router.get("/albums/{album}/duplicates", response_model=None, responses=UNFINISHED)
async def duplicates(
    request: Request, album: AlbumName, where: Where = "", distance: Annotated[float, Query(ge=0, le=1)] = DISTANCE
) -> dict[str, Any] | Response:
    """Groups of near-duplicates, the picture to keep first."""
    served = _album(request, album)
    return _job_response(served, await served.duplicates(where, distance), "data")


@router.post("/search")
async def search(request: Request, body: SearchRequest) -> dict[str, Any]:
    """The pictures that match a query best; ``fits`` tells whether any stands out at all."""
    service = get_service(request)
    served = service.album(body.album)
    image = None
    if body.image is not None:
        if served.preprocessing is None:
            raise AlbumError("no model has been used with it")
        image = (await service.reader.load([body.image], served.preprocessing))[0]
    query = SearchQuery(body.query, body.like, image, body.minus, body.where, body.top)
    data = [
        to_row(found.picture) | {"score": found.score, "match": found.match, "named": found.named, "fits": found.fits}
        for found in await served.search(query)
    ]
    return {"album": served.name, "data": data}


def _album(request: Request, name: str) -> ServedAlbum:
    return get_service(request).album(name)


async def _rendering(request: Request, served: ServedAlbum, content: int, kind: str) -> Response:
    """Return a picture, or 304 if the browser has it: the same URL may have served another album's picture before."""
    etag = await asyncio.to_thread(served.etag, content)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(None, 304, headers)
    data = await served.reader.run(served.render, content, kind)
    return Response(data, media_type="image/jpeg", headers=headers)


def _job_response(served: ServedAlbum, result: Any, name: str | None) -> dict[str, Any] | Response:
    """Return the result of a background job, or 202 while it is being computed."""
    if result is None:
        return JSONResponse({"album": served.name, "object": "unfinished"}, 202, {"Retry-After": "1"})
    return {"album": served.name, **({name: result} if name else result)}
