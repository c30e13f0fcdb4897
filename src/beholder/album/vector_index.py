"""Nearest-neighbor search over an album's embeddings.

FAISS holds the vectors in half precision, as the album does, and scores all of them while they are few. Above
`EXACT_UP_TO` they are in an inverted file: cells around learned centroids, of which a search visits those nearest to
the query. How many is tuned by measuring recall against exact search, with image embeddings of the album and text
embeddings of the model's calibration. Under a filter, cells with allowed vectors are visited in the same order until as
many allowed vectors are scored as a search without a filter scores; if there are no more than that, all are scored.
The index file is memory-mapped. Vectors added after it was written are scored from the album, and those removed since
are skipped, so results are right while another process indexes.

Source: Jégou et al., *Product Quantization for Nearest Neighbor Search*, section IV (the inverted file).
Shapes: n vectors, E dimensions, k results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beholder.album.index_file import Description, map_index, read_index, write_description, write_index
from beholder.album.recall import SAMPLE, ExactSearch, K, exact_search, recall_at_k, sample_queries
from beholder.album.store import vectors
from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel

EXACT_UP_TO = 250_000  # vectors: exact search of that many stays below what a person notices (see benchmarks)
VECTORS_PER_CELL = 250
TRAIN_PER_CELL = 40  # training vectors
STALE = 0.05  # share of vectors added or removed above which an inverted file is rebuilt
RECALL = 0.95
READ_BATCH = 50_000  # vectors read from the album together


class VectorIndex:
    """Search over all embeddings of one model.

    Args:
        store: the album.
        model: whose embeddings.
    """

    def __init__(self, store: Store, model: IndexedModel):
        self.store = store
        self.model = model
        self.index: Any = None
        self.description: Description | None = None
        self.background: tuple[tuple[int, int], np.ndarray] | None = None  # first and last id, and a sample between
        self.fresh_ids = np.zeros(0, np.int64)
        self.fresh = np.zeros((0, model.embedding), np.float32)
        self._cell_of: np.ndarray | None = None  # of each id; -1 for none

    def refresh(self) -> None:
        """Open the index file, or rebuild it if it is missing or invalid; read the vectors added since."""
        if self.index is None and not self._open():
            self.build()  # exact, which takes seconds: the next index run builds an inverted file
        if self.description is None:
            return
        last = int(self.fresh_ids[-1]) if len(self.fresh_ids) else self.description.last
        ids, halves = vectors.read_vectors(self.store, self.model, after=last)
        if len(ids):
            self.fresh_ids = np.concatenate([self.fresh_ids, ids])
            self.fresh = np.concatenate([self.fresh, halves.astype(np.float32)])

    def search(self, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of the k nearest vectors and their cosines, best first; the album may have lost some since.

        Args:
            query: (E,), unit length.
            k: results.
            allowed: ids in rising order; None allows all.
        """
        ids, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if self.description is not None and self.description.count:
            ids, cosines = self._search_file(query, min(k, self.description.count), allowed)
        fresh_ids, fresh = self.fresh_ids, self.fresh
        if allowed is not None and len(fresh_ids):
            kept = np.isin(fresh_ids, allowed)
            fresh_ids, fresh = fresh_ids[kept], fresh[kept]
        if len(fresh_ids):
            ids = np.concatenate([ids, fresh_ids])
            cosines = np.concatenate([cosines, fresh @ query])
        order = np.argsort(-cosines, kind="stable")[:k]
        return ids[order], cosines[order]

    def update(self, recall: float | None = None) -> None:
        """Rebuild the index file if too much has changed; called after indexing.

        Args:
            recall: required of an inverted file; None for the previous value.
        """
        alive = vectors.count_vectors(self.store, self.model)
        if self._open() and self.description is not None:
            new = vectors.count_vectors(self.store, self.model, after=self.description.last)
            changed = new + self.description.count + new - alive
            if self.description.probes and alive > EXACT_UP_TO and changed <= STALE * alive:
                if recall not in (None, self.description.aim):
                    self._retune(recall)
                return
            if not self.description.probes and alive <= EXACT_UP_TO and changed == 0:
                return
            if self.description.probes:
                recall = recall or self.description.aim
        self.build(recall or RECALL, inverted=alive > EXACT_UP_TO)

    def build(self, recall: float = RECALL, inverted: bool = False) -> None:
        """Build the index from the album's embeddings and write it, if the folder can be written."""
        import faiss

        half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        embedding = self.model.embedding
        with self.store.snapshot():
            count = vectors.count_vectors(self.store, self.model)
            truth = None
            if inverted:
                index, truth = self._trained(count)
            else:
                index = faiss.IndexIDMap(faiss.IndexScalarQuantizer(embedding, half, product))
            last = 0
            for ids, halves in self.batches():
                singles = halves.astype(np.float32)
                index.add_with_ids(singles, ids)
                last = int(ids[-1])
                if truth is not None:
                    truth.add(ids, singles)
        description = Description("", "", self.model.fingerprint, index.ntotal, last)
        if truth is not None:
            probes, found = _tune_nprobe(index, truth, recall)
            description = replace(description, probes=probes, cells=index.nlist, aim=recall, recall=found)
        self._set(index, description)
        with suppress(OSError, RuntimeError):  # on a read-only or full disk, the index stays in memory
            description = write_index(self.store.folder, index, description)
            self._set(map_index(self.store.folder / description.file, description), description)

    def measure_recall(self) -> float:
        """Return recall@10, measured with queries sampled from the album."""
        self.refresh()
        with self.store.snapshot():
            queries = self._queries(vectors.count_vectors(self.store, self.model))
            truth = exact_search(self.batches(), queries)
        return recall_at_k((self.search(query, K)[0] for query in queries), truth)

    def _search_file(self, query: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        description = self.description
        if description is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        selector: Any = None
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(_bitmap(allowed, description.last))  # type: ignore[call-arg, arg-type]
        if description.probes and allowed is not None:
            rows, found = self._search_cells(query, k, allowed, selector)
        else:
            settings: Any = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            if description.probes:
                settings = faiss.SearchParametersIVF(nprobe=description.probes)  # type: ignore[call-arg]
            cosines, ids = self.index.search(query[None], k, params=settings)
            rows, found = ids[0], cosines[0]
        return rows[rows >= 0], found[rows >= 0]

    def _search_cells(
        self, query: np.ndarray, k: int, allowed: np.ndarray, selector: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search allowed vectors of an inverted file: ids (k,), -1 where there are fewer, and cosines (k,)."""
        import faiss

        near, order = self.index.quantizer.search(query[None], self.index.nlist)
        cells = self._cells()[allowed[allowed <= self.description.last]]  # type: ignore[union-attr]
        held = np.bincount(cells[cells >= 0], minlength=self.index.nlist)[order[0]]  # allowed per cell, nearest first
        wanted = self.description.probes * self.description.count / self.description.cells  # type: ignore[union-attr]
        chosen = (held > 0) & (np.cumsum(held) - held < wanted)
        keys = np.ascontiguousarray(order[:, chosen], np.int64)
        distances = np.ascontiguousarray(near[:, chosen], np.float32)
        found, rows = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
        if keys.size:
            queries, pointer = np.ascontiguousarray(query[None], np.float32), faiss.swig_ptr
            settings: Any = faiss.SearchParametersIVF(nprobe=keys.size, sel=selector)  # type: ignore[call-arg]
            places = (pointer(queries), k, pointer(keys), pointer(distances), pointer(found), pointer(rows))
            self.index.search_preassigned_c(1, *places, False, settings)
        return rows, found

    def _cells(self) -> np.ndarray:
        """Return the cell of each id up to the last in the file; -1 for ids that are not in it."""
        if self._cell_of is None:
            import faiss

            self._cell_of = np.full(self.description.last + 1, -1, np.int32)  # type: ignore[union-attr]
            lists = self.index.invlists
            for cell in range(self.index.nlist):
                size = lists.list_size(cell)
                if size:
                    ids = lists.get_ids(cell)
                    self._cell_of[faiss.rev_swig_ptr(ids, size)] = cell
                    lists.release_ids(cell, ids)
        return self._cell_of

    def _trained(self, count: int) -> tuple[Any, ExactSearch]:
        """Return a trained, empty inverted file, and an exact search to tune it with."""
        import faiss

        cells = max(1, count // VECTORS_PER_CELL)
        centroids = faiss.IndexFlatIP(self.model.embedding)
        half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        index: Any = faiss.IndexIVFScalarQuantizer(centroids, self.model.embedding, cells, half, product, False)
        index.cp.niter = 8
        index.cp.spherical = True
        index.train(self._sampled(count, TRAIN_PER_CELL * cells))
        return index, ExactSearch(self._queries(count))

    def _retune(self, recall: float) -> None:
        """Choose the number of cells to visit for another recall; the file stays as it is."""
        if self.description is None:
            return
        with self.store.snapshot():
            truth = ExactSearch(self._queries(self.description.count))
            for ids, halves in self.batches(last=self.description.last):
                truth.add(ids, halves.astype(np.float32))
        probes, found = _tune_nprobe(self.index, truth, recall)
        self.description = replace(self.description, probes=probes, aim=recall, recall=found)
        with suppress(OSError):
            write_description(self.store.folder, self.description)

    def batches(self, last: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield all of the model's ids in rising order and embeddings (n, E) float16, in batches."""
        after = 0
        while True:
            ids, halves = vectors.read_vectors(self.store, self.model, after, last, READ_BATCH)
            if not len(ids):
                return
            yield ids, halves
            after = int(ids[-1])

    def _sampled(self, count: int, most: int, seed: int = 0) -> np.ndarray:
        """Return at most ``most`` of all embeddings (n, E) float32, drawn at random."""
        some = np.sort(np.random.default_rng(seed).choice(count, min(count, most), replace=False))
        found, start = [np.zeros((0, self.model.embedding), np.float16)], 0
        for ids, halves in self.batches():
            found.append(halves[some[(some >= start) & (some < start + len(ids))] - start])
            start += len(ids)
        return np.concatenate(found).astype(np.float32)

    def _queries(self, count: int) -> np.ndarray:
        from beholder.weights.calibration import Calibration

        sentences = np.zeros((0, self.model.embedding), np.float32)
        with suppress(OSError, ValueError, KeyError):
            if self.model.folder and (calibration := Calibration.load(Path(self.model.folder))) is not None:
                sentences = calibration.background
        return sample_queries(self._sampled(count, SAMPLE, seed=1), sentences)

    def _open(self) -> bool:
        """Open the index file; return whether it is intact and of this album and model."""
        found = read_index(self.store.folder, self.model.fingerprint)
        if found is None or found[0].d != self.model.embedding:
            return False
        if found[1].last > vectors.last_vector_id(self.store):
            return False  # of an earlier album in this folder
        self._set(*found)
        return True

    def _set(self, index: Any, description: Description) -> None:
        self.index, self.description, self._cell_of = index, description, None
        self.fresh_ids, self.fresh = self.fresh_ids[:0], self.fresh[:0]


def _tune_nprobe(index: Any, truth: ExactSearch, recall: float) -> tuple[int, float]:
    """Return the fewest cells to visit for a recall, and the recall measured with them."""
    aim = recall + (1 - recall) / 3  # so that other queries reach it, too

    def found(probes: int) -> float:
        index.nprobe = probes
        return recall_at_k(index.search(truth.queries, truth.ids.shape[1])[1], truth.ids)

    low, high, cells = 0, 1, index.nlist
    while high < cells and found(high) < aim:
        low, high = high, min(2 * high, cells)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= aim else (middle, high)
    return high, found(high)


def _bitmap(ids: np.ndarray, last: int) -> np.ndarray:
    """Return a bit for each id up to the last, set for the given ones."""
    chosen = np.zeros(last + 1, bool)
    chosen[ids[ids <= last]] = True
    return np.packbits(chosen, bitorder="little")
