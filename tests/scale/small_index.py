"""An index over made vectors, without a model."""

from pathlib import Path

import numpy as np

from beholder.files import write_bytes
from beholder.scale.build_index import build_index
from beholder.scale.parts import Row, RunSettings, encode_part, start_run
from beholder.scale.storage import Location


def write_index(folder: Path, vectors: np.ndarray, shards: int = 2) -> Path:
    """Write an index of vectors (n, E); the key of each is its number."""
    settings = RunSettings("none", "fingerprint", vectors.shape[1])
    start_run(Location.of(str(folder / "parts")), settings)
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), shards)):
        shard = f"/shards/{number:02}.tar"
        content = [Row(f"{row}", caption=f"picture {row}", width=row, vector=vectors[row]) for row in rows]
        write_bytes(folder / "parts" / settings.part(shard), encode_part(content, settings, shard, "size 1"))
    build_index(str(folder / "parts"), folder / "index")
    return folder / "index"
