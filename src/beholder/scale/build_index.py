"""Build an index over parts: centroids once, from a sample; then segment after segment; ``index.json`` at the end.

A build that was ended goes on with the segments that are missing. Parts that are new since get segments of their own,
with the centroids that are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from beholder.album.recall import SAMPLE, ExactSearch, K, exact_search, recall_at_k, sample_queries
from beholder.errors import InvalidSetting
from beholder.files import atomic_file, atomic_folder, remove_unfinished, reported
from beholder.scale.parts import RunSettings, group_parts, list_parts, part_names, read_vectors
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
    settings, counts = list_parts(place)
    names = list(counts)
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        known = _known(folder, source, settings)
        cells = _cells(place, counts, settings, folder)
        digest = file_sha256(folder / CELLS)
        kept = [one for one in known if set(one.parts) <= set(names)]
        held = {name for one in kept for name in one.parts}
        groups = list(group_parts({name: count for name, count in counts.items() if name not in held}, SEGMENT_VECTORS))
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
    truth = exact_search(index.batches(), queries)
    found = [index.search_rows(query, K)[0] for query in queries]
    return IndexCheck(len(index), len(names - held), len(held - names), recall_at_k(found, truth))


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
        _, vectors = read_vectors(place, name, settings.embedding)
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
                    rows, vectors = read_vectors(place, part, settings.embedding)
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
        cells = [segment.nearest_cells(query, probes) for query in queries]
        nearest = [segment.search(query, K, each)[0] for query, each in zip(queries, cells, strict=True)]
        found = recall_at_k(nearest, truth.ids)
        if found >= aim or probes >= manifest.cells:
            return replace(manifest, probes=probes, recall=found)
        probes = min(manifest.cells, max(probes + 1, int(probes * 1.4)))
