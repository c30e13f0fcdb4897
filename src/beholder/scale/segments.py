"""The files of an index over parts, and how it is searched.

    INDEX/index.json               what there is; written last, so that an index is complete or not there
    INDEX/cells.faiss              the trained, empty inverted file: the centroids that all segments share
    INDEX/segment-HASH/
        codes.faiss                the inverted file of some parts, one bit for each number of a vector (RaBitQ)
        vectors.f16                their vectors (n, E), float16, to score the best candidates again
        rows.parquet               key, shard, caption and the other columns of each vector

All of it is memory-mapped: what stays in memory is the cells that searches visit. The codes find candidates, the
vectors themselves rank them; those of candidates are read one by one, since a mapped file's pages come with many of
their neighbors. A filter becomes one bit for each vector; if it leaves few, these are compared exactly.

Source: Gao and Long, *RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound*, SIGMOD 2024.
Shapes: n vectors, E dimensions, k results.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting
from beholder.files import write_text
from beholder.scale.parts import THUMBNAIL, RunSettings
from beholder.scale.where import NUMBERS, TEXTS, Term, columns_of, mask_of, parse_where

INDEX = "index.json"
CELLS = "cells.faiss"
CODES = "codes.faiss"
VECTORS = "vectors.f16"
ROWS = "rows.parquet"
VERSION = 1
CANDIDATES = 40  # scored again, for each result that is wanted
LEAST_CANDIDATES = 400
READ = 50_000  # vectors together
EXACT = 20_000  # vectors that a filter leaves, up to which all of them are compared
MASKS = 16  # filters that are remembered


@dataclass(frozen=True)
class Segment:
    """A part of the index.

    Attributes:
        folder: its name.
        parts: names of the parts whose vectors it holds.
        count: vectors.
        sha256: of its codes.
    """

    folder: str
    parts: tuple[str, ...]
    count: int
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.folder):  # a manifest may come from elsewhere
            raise ValueError(f"{self.folder!r} is no name of a segment")


@dataclass(frozen=True)
class Manifest:
    """The content of ``index.json``.

    Attributes:
        source: address of the parts.
        settings: of the run that made them.
        segments: in order.
        cells: centroids.
        cells_sha256: of their file.
        probes: cells that a search visits.
        aim: recall@10 that they were chosen for.
        recall: measured with them.
        version: of the format.
    """

    source: str
    settings: RunSettings
    segments: tuple[Segment, ...]
    cells: int
    cells_sha256: str
    probes: int = 1
    aim: float = 0.95
    recall: float = 0.0
    version: int = VERSION

    def save(self, folder: Path) -> None:
        """Write ``index.json``.

        Raises:
            OSError: it can't be written.
        """
        write_text(folder / INDEX, json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``index.json``.

        Raises:
            InvalidSetting: there is no index, or one of another version.
        """
        try:
            values = json.loads((folder / INDEX).read_text("utf-8"))
            if values["version"] != VERSION:
                raise InvalidSetting(f"{folder}: is an index of another version; build it again: beholder scale index")
            segments = tuple(Segment(**one | {"parts": tuple(one["parts"])}) for one in values["segments"])
            return cls(**values | {"settings": RunSettings(**values["settings"]), "segments": segments})
        except FileNotFoundError:
            if (folder / "_versions").is_dir():
                raise InvalidSetting(
                    f"{folder}: is a Lance dataset; search it with LanceDB, or build an index of --kind faiss"
                ) from None
            raise InvalidSetting(
                f"{folder}: there is no index here; build it: beholder scale index ADDRESS --out …"
            ) from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InvalidSetting(f"{folder}: its {INDEX} can't be read ({error})") from error


@dataclass(frozen=True)
class VectorHit:
    """A result.

    Attributes:
        id: number of the vector, counted over all segments.
        cosine: with the query.
        row: columns.
    """

    id: int
    cosine: float
    row: dict[str, Any]


@dataclass(frozen=True)
class NearestCells:
    """The cells whose centroids are nearest to a query, nearest first.

    Attributes:
        query: (1, E), rotated as the vectors were before they were coded.
        cells: (1, p).
        products: (1, p), of query and centroids.
    """

    query: np.ndarray
    cells: np.ndarray
    products: np.ndarray

    def first(self, count: int) -> NearestCells:
        """Return the nearest ``count`` of them."""
        return NearestCells(self.query, self.cells[:, :count].copy(), self.products[:, :count].copy())


