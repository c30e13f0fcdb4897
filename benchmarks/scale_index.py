"""Build an index over made vectors, search it, and report recall, times and memory.

The vectors are clustered: each is a center, of which there is one for every thousand vectors, plus noise as long as the
center. Queries are drawn likewise. Run on two cores:

    python benchmarks/scale_index.py --vectors 10000000 --folder /data/scale
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from beholder.album.recall import ExactSearch, recall_at_k
from beholder.files import write_bytes
from beholder.scale.build_index import build_index
from beholder.scale.parts import RunSettings, encode_part, start_run
from beholder.scale.segments import ShardIndex
from beholder.scale.storage import Location

PART = 50_000
EMBEDDING = 512


def made(centers: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return unit vectors (count, E) float32."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(count, EMBEDDING)).astype(np.float32) / np.float32(EMBEDDING**0.5)
    vectors = centers[random.integers(0, len(centers), count)] + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_parts(folder: Path, count: int, centers: np.ndarray) -> None:
    """Write the vectors as parts that beholder scale embed could have written."""
    import pyarrow as pa

    settings = RunSettings("made", "made", EMBEDDING)
    folder.mkdir(parents=True, exist_ok=True)
    start_run(Location.of(str(folder)), settings)
    for number in range(-(-count // PART)):
        shard = f"{number:06}.tar"
        if (folder / settings.part(shard)).exists():
            continue
        vectors = made(centers, min(PART, count - number * PART), number + 1)
        write_bytes(folder / settings.part(shard), encode_made(pa, vectors, settings, shard))


def encode_made(pa, vectors: np.ndarray, settings: RunSettings, shard: str) -> bytes:
    """Return a part without going through Python's objects for each row."""
    from io import BytesIO

    from pyarrow import parquet

    empty = parquet.read_schema(BytesIO(encode_part([], settings, shard, "made")))
    about = json.loads(empty.metadata[b"beholder"]) | {"rows": len(vectors)}
    columns = {name: pa.nulls(len(vectors), empty.field(name).type) for name in empty.names}
    columns["key"] = pa.array([f"{shard[:6]}-{row:05}" for row in range(len(vectors))])
    halves = pa.array(vectors.astype(np.float16).reshape(-1), pa.float16())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(halves, EMBEDDING)
    table = pa.table(list(columns.values()), schema=empty.with_metadata({b"beholder": json.dumps(about).encode()}))
    file = BytesIO()
    parquet.write_table(table, file, compression="none", use_dictionary=False)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    centers = np.random.default_rng(0).normal(size=(max(1, options.vectors // 1000), EMBEDDING)).astype(np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    write_parts(options.folder / "parts", options.vectors, centers)
    start = time.monotonic()
    manifest = build_index(str(options.folder / "parts"), options.folder / "index")
    print(
        f"built in {time.monotonic() - start:.0f} s; {manifest.probes} of {manifest.cells} cells; "
        f"recall@10 {manifest.recall:.3f} when tuned"
    )
    print(f"peak memory while building: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    size = sum(file.stat().st_size for file in (options.folder / "index").rglob("*.faiss"))
    print(f"codes: {size / 1e9:.2f} GB")
    queries = made(centers, options.queries, 10**6)
    index = ShardIndex(options.folder / "index")
    truth = ExactSearch(queries)
    for ids, halves in index.batches():
        truth.add(ids, halves.astype(np.float32))
    found, seconds = [], []
    for query in queries:
        start = time.monotonic()
        found.append(index.search_rows(query, 10)[0])
        seconds.append(time.monotonic() - start)
    print(f"recall@10 of {len(queries)} new queries: {recall_at_k(found, truth.ids):.3f}")
    low, median, high = np.percentile(seconds, [5, 50, 95]) * 1000
    print(f"a query: median {median:.1f} ms (5 % {low:.1f}, 95 % {high:.1f})")


if __name__ == "__main__":
    main()
