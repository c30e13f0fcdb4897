"""Build an index over parts: centroids once, from a sample; then segment after segment; ``index.json`` at the end.

A build that was ended goes on with the segments that are missing. Parts that are new since get segments of their own,
with the centroids that are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beholder.album.recall import SAMPLE, ExactSearch, K, recall_at_k, sample_queries
from beholder.errors import InvalidSetting
from beholder.files import atomic_file, atomic_folder, remove_unfinished, reported
from beholder.scale.parts import RunSettings, open_parts, part_metadata, part_names, read_settings, vectors_of
from beholder.scale.segments import (
    CELLS,
    CODES,
    INDEX,
    ROWS,
    VECTORS,
    Manifest,
    OpenSegment,
    Segment,
    ShardIndex,
    file_sha256,
)
from beholder.scale.storage import Location

SEGMENT_VECTORS = 4_000_000  # above which a segment ends
TRAIN_PER_CELL = 40
MAX_CELLS = 65_536
OnSegment = Callable[[str, int, int, int], None]  # name, vectors, segments done, segments in all


@dataclass(frozen=True)
class IndexCheck:
    """What `check_index` found.

    Attributes:
        vectors: in the index.
        missing: parts of the source that are not in the index.
        gone: parts in the index that the source no longer has.
        recall: recall@10 on a sample of queries, against exact search over all vectors.
    """

    vectors: int
    missing: int
    gone: int
    recall: float


def build_index(source: str, folder: Path, recall: float = 0.95, on_segment: OnSegment | None = None) -> Manifest:
    """Build an index, or bring it up to date.

    Args:
        source: address of the parts.
        folder: of the index.
        recall: recall@10 for which the number of cells to visit is chosen.
        on_segment: called after each segment.

    Raises:
        InvalidSetting: there are no parts, or the folder holds an index of another source or model.
        WriteFailed: the index can't be written.
    """
    place = Location.of(source)
    try:
        settings = read_settings(place)
    except FileNotFoundError:
        raise InvalidSetting(f"{source}: beholder scale embed has written nothing here") from None
    names = part_names(place)
    if not names:
        raise InvalidSetting(f"{source}: holds no parts yet")
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        known = _known(folder, source, settings)
        counts = _counts(place, names)
        if not sum(counts.values()):
            raise InvalidSetting(f"{source}: none of the pictures has a vector")
        cells = _cells(place, counts, settings, folder)
        digest = file_sha256(folder / CELLS)
        kept = [one for one in known if set(one.parts) <= set(names)]
        held = {name for one in kept for name in one.parts}
        groups = list(_groups({name: count for name, count in counts.items() if name not in held}))
        for number, parts in enumerate(groups):
            segment = _build_segment(place, parts, counts, settings, folder, digest)
            kept.append(segment)
            if on_segment is not None:
                on_segment(segment.folder, segment.count, number + 1, len(groups))
        manifest = Manifest(source, settings, tuple(kept), cells, digest, aim=recall)
        manifest = _tuned(manifest, folder)
        manifest.save(folder)
    return manifest


def check_index(folder: Path) -> IndexCheck:
    """Compare an index with its source, and measure its recall.

    Raises:
        InvalidSetting: there is no index, or it is damaged.
    """
    index = ShardIndex(folder)
    names = set(part_names(Location.of(index.manifest.source)))
    held = {name for segment in index.manifest.segments for name in segment.parts}
    queries = _queries(index.segments[0], index.manifest.settings)
    truth = ExactSearch(queries)
    for ids, halves in index.batches():
        truth.add(ids, halves.astype(np.float32))
    found = [index.search_rows(query, K)[0] for query in queries]
    return IndexCheck(len(index), len(names - held), len(held - names), recall_at_k(found, truth.ids))


def _known(folder: Path, source: str, settings: RunSettings) -> Sequence[Segment]:
    """Return the segments of the index that is there already."""
    if not (folder / INDEX).exists():
        return ()
    manifest = Manifest.load(folder)
    if (manifest.source, manifest.settings.fingerprint) != (source, settings.fingerprint):
        raise InvalidSetting(
            f"{folder}: is an index of {manifest.source}, by {manifest.settings.model}; name another --out"
        )
    return manifest.segments


def _counts(place: Location, names: Sequence[str]) -> dict[str, int]:
    """Return the number of vectors in each part."""
    counts = {}
    for name, table in open_parts(place, names):
        about = part_metadata(table)
        counts[name] = about["rows"] - about["failed"]
    return counts


def _groups(counts: dict[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for name, count in counts.items():
        if group and held + count > SEGMENT_VECTORS:
            yield group
            group, held = [], 0
        if count:
            group.append(name)
            held += count
    if group:
        yield group


def _read(place: Location, name: str, embedding: int) -> tuple[Any, np.ndarray]:
    """Return a part's rows that have a vector, without it, and the vectors (n, E) float16."""
    import pyarrow as pa

    for _, table in open_parts(place, [name]):
        rows = table.read()
        shard = part_metadata(table)["shard"]
    rows = rows.filter(rows["vector"].is_valid())
    vectors = vectors_of(rows["vector"], embedding)
    shards = pa.array([shard] * len(rows), pa.string())
    return rows.drop_columns(["vector", "error"]).append_column("shard", shards).replace_schema_metadata(None), vectors


