"""A Lance dataset of parts with an IVF_PQ index, for those who search with LanceDB or pylance.

Groups of parts are appended, each by one commit; then the index takes in what is not in it yet. A build that was ended
goes on with the shards that the dataset does not name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beholder.errors import BeholderError, InvalidSetting, MissingExtra, WriteFailed
from beholder.scale.build_index import SEGMENT_VECTORS, IndexCheck, OnSegment
from beholder.scale.parts import RunSettings, group_parts, list_parts, read_vectors
from beholder.scale.storage import Location, reason_of

SUFFIX = ".lance"  # of the tables of LanceDB
PER_PARTITION = 4_096  # vectors
TRAINED = 256  # vectors that product quantization needs at least; fewer are searched without an index
CHECKED = 20  # queries
SETTINGS = b"beholder"


@dataclass(frozen=True)
class LanceSummary:
    """What a dataset holds: rows, and of them those that are in its index."""

    rows: int
    indexed: int


def build_lance(source: str, address: str, on_segment: OnSegment | None = None) -> LanceSummary:
    """Write a dataset, or bring it up to date.

    Args:
        source: address of the parts.
        address: of the dataset, which ends in ``.lance``; a folder, or what Lance's own object store reaches.
        on_segment: called after each group of parts.

    Raises:
        MissingExtra: pylance is not installed.
        InvalidSetting: there are no parts, or the dataset is of another model.
        WriteFailed: it can't be written.
    """
    lance = _lance()
    place = Location.of(source)
    settings, counts = list_parts(place)
    dataset = _open(address)
    if dataset is not None and _fingerprint(dataset) != settings.fingerprint:
        raise InvalidSetting(f"{address}: is a dataset of another model; name another --out")
    held = set() if dataset is None else {settings.part(shard) for shard in _shards(dataset)}
    groups = list(group_parts({name: n for name, n in counts.items() if name not in held}, SEGMENT_VECTORS))
    try:
        for number, parts in enumerate(groups):
            batches = _batches(place, parts, settings)
            mode = "create" if dataset is None else "append"
            dataset = lance.write_dataset(batches, address, schema=batches.schema, mode=mode)
            if on_segment is not None:
                on_segment(address, sum(counts[part] for part in parts), number + 1, len(groups))
        if dataset is None:
            raise InvalidSetting(f"{address}: can't be opened")
        rows = dataset.count_rows()
        if rows >= TRAINED and not dataset.describe_indices():
            dataset.create_index(
                "vector",
                "IVF_PQ",
                metric="cosine",
                num_partitions=max(1, rows // PER_PARTITION),
                num_sub_vectors=next(each for each in (16, 8, 4, 2, 1) if settings.embedding % each == 0)
                if settings.embedding < 64
                else settings.embedding // 8,
            )
        elif rows >= TRAINED:
            dataset.optimize.optimize_indices()
    except BeholderError:
        raise
    except Exception as error:  # Lance raises OSError, ValueError and errors of its own
        raise WriteFailed(f"{address}: can't be written: {reason_of(error)}") from error
    dataset = lance.dataset(address)
    return LanceSummary(rows, sum(one.num_rows_indexed for one in dataset.describe_indices()))


def check_lance(source: str, address: str) -> IndexCheck:
    """Compare a dataset with its parts, and measure its recall.

    Raises:
        MissingExtra: pylance is not installed.
        InvalidSetting: there are no parts or there is no dataset.
    """
    settings, counts = list_parts(Location.of(source))
    dataset = _open(address)
    if dataset is None:
        raise InvalidSetting(f"{address}: there is no dataset here; build it: beholder scale index --kind lance")
    names = {name for name, count in counts.items() if count}
    held = {settings.part(shard) for shard in _shards(dataset)}
    rows = dataset.count_rows()
    random = np.random.default_rng(1)
    chosen = dataset.take(np.sort(random.choice(rows, min(CHECKED, rows), replace=False)), columns=["vector"])
    found = []
    for vector in chosen["vector"].to_pylist():
        near = np.asarray(vector, np.float32) + random.normal(size=len(vector)) * 0.3 / len(vector) ** 0.5
        exact, searched = (_nearest(dataset, near.astype(np.float16), indexed) for indexed in (False, True))
        found.append(len(exact & searched) / len(exact))
    return IndexCheck(rows, len(names - held), len(held - names), float(np.mean(found)))


def _nearest(dataset: Any, query: np.ndarray, indexed: bool) -> set[int]:
    about = {"column": "vector", "q": query, "k": 10, "use_index": indexed, "metric": "cosine"}
    about |= {"nprobes": 20, "refine_factor": 20}
    return set(dataset.to_table(nearest=about, columns=["key"], with_row_id=True)["_rowid"].to_pylist())


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise MissingExtra("Lance datasets", "lance") from error
    return lance


def _open(address: str) -> Any:
    """Return the dataset, or None if there is none."""
    try:
        return _lance().dataset(address)
    except (ValueError, FileNotFoundError):
        return None
    except OSError as error:
        raise InvalidSetting(f"{address}: can't be opened: {reason_of(error)}") from error


def _fingerprint(dataset: Any) -> str:
    return (dataset.schema.metadata or {}).get(SETTINGS, b"").decode()


def _shards(dataset: Any) -> set[str]:
    """Return the shards of all rows."""
    from pyarrow import compute

    found: set[str] = set()
    for batch in dataset.to_batches(columns=["shard"]):
        found.update(compute.unique(batch["shard"]).to_pylist())
    return found


def _batches(place: Location, parts: Sequence[str], settings: RunSettings) -> Any:
    """Return a reader of the rows of some parts, with their vectors."""
    import pyarrow as pa

    def table(part: str) -> Any:
        rows, vectors = read_vectors(place, part, settings.embedding)
        values = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float16())
        rows = rows.append_column("vector", pa.FixedSizeListArray.from_arrays(values, settings.embedding))
        return rows.replace_schema_metadata({SETTINGS: settings.fingerprint.encode()})

    def batches() -> Iterator[Any]:
        for part in parts:
            yield from table(part).to_batches(max_chunksize=10_000)

    return pa.RecordBatchReader.from_batches(table(parts[0]).slice(0, 0).schema, batches())
