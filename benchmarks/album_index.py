"""Time to re-index an unchanged folder, and to search from a cold start.

    python benchmarks/album_index.py [--files 50000] [--model mini]

The files are small pictures, all different. The first run embeds them and is timed as well; then `beholder index` runs
again on the unchanged folder, and `beholder search` on the album, each several times in a process of its own.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

RUN = "from beholder.cli.main import run; run()"


def timed(*arguments: object) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", RUN, *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - start


def spread(times: list[float]) -> str:
    return f"median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, album = Path(name) / "pictures", Path(name) / "album"
        random = np.random.default_rng(0)
        for number in range(options.files):
            path = folder / str(number // 500) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)
        index = ("index", folder, "--album", album, "--model", options.model)
        first = timed(*index)
        print(f"{options.files} files, first run: {first:.1f} s, {options.files / first:.0f} a second", flush=True)
        print(f"unchanged: {spread([timed(*index) for _ in range(options.times)])}", flush=True)
        search = ("search", "a dog in the snow", "--album", album, "--nearest")
        print(f"search, cold start: {spread([timed(*search) for _ in range(options.times)])}", flush=True)


if __name__ == "__main__":
    main()
