"""Search in albums of 100,000 and of a million vectors, compared with plain FAISS, usearch and LanceDB.

    pip install usearch lancedb
    python benchmarks/album_search.py [--vectors 100000 1000000] [--sides album faiss usearch lance] [--work FOLDER]

The vectors are sampled as described in `album_vectors`: clustered hierarchically, like `mini`'s. Half of the 200
queries are sampled like pictures and half like sentences; none is among the vectors. All sides search the same
vectors with the same queries, one query at a time, with the same number of threads. Recall is recall@10 against exact
search. An approximate side is tuned to a recall of 0.95 by the smallest setting that reaches it; the album tunes
itself, on other queries. Each side runs in a process of its own: `gigabytes` is its peak resident memory, `build_s`
the time from vectors to a searchable index.

For the album, `whole_search_ms` is all of `Album.search` except embedding the query, `filtered_ms` the search alone
under filters with the given selectivity, and `filtered_recall` its recall where the pictures that pass the filter lie
far from the query. `cold_start_s` is `beholder search` as a program, with the sentence embedded by mini (median,
minimum, maximum); `without_torch`, whether it ran without loading PyTorch.

With --work, sampled vectors are kept and reused, so that sides can be measured one after the other. Libraries that
are not installed are skipped.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from album_vectors import AlbumVectors
from resident import most_resident

RECALL, K, QUERIES = 0.95, 10, 200
APPROXIMATE_ABOVE = 250_000  # vectors; up to here every side searches exactly, except usearch, which cannot
MEASURED_TWICE = 50  # queries for the additional measurements

Search = Callable[[np.ndarray], np.ndarray]


def prepare(work: Path, count: int, dimensions: int) -> None:
    """Return the vectors, queries, tuning sentences and exact neighbors."""
    from beholder.album.recall import exact_search

    drawn = AlbumVectors(count, dimensions)
    halves = drawn.pictures(count)
    queries = np.concatenate([drawn.pictures(QUERIES // 2).astype(np.float32), drawn.sentences(QUERIES // 2)])
    np.save(work / "sentences.npy", drawn.sentences(100))
    np.save(work / "queries.npy", queries)
    parts = (
        (np.arange(row, row + 50_000)[: count - row], halves[row : row + 50_000]) for row in range(0, count, 50_000)
    )
    np.save(work / "truth.npy", exact_search(parts, queries, K))
    np.save(work / "vectors.npy", halves)


def measure(search: Search, queries: np.ndarray, truth: np.ndarray) -> tuple[float, list[float]]:
    """Return recall, and the milliseconds per query (median, 10th and 90th percentile)."""
    for query in queries[:10]:
        search(query)
    hits, times = 0, []
    for query, best in zip(queries, truth, strict=True):
        start = time.perf_counter()
        found = search(query)
        times.append(1e3 * (time.perf_counter() - start))
        hits += len(np.intersect1d(found, best))
    return round(hits / truth.size, 3), [round(float(value), 2) for value in np.percentile(times, [50, 10, 90])]


def tuned(searches: dict[str, Search], queries: np.ndarray, truth: np.ndarray) -> dict:
    """Return the first setting that reaches the recall, or else the last."""
    found = {}
    for setting, search in searches.items():
        recall, times = measure(search, queries, truth)
        found = {"setting": setting, "recall": recall, "ms": times}
        if recall >= RECALL:
            break
    return found


def model_folder(work: Path, dimensions: int) -> str:
    """Write a folder that stands in for a model, with the sentences that the album tunes its index with."""
    from beholder.weights.calibration import Calibration

    folder = work / "model"
    folder.mkdir(exist_ok=True)
    Calibration(np.load(work / "sentences.npy"), np.zeros(3)).save(folder)
    return str(folder)


def fill_album(folder: Path, halves: np.ndarray, work: Path) -> None:
    from beholder.album import model_identity
    from beholder.album.album import Album
    from beholder.album.store.models import add_model
    from beholder.tasks.dual_encoder import DualEncoder

    dimensions = halves.shape[1]
    with Album.open(folder) as album:
        if dimensions == 512 and len(halves) <= APPROXIMATE_ABOVE:  # as if embedded by mini, for the cold start
            model = model_identity.register(album.store, DualEncoder.from_pretrained("mini"), "mini")
        else:
            model = add_model(album.store, "f" * 64, "made", dimensions, model_folder(work, dimensions), None)
        execute = album.store.connection.execute
        for start in range(0, len(halves), 50_000):
            with album.store.transaction():
                for row in range(start, min(start + 50_000, len(halves))):
                    path, data, number = f"/p/{row // 1000}/{row}.jpg".encode(), halves[row].tobytes(), row + 1
                    execute(
                        "INSERT INTO content (id, sha256, width, height, format) VALUES (?, ?, 1, 1, 'JPEG')",
                        (number, path),
                    )
                    execute("INSERT INTO vector VALUES (?, ?, ?, ?)", (number, model.id, number, data))
                    name = f"{row // 1000}/{row}.jpg"
                    columns = "id, path, name, size, modified, sidecar, content"
                    execute(
                        f"INSERT INTO picture ({columns}) VALUES (?, ?, ?, 1, 1, 0, ?)", (number, path, name, number)
                    )


def album_build(work: Path) -> list[dict]:
    from beholder.album.album import Album
    from beholder.album.vector_index import VectorIndex

    with Album.open(work / "album") as album:
        start = time.perf_counter()
        VectorIndex(album.store, album.models()[0]).update(RECALL)
        return [{"side": "album, index", "build_s": round(time.perf_counter() - start, 1)}]


def album_side(work: Path) -> list[dict]:
    from beholder.album.album import Album
    from beholder.album.search import Query, search
    from beholder.album.vector_index import VectorIndex

    queries, truth = np.load(work / "queries.npy"), np.load(work / "truth.npy")
    with Album.open(work / "album") as album:
        near = VectorIndex(album.store, album.models()[0])
        start = time.perf_counter()
        near.refresh()
        opened = time.perf_counter() - start
        recall, times = measure(lambda query: near.search(query, K)[0] - 1, queries, truth)
        by_kind = [
            measure(lambda query: near.search(query, K)[0] - 1, queries[part], truth[part])[0] for part in HALVES
        ]

        def whole(query: np.ndarray) -> np.ndarray:
            return np.array([one.picture.content - 1 for one in search(album.store, near, Query(query), K)[0]])

        whole_times = measure(whole, queries, truth)[1]
        about = near.description
        setting = f"{about.probes} of {about.cells} cells" if about is not None and about.probes else "exact"
        row = {"side": "album", "setting": setting, "recall": recall, "ms": times, "whole_search_ms": whole_times}
        row |= {"recall_pictures_sentences": by_kind, "open_s": round(opened, 2)}
        row["gigabytes"] = resident()  # before the memory that only this benchmark needs
        return [row | under_filters(work, near, queries)]


HALVES = (slice(0, QUERIES // 2), slice(QUERIES // 2, QUERIES))


def under_filters(work: Path, near: object, queries: np.ndarray) -> dict:
    """Measure random filters, and one that only the vectors farthest from the query pass."""
    from beholder.album.recall import exact_search, recall_at_k

    halves = np.load(work / "vectors.npy", mmap_mode="r")
    random, ids, times = np.random.default_rng(2), np.arange(1, len(halves) + 1), {}
    for share in (0.5, 0.1, 0.001):
        kept = np.sort(random.choice(ids, int(share * len(ids)), replace=False))
        some = queries[:MEASURED_TWICE]
        times[share] = measure(
            lambda query, kept=kept: near.search(query, K, kept)[0],  # type: ignore[attr-defined]
            some,
            np.zeros((len(some), K)),
        )[1]
    direction = np.asarray(halves[:100_000], np.float32).mean(axis=0)
    leading = np.concatenate(
        [np.asarray(halves[row : row + 50_000], np.float32) @ direction for row in ids[::50_000] - 1]
    )
    kept = ids[leading > np.quantile(leading, 0.8)]
    far = queries[np.argsort(queries @ direction)[:MEASURED_TWICE]]
    truth = exact_search([(kept, halves[kept - 1])], far, K)
    found = [near.search(query, K, kept)[0] for query in far]  # type: ignore[attr-defined]
    return {"filtered_ms": times, "filtered_recall": round(recall_at_k(found, truth), 3)}


def resident() -> float:
    """Return the peak resident memory of this process in gigabytes."""
    return round(most_resident() / 1e9, 2)


def faiss_side(work: Path) -> list[dict]:
    import faiss

    halves, queries, truth = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("vectors", "queries", "truth"))
    if len(halves) <= APPROXIMATE_ABOVE:
        start = time.perf_counter()
        index = faiss.IndexFlatIP(halves.shape[1])
        index.add(halves.astype(np.float32))
        built = round(time.perf_counter() - start, 1)
        found = tuned({"flat float32": lambda query: index.search(query[None], K)[1][0]}, queries, truth)
        return [{"side": "FAISS", **found, "build_s": built}]
    cells = len(halves) // 250
    start = time.perf_counter()
    index = faiss.index_factory(halves.shape[1], f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    some = np.sort(np.random.default_rng(0).choice(len(halves), 40 * cells, replace=False))
    index.train(halves[some].astype(np.float32))
    for row in range(0, len(halves), 50_000):
        index.add(halves[row : row + 50_000].astype(np.float32))
    built = round(time.perf_counter() - start, 1)

    def looking_into(probes: int) -> Search:
        settings = faiss.SearchParametersIVF(nprobe=probes)
        return lambda query: index.search(query[None], K, params=settings)[1][0]

    searches = {f"IVF{cells},SQfp16, nprobe {probes}": looking_into(probes) for probes in steps(1, 512)}
    return [{"side": "FAISS", **tuned(searches, queries, truth), "build_s": built}]


def usearch_side(work: Path) -> list[dict]:
    from usearch.index import Index

    halves, queries, truth = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("vectors", "queries", "truth"))
    index = Index(ndim=halves.shape[1], metric="ip", dtype="f16")
    start = time.perf_counter()
    for row in range(0, len(halves), 50_000):
        index.add(np.arange(row, min(row + 50_000, len(halves))), np.asarray(halves[row : row + 50_000]))
    built = round(time.perf_counter() - start, 1)

    def expanding(expansion: int) -> Search:
        def search(query: np.ndarray) -> np.ndarray:
            index.expansion_search = expansion
            return index.search(query, K).keys

        return search

    searches = {f"HNSW f16, expansion {expansion}": expanding(expansion) for expansion in steps(16, 2048)}
    return [{"side": "usearch", **tuned(searches, queries, truth), "build_s": built}]


def lance_side(work: Path) -> list[dict]:
    import lancedb
    import pyarrow

    halves, queries, truth = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("vectors", "queries", "truth"))
    dimensions, approximate = halves.shape[1], len(halves) > APPROXIMATE_ABOVE

    def batches():
        for row in range(0, len(halves), 50_000):
            some = halves[row : row + 50_000].astype(np.float32)
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(some.reshape(-1)), dimensions)
            numbers = pyarrow.array(np.arange(row, row + len(some)))
            yield pyarrow.RecordBatch.from_arrays([numbers, column], ["id", "vector"])

    fields = [("id", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), dimensions))]
    with tempfile.TemporaryDirectory(dir=work) as place:
        start = time.perf_counter()
        table = lancedb.connect(place).create_table("album", batches(), schema=pyarrow.schema(fields))
        if approximate:
            table.create_index(
                metric="dot", num_partitions=len(halves) // 1000, index_type="IVF_HNSW_SQ", vector_column_name="vector"
            )
        built = round(time.perf_counter() - start, 1)

        def looking_into(probes: int) -> Search:
            def search(query: np.ndarray) -> np.ndarray:
                asked = table.search(query).distance_type("dot").limit(K).select(["id"])
                if approximate:
                    asked = asked.nprobes(probes).refine_factor(4)
                return asked.to_arrow()["id"].to_numpy()

            return search

        name = "IVF_HNSW_SQ, refined by 4, nprobes {}" if approximate else "exact"
        searches = {name.format(probes): looking_into(probes) for probes in (steps(1, 512) if approximate else [0])}
        found = tuned(searches, queries[::4], truth[::4])
    return [{"side": "LanceDB", **found, "build_s": built}]


def steps(least: int, most: int) -> list[int]:
    """Return settings in ascending order, each about a third above the previous one."""
    found = [least]
    while found[-1] < most:
        found.append(max(found[-1] + 1, round(found[-1] * 1.35)))
    return found


SIDES = {"album": album_side, "faiss": faiss_side, "usearch": usearch_side, "lance": lance_side}


def cold_start(folder: Path) -> dict:
    """Time `beholder search` as a program of its own; empty where the album has no model."""
    program = "import sys; from beholder.cli.main import app\ntry:\n    app()\n"
    program += "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    order = [sys.executable, "-c", program, "search", "a dog in the snow", "--nearest", "--album", str(folder)]
    times = []
    for _ in range(9):
        start = time.perf_counter()
        run = subprocess.run(order, capture_output=True, text=True, check=False)
        if run.returncode:
            return {}
        times.append(time.perf_counter() - start)
    without = run.stderr.split()[-1] == "False"
    return {
        "cold_start_s": [round(float(value), 2) for value in np.percentile(times, [50, 0, 100])],
        "without_torch": without,
    }


def in_a_process(work: Path, side: str) -> list[dict]:
    order = [sys.executable, __file__, "--side", side, "--work", str(work)]
    run = subprocess.run(order, capture_output=True, text=True, check=False)
    if run.returncode:
        return [{"side": side, "error": (run.stderr.strip() or f"ended by signal {-run.returncode}").splitlines()[-1]}]
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side = album_build if options.side == "build" else SIDES[options.side]
        print(json.dumps([{"gigabytes": resident(), **row} for row in side(options.work)]))
        return
    for count in options.vectors:
        with tempfile.TemporaryDirectory() as name:
            work = (options.work or Path(name)) / str(count)
            work.mkdir(parents=True, exist_ok=True)
            if not (work / "vectors.npy").exists():
                prepare(work, count, options.dimensions)
            for side in options.sides:
                if side == "album" and not (work / "album").exists():
                    fill_album(work / "album", np.load(work / "vectors.npy", mmap_mode="r"), work)
                build = side == "album" and not list((work / "album").glob("search-*.json"))
                for each in ("build", side) if build else (side,):
                    for row in in_a_process(work, each):
                        cold = cold_start(work / "album") if each == "album" else {}
                        print(json.dumps({"vectors": count, **row, **cold}), flush=True)


if __name__ == "__main__":
    main()