def _cells(place: Location, counts: dict[str, int], settings: RunSettings, folder: Path) -> int:
    """Train the centroids, unless they are there; return their number."""
    import faiss

    if (folder / CELLS).exists():
        return int(faiss.extract_index_ivf(faiss.read_index(str(folder / CELLS))).nlist)
    total = sum(counts.values())
    cells = max(1, min(MAX_CELLS, int(4 * total**0.5), total // TRAIN_PER_CELL))
    random = np.random.default_rng(0)
    wanted, share = TRAIN_PER_CELL * cells, min(1.0, 4 * TRAIN_PER_CELL * cells / total)
    samples, held = [], 0
    for name in random.permutation([name for name, count in counts.items() if count]).tolist():
        _, vectors = _read(place, name, settings.embedding)
        some = random.permutation(len(vectors))[: max(1, round(share * len(vectors)))]
        samples.append(vectors[some].astype(np.float32))
        held += len(some)
        if held >= wanted:
            break
    centroids = faiss.IndexFlatIP(settings.embedding)
    inverted = faiss.IndexIVFRaBitQ(centroids, settings.embedding, cells, faiss.METRIC_INNER_PRODUCT)
    inverted.cp.niter, inverted.cp.spherical, inverted.cp.min_points_per_centroid = 10, True, 1
    # Its bounds hold for vectors whose directions are random, so they are rotated at random.
    index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(settings.embedding, settings.embedding), inverted)
    index.train(np.concatenate(samples)[:wanted])
    with atomic_file(folder / CELLS) as scratch:
        faiss.write_index(index, str(scratch))
    return cells


def _build_segment(
    place: Location, parts: Sequence[str], counts: dict[str, int], settings: RunSettings, folder: Path, cells: str
) -> Segment:
    """Write the segment of some parts, unless it is there."""
    import faiss
    from pyarrow.parquet import ParquetWriter

    name = f"segment-{hashlib.sha256(' '.join([cells, *parts]).encode()).hexdigest()[:32]}"
    count = sum(counts[part] for part in parts)
    if not (folder / name).exists():
        index, start, writer = faiss.read_index(str(folder / CELLS)), 0, None
        with atomic_folder(folder / name, replace=False) as scratch:
            with (scratch / VECTORS).open("wb") as file:
                for part in parts:
                    rows, vectors = _read(place, part, settings.embedding)
                    index.add_with_ids(vectors.astype(np.float32), np.arange(start, start + len(vectors)))
                    start += len(vectors)
                    file.write(np.ascontiguousarray(vectors).tobytes())
                    writer = writer or ParquetWriter(scratch / ROWS, rows.schema, compression="zstd")
                    writer.write_table(rows, row_group_size=100 if settings.thumbnail else 1_000)
                if writer is not None:
                    writer.close()
            faiss.write_index(index, str(scratch / CODES))
    return Segment(name, tuple(parts), count, file_sha256(folder / name / CODES))


def _queries(segment: OpenSegment, settings: RunSettings) -> np.ndarray:
    """Return queries (m, E): half vectors of pictures, half of sentences, if the model's calibration is at hand."""
    from beholder.album.model_identity import native_folder
    from beholder.weights.calibration import Calibration

    sentences = np.zeros((0, settings.embedding), np.float32)
    with suppress(OSError, ValueError, KeyError):
        model = native_folder(settings.model)
        calibration = None if model is None else Calibration.load(model)
        if calibration is not None and calibration.background.shape[1] == settings.embedding:
            sentences = calibration.background
    rows = np.random.default_rng(1).choice(segment.segment.count, min(SAMPLE, segment.segment.count), replace=False)
    return sample_queries(segment.vectors[np.sort(rows)].astype(np.float32), sentences)


def _tuned(manifest: Manifest, folder: Path) -> Manifest:
    """Choose the number of cells to visit, by the recall that they give in the largest segment."""
    largest = max(manifest.segments, key=lambda one: one.count)
    segment = OpenSegment(folder, largest, manifest.settings.embedding, 1)
    queries = _queries(segment, manifest.settings)
    truth = ExactSearch(queries)
    step = 50_000
    for first in range(0, largest.count, step):
        vectors = segment.vectors[first : first + step].astype(np.float32)
        truth.add(np.arange(first, first + len(vectors)), vectors)
    probes, aim = 1, manifest.aim + (1 - manifest.aim) / 3  # so that other queries reach it, too
    while True:
        found = recall_at_k([segment.search(query, K, probes)[0] for query in queries], truth.ids)
        if found >= aim or probes >= manifest.cells:
            return replace(manifest, probes=probes, recall=found)
        probes = min(manifest.cells, max(probes + 1, int(probes * 1.4)))
