"""Build an index over made vectors, search it, and report recall, times and memory; with --lance, a Lance dataset, too.

The vectors are clustered: each is a center, of which there is one for every thousand vectors, plus noise as long as the
center. Queries are drawn likewise. Each stage is a process of its own, so that its memory is its own; one that was
ended goes on where it was, and then its time is that of the rest. Run on two cores:

    python benchmarks/scale_index.py --vectors 10000000 --folder /data/scale --lance
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from beholder.album.recall import K, exact_search, recall_at_k
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


def build(options: argparse.Namespace) -> None:
    start = time.monotonic()
    manifest = build_index(str(options.folder / "parts"), options.folder / "index")
    print(
        f"built in {time.monotonic() - start:.0f} s; {manifest.probes} of {manifest.cells} cells; "
        f"recall@10 {manifest.recall:.3f} when tuned; peak memory {peak_gigabytes():.2f} GB"
    )
    size = sum(file.stat().st_size for file in (options.folder / "index").rglob("*.faiss"))
    print(f"codes: {size / 1e9:.2f} GB")


def search_exactly(options: argparse.Namespace) -> None:
    """Write the keys of the ten nearest vectors of each query."""
    index = ShardIndex(options.folder / "index")
    truth = exact_search(index.batches(), queries(options))
    keys = [[index.row(number)["key"] for number in ids] for ids in truth.tolist()]
    write_bytes(options.folder / "truth.json", json.dumps(keys).encode())


def search(options: argparse.Namespace) -> None:
    index = ShardIndex(options.folder / "index")
    found, seconds = [], []
    for query in queries(options):
        start = time.monotonic()
        found.append(np.array([hit.row["key"] for hit in index.search(query, K)]))
        seconds.append(time.monotonic() - start)
    report("", found, seconds, options)


def build_dataset(options: argparse.Namespace) -> None:
    from beholder.scale.lance_index import build_lance

    start = time.monotonic()
    build_lance(str(options.folder / "parts"), str(options.folder / "vectors.lance"))
    print(f"Lance: built in {time.monotonic() - start:.0f} s; peak memory {peak_gigabytes():.2f} GB")


def search_dataset(options: argparse.Namespace) -> None:
    """Search with more and more partitions and candidates, until the recall is that which the other index aims at."""
    import lance

    dataset = lance.dataset(str(options.folder / "vectors.lance"))
    for probes in (10, 20, 40, 80, 160, 320):  # and as many candidates that are scored again, for each result
        found, seconds = [], []
        for query in queries(options):
            near = {"column": "vector", "q": query.astype(np.float16), "k": K, "metric": "cosine"}
            start = time.monotonic()
            table = dataset.to_table(
                nearest=near | {"nprobes": probes, "refine_factor": probes}, columns=["key", "_distance"]
            )
            seconds.append(time.monotonic() - start)
            found.append(table["key"].to_numpy(zero_copy_only=False).astype(str))
        if report(f"Lance, {probes} partitions and candidates, ", found, seconds, options) >= 0.95:
            break


def queries(options: argparse.Namespace) -> np.ndarray:
    return made(centers(options), options.queries, 10**6)


def centers(options: argparse.Namespace) -> np.ndarray:
    random = np.random.default_rng(0).normal(size=(max(1, options.vectors // 1000), EMBEDDING)).astype(np.float32)
    return random / np.linalg.norm(random, axis=1, keepdims=True)


def report(name: str, found: list[np.ndarray], seconds: list[float], options: argparse.Namespace) -> float:
    """Print how a search went, and return its recall."""
    recall = recall_at_k(found, np.array(json.loads((options.folder / "truth.json").read_text())))
    low, median, high = np.percentile(seconds, [5, 50, 95]) * 1000
    print(
        f"{name}{len(found)} new queries: recall@10 {recall:.3f}; median {median:.1f} ms "
        f"(5 % {low:.1f}, 95 % {high:.1f}); at most {peak_gigabytes():.2f} GB resident"
    )
    return recall


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


STAGES = {
    "build": build,
    "exact": search_exactly,
    "search": search,
    "build-lance": build_dataset,
    "search-lance": search_dataset,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--lance", action="store_true", help="a Lance dataset, too")
    parser.add_argument("--stage", choices=STAGES, help="one stage alone, in this process")
    options = parser.parse_args()
    if options.stage:
        STAGES[options.stage](options)
        return
    write_parts(options.folder / "parts", options.vectors, centers(options))
    for stage in STAGES:
        if options.lance or "lance" not in stage:
            subprocess.run([sys.executable, *sys.argv, "--stage", stage], check=True)


if __name__ == "__main__":
    main()