@dataclass
class OpenSegment:
    """A segment, memory-mapped.

    Raises:
        InvalidSetting: a file is missing or damaged.
    """

    folder: Path
    segment: Segment
    embedding: int
    probes: int
    codes: Any = field(init=False)
    vectors: np.ndarray = field(init=False)  # (n, E) float16
    _file: Any = field(init=False)  # of the vectors
    _reading: threading.Lock = field(init=False, default_factory=threading.Lock)  # of the table, by one thread

    def __post_init__(self) -> None:
        """Open the files; the codes only after their checksum, since FAISS trusts what it reads."""
        import faiss

        folder = self.folder / self.segment.folder
        try:
            if file_sha256(folder / CODES) != self.segment.sha256:
                raise InvalidSetting(f"{folder / CODES}: is damaged; remove {folder.name}, and index again")
            self.codes = faiss.read_index(str(folder / CODES), faiss.IO_FLAG_MMAP)
            shape = self.segment.count, self.embedding
            self.vectors = np.memmap(folder / VECTORS, np.float16, "r", shape=shape)
            self._file = (folder / VECTORS).open("rb", buffering=0)
            weakref.finalize(self, self._file.close)
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidSetting(f"{folder}: can't be opened ({error})") from error

    @cached_property
    def table(self) -> Any:
        """The file of rows."""
        from pyarrow.parquet import ParquetFile

        return ParquetFile(self.folder / self.segment.folder / ROWS, memory_map=True)

    @cached_property
    def groups(self) -> np.ndarray:
        """The first row of each row group."""
        about = self.table.metadata
        counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        return np.concatenate([[0], np.cumsum(counts)])

    @property
    def columns(self) -> list[str]:
        """Names of the columns, but for the thumbnails."""
        return [name for name in self.table.schema_arrow.names if name != THUMBNAIL]

    def search(
        self, query: np.ndarray, k: int, cells: NearestCells | None, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the k nearest vectors and their cosines, best first.

        Args:
            query: (E,), unit length.
            k: results.
            cells: to visit; None compares all vectors that may be found.
            mask: (n,), which vectors may be found; by default all.
        """
        rows = self._allowed(mask) if cells is None else self._candidates(k, cells, mask)
        cosines = self._read_vectors(rows).astype(np.float32) @ query
        order = np.argsort(-cosines, kind="stable")[:k]
        return rows[order], cosines[order]

    def visited(self, mask: np.ndarray | None) -> int:
        """Return how many cells to visit, more if a filter leaves few vectors; 0 if all that it leaves are compared."""
        import faiss

        share = 1.0
        if mask is not None:
            left = int(np.count_nonzero(mask))
            if left <= EXACT:
                return 0
            share = left / len(mask)
        return min(math.ceil(self.probes / share), faiss.extract_index_ivf(self.codes).nlist)

    def nearest_cells(self, query: np.ndarray, count: int) -> NearestCells:
        """Return so many cells; all segments of an index have the same."""
        import faiss

        rotated = np.ascontiguousarray(query[None], np.float32)
        for number in range(self.codes.chain.size()):
            rotated = self.codes.chain.at(number).apply(rotated)
        products, cells = faiss.extract_index_ivf(self.codes).quantizer.search(rotated, count)
        return NearestCells(rotated, cells, products)

    def _allowed(self, mask: np.ndarray | None) -> np.ndarray:
        return np.arange(self.segment.count) if mask is None else np.flatnonzero(mask)

    def _candidates(self, k: int, cells: NearestCells, mask: np.ndarray | None) -> np.ndarray:
        """Return rows to compare with the query, in order."""
        import faiss

        settings = faiss.IVFRaBitQSearchParameters()
        settings.nprobe, settings.qb = cells.cells.shape[1], 8
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            settings.sel = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
        wanted = min(self.segment.count, max(CANDIDATES * k, LEAST_CANDIDATES))
        estimates, found = np.empty((1, wanted), np.float32), np.empty((1, wanted), np.int64)
        arrays = (cells.cells, cells.products, estimates, found)
        inverted: Any = faiss.extract_index_ivf(self.codes)  # whose search_preassigned takes no parameters
        inverted.search_preassigned_c(
            1, faiss.swig_ptr(cells.query), wanted, *map(faiss.swig_ptr, arrays), False, settings
        )
        return np.sort(found[0][found[0] >= 0])

    def _read_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return some vectors (m, E) float16."""
        if not hasattr(os, "preadv"):  # Windows
            return self.vectors[rows]
        found = np.empty((len(rows), self.embedding), np.float16)
        starts = (rows * found.strides[0]).tolist()
        if hasattr(os, "posix_fadvise"):  # a disk reads many at a time
            for start in starts:
                os.posix_fadvise(self._file.fileno(), start, found.strides[0], os.POSIX_FADV_WILLNEED)
        for vector, start in zip(found, starts, strict=True):
            os.preadv(self._file.fileno(), [vector.data], start)
        return found

    def mask(self, terms: Sequence[Term]) -> np.ndarray:
        """Return for which vectors (n,) a filter holds."""
        columns = columns_of(terms)
        with self._reading:
            return np.concatenate([mask_of(rows, terms) for rows in self.table.iter_batches(READ, columns=columns)])

    def batches_of_rows(self, most: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the columns of all vectors in order, but for the thumbnails, at most so many together."""
        for rows in self.table.iter_batches(most, columns=self.columns):
            yield rows.to_pylist()

    def row(self, number: int) -> dict[str, Any]:
        """Return the columns of one vector, but for the thumbnail."""
        return dict(self._read(number, self.columns))

    def thumbnail(self, number: int) -> bytes | None:
        """Return the thumbnail of one vector's picture, a JPEG; None if the pictures were embedded without."""
        if THUMBNAIL not in self.table.schema_arrow.names:
            return None
        found = self._read(number, [THUMBNAIL])[THUMBNAIL]
        return None if found is None else bytes(found)

    def _read(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        group = int(np.searchsorted(self.groups, number, side="right")) - 1
        with self._reading:
            rows = self.table.read_row_group(group, columns=columns, use_threads=False)
        return dict(rows.slice(number - int(self.groups[group]), 1).to_pylist()[0])


class ShardIndex:
    """An index over parts, opened for searching. Threads may share it.

    Args:
        folder: of the index.

    Raises:
        InvalidSetting: there is none, or it is damaged.
    """

    def __init__(self, folder: Path):
        self.folder, self.manifest = folder, Manifest.load(folder)
        embedding, probes = self.manifest.settings.embedding, self.manifest.probes
        self.segments = [OpenSegment(folder, one, embedding, probes) for one in self.manifest.segments]
        counts = [segment.segment.count for segment in self.segments]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._kept: OrderedDict[str, list[np.ndarray]] = OrderedDict()  # masks, by filter
        self._filtering = threading.Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def search_rows(self, query: np.ndarray, k: int, where: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the k nearest vectors, counted over all segments, and their cosines, best first.

        Raises:
            InvalidFilter: of ``where``.
        """
        masks = self._masks(where)
        visited = [segment.visited(mask) for segment, mask in zip(self.segments, masks, strict=True)]
        most = max(visited, default=0)
        cells = self.segments[0].nearest_cells(query, most) if most else None
        found = [
            segment.search(query, k, cells.first(count) if cells and count else None, mask)
            for segment, count, mask in zip(self.segments, visited, masks, strict=True)
        ]
        rows = np.concatenate([start + rows for start, (rows, _) in zip(self.starts, found, strict=False)])
        cosines = np.concatenate([cosines for _, cosines in found])
        order = np.argsort(-cosines, kind="stable")[:k]
        return rows[order], cosines[order]

    def search(self, query: np.ndarray, k: int, where: str = "") -> list[VectorHit]:
        """Return the k nearest pictures, best first.

        Args:
            query: (E,), unit length.
            k: results.
            where: a filter over the columns (`beholder.scale.where`).

        Raises:
            InvalidFilter: of ``where``.
        """
        rows, cosines = self.search_rows(query, k, where)
        return [
            VectorHit(int(row), float(cosine), self.row(int(row))) for row, cosine in zip(rows, cosines, strict=True)
        ]

    def row(self, number: int) -> dict[str, Any]:
        """Return the columns of one vector, but for the thumbnail.

        Raises:
            IndexError: there is no such vector; likewise of `vector` and `thumbnail`.
        """
        segment, place = self._locate(number)
        return segment.row(place)

    def vector(self, number: int) -> np.ndarray:
        """Return one vector (E,) float16."""
        segment, place = self._locate(number)
        return np.array(segment.vectors[place])

    def thumbnail(self, number: int) -> bytes | None:
        """Return the thumbnail of one vector's picture, a JPEG; None if there is none."""
        segment, place = self._locate(number)
        return segment.thumbnail(place)

    def _locate(self, number: int) -> tuple[OpenSegment, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"there is no vector {number}; there are {len(self)}")
        segment = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.segments[segment], int(number - self.starts[segment])

    def check_filter(self, where: str) -> list[Term]:
        """Return the terms of a filter.

        Raises:
            InvalidFilter: it has a syntax error, or a field that the index doesn't have.
        """
        return parse_where(where, (*NUMBERS, *TEXTS))

    def _masks(self, where: str) -> Sequence[np.ndarray | None]:
        """Return the mask of a filter for each segment; those of the last filters are kept."""
        terms = self.check_filter(where)
        if not terms:
            return [None] * len(self.segments)
        with self._filtering:
            if where not in self._kept:
                self._kept[where] = [segment.mask(terms) for segment in self.segments]
            self._kept.move_to_end(where)
            if len(self._kept) > MASKS:
                self._kept.popitem(last=False)
            return self._kept[where]

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield all vectors (n, E) float16 with their numbers (n,)."""
        for start, segment in zip(self.starts, self.segments, strict=False):
            for first in range(0, segment.segment.count, READ):
                vectors = np.asarray(segment.vectors[first : first + READ])
                yield np.arange(start + first, start + first + len(vectors)), vectors


def file_sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
