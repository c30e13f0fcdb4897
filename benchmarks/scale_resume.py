"""Time how long a run needs to know what is left, with many parts there already: seconds of one processor.

python benchmarks/scale_resume.py --parts 100000
"""

import argparse
import tempfile
import time
from pathlib import Path

from beholder.scale.embed import EmbedRun
from beholder.scale.parts import RunSettings
from beholder.scale.shard_embedder import EmbedOptions
from beholder.scale.shards import list_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=100_000)
    options = parser.parse_args()
    settings = RunSettings("made", "made", 512)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        source = f"{scratch}/shards/{{0000000..{options.parts + 9:07}}}.tar"
        for shard in list_shards([source])[10:]:
            (out / settings.part(shard)).touch()
        start = time.process_time()
        shards = list_shards([source])
        listed = time.process_time()
        run = EmbedRun(shards, EmbedOptions(str(out), settings), None)  # type: ignore[arg-type]
        end = time.process_time()
    print(f"{len(shards):,} shards, {options.parts:,} parts: {len(run.todo)} left")
    print(f"shards named in {listed - start:.1f} s, what is left found in {end - listed:.1f} s")


if __name__ == "__main__":
    main()
