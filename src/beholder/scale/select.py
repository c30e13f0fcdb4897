"""Select pictures by their columns, drop duplicates, and write the rest as new shards that training reads.

Duplicates are files with the same bytes, and pictures whose vectors come closer than a cosine. These are looked for
within clusters only, as by Abbas et al., *SemDeDup: Data-efficient learning at web-scale through semantic
deduplication*, arXiv:2303.09540: of a row and an earlier one that come too close, the later one is dropped. Rows that
match their caption better come earlier.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tarfile import TarFile, TarInfo
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, PictureUnreadable
from beholder.pictures.formats import detect_format
from beholder.scale.parts import RunSettings, open_parts, part_metadata, part_names, read_settings, vectors_of
from beholder.scale.shards import read_shard
from beholder.scale.storage import Location
from beholder.scale.where import Term, columns_of, mask_of, numbers_of, parse_where
from beholder.text.json_lines import json_line

PER_CLUSTER = 1_000  # rows
TRAIN_PER_CLUSTER = 50
BLOCK = 1_000  # rows compared together
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}


@dataclass
class SelectSummary:
    """How many rows there were, and what became of them.

    Attributes:
        rows: in the parts.
        failed: without a vector.
        filtered: that the filter left out.
        identical: with the bytes of an earlier row.
        near: too close to an earlier row.
        selected: in the new shards.
        shards: new ones.
    """

    rows: int = 0
    failed: int = 0
    filtered: int = 0
    identical: int = 0
    near: int = 0
    selected: int = 0
    shards: int = 0


def select(
    source: str, out: str, where: str = "", dedup: float | None = None, per_shard: int = 10_000, timeout: float = 120.0
) -> SelectSummary:
    """Write the pictures of some parts that pass as new shards.

    Args:
        source: address of the parts.
        out: folder or address of the new shards; none are there yet.
        where: a filter (`parse_where`).
        dedup: cosine above which two pictures are duplicates; None drops only identical files.
        per_shard: pictures in a new shard.
        timeout: seconds without data after which reading a shard fails.

    Raises:
        InvalidFilter: of ``where``.
        InvalidSetting: there are no parts, there are new shards already, or ``match`` is asked of parts without it.
        ShardError: a shard of the source can't be read.
        PictureUnreadable: a shard has changed, or holds addresses of pictures and not their bytes.
        WriteFailed: a new shard can't be written.
    """
    terms, place, target = parse_where(where), Location.of(source), Location.of(out)
    try:
        settings = read_settings(place)
    except FileNotFoundError:
        raise InvalidSetting(f"{source}: beholder scale embed has written nothing here") from None
    if not settings.score and any(term.field in ("match", "cosine") for term in terms):
        raise InvalidSetting(f"{source}: its captions are not scored; embed with --score")
    if any(name.startswith("selected-") for name in target.names()):
        raise InvalidSetting(f"{out}: holds selected shards already; name another --out")
    summary = SelectSummary()
    with tempfile.TemporaryDirectory(prefix="beholder-select-") as scratch:
        rows = _passing(place, settings, terms, Path(scratch) / "vectors", summary, keep=dedup is not None)
        if dedup is not None:
            dropped = near_duplicates(rows.vectors, rows.quality, dedup)
            summary.near = int(dropped.sum())
            rows.kept[np.flatnonzero(rows.kept)[dropped]] = False
    _write_shards(place, target, rows, per_shard, timeout, summary)
    return summary


@dataclass
class _Rows:
    """All rows in order: names of parts with their first row, which are kept, and, of these, vectors and quality."""

    parts: list[tuple[str, int]]
    kept: np.ndarray
    vectors: np.ndarray
    quality: np.ndarray


def _passing(
    place: Location, settings: RunSettings, terms: Sequence[Term], scratch: Path, summary: SelectSummary, keep: bool
) -> _Rows:
    """Filter, and drop identical files; vectors are kept in a file."""
    seen: set[bytes] = set()
    parts, masks, qualities = [], [], []
    with scratch.open("wb") as file:
        for name, table in open_parts(place, part_names(place)):
            parts.append((name, summary.rows))
            rows = table.read(list(dict.fromkeys(["sha256", "match", "vector", *columns_of(terms)])))
            usable = ~rows["vector"].is_null().to_numpy()
            mask = usable & mask_of(rows, terms)
            summary.rows += len(rows)
            summary.failed += int((~usable).sum())
            summary.filtered += int((usable & ~mask).sum())
            for number in np.flatnonzero(mask):
                digest = rows["sha256"][int(number)].as_py()
                if digest in seen:
                    mask[number] = False
                    summary.identical += 1
                seen.add(digest)
            masks.append(mask)
            if keep:
                file.write(np.ascontiguousarray(vectors_of(rows["vector"], settings.embedding)[mask]).tobytes())
                qualities.append(numbers_of(rows, "match")[mask])
    kept = np.concatenate(masks) if masks else np.zeros(0, bool)
    shape = int(kept.sum()) if keep else 0, settings.embedding
    vectors = np.memmap(scratch, np.float16, "r", shape=shape) if shape[0] else np.zeros(shape, np.float16)
    return _Rows(parts, kept, vectors, np.concatenate(qualities) if qualities else np.zeros(0))


def near_duplicates(vectors: np.ndarray, quality: np.ndarray, threshold: float) -> np.ndarray:
    """Return which rows (n,) come closer than a cosine to an earlier one in their cluster.

    Args:
        vectors: (n, E) float16, unit length.
        quality: (n,); rows of higher quality come earlier, and NaN counts as the lowest.
        threshold: cosine.
    """
    import faiss

    dropped = np.zeros(len(vectors), bool)
    if not len(vectors):
        return dropped
    clusters = max(1, len(vectors) // PER_CLUSTER)
    some = np.random.default_rng(0).permutation(len(vectors))[: TRAIN_PER_CLUSTER * clusters]
    means = faiss.Kmeans(vectors.shape[1], clusters, niter=10, spherical=True, seed=0, min_points_per_centroid=1)
    means.train(vectors[np.sort(some)].astype(np.float32))
    nearest = np.concatenate(
        [
            means.index.search(vectors[first : first + 50_000].astype(np.float32), 1)[1][:, 0]
            for first in range(0, len(vectors), 50_000)
        ]
    )
    order = np.argsort(-np.nan_to_num(quality, nan=-np.inf), kind="stable")
    order = order[np.argsort(nearest[order], kind="stable")]
    for members in np.split(order, np.flatnonzero(np.diff(nearest[order])) + 1):
        singles = vectors[members].astype(np.float32)
        for first in range(0, len(members), BLOCK):
            block = singles[first : first + BLOCK]
            cosines = block @ singles[: first + len(block)].T
            earlier = np.tri(len(block), first + len(block), first - 1, dtype=bool)
            dropped[members[first : first + BLOCK]] = (np.where(earlier, cosines, -1) > threshold).any(axis=1)
    return dropped


def _write_shards(
    place: Location, target: Location, rows: _Rows, per_shard: int, timeout: float, summary: SelectSummary
) -> None:
    members: list[tuple[str, bytes]] = []
    held = 0

    def write() -> None:
        nonlocal held
        if held:
            (target / f"selected-{summary.shards:06}.tar").write(_tar(members))
            summary.shards += 1
        members.clear()
        held = 0

    for data, about in _selected(place, rows, timeout):
        key = f"{summary.selected:010}"
        members.append((f"{key}.{SUFFIXES.get(detect_format(data) or '', 'jpg')}", data))
        members.append((f"{key}.json", json_line(about).encode()))
        summary.selected += 1
        held += 1
        if held == per_shard:
            write()
    write()


def _selected(place: Location, rows: _Rows, timeout: float) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield bytes and description of each picture that is kept, read from its shard again."""
    settings = read_settings(place)
    names = [name for name, _ in rows.parts]
    for (_, first), (_, table) in zip(rows.parts, open_parts(place, names), strict=True):
        count = table.metadata.num_rows
        mask = rows.kept[first : first + count]
        if not mask.any():
            continue
        shard = part_metadata(table)["shard"]
        columns = ["key", "sha256", "caption", "generated_caption", "cosine", "match", "width", "height"]
        described = table.read(columns).to_pylist()
        records = read_shard(shard, settings.image, settings.caption, timeout)
        for about, kept in zip(described, mask, strict=True):
            record = next(records, None)
            if record is None or record.key != about["key"]:
                raise PictureUnreadable(f"{shard}/{about['key']}", "is no longer there; embed its shard again")
            if not kept:
                continue
            if record.data is None:
                raise PictureUnreadable(f"{shard}/{about['key']}", "its shard has its address alone, and not its bytes")
            generated = about.pop("generated_caption")
            caption = about["caption"] or generated
            about |= {"sha256": about["sha256"].hex(), "shard": shard, "caption": caption}
            yield record.data, {name: value for name, value in about.items() if value is not None}


def _tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    file = BytesIO()
    with TarFile(fileobj=file, mode="w") as archive:
        for name, data in members:
            member = TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return file.getvalue()
