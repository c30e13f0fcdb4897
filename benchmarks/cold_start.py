"""Time of a command from a cold start: each run is a process of its own.

    python benchmarks/cold_start.py [--runs 5] [--picture demo/photographs/cat.jpg]

The interpreter alone and ``import torch`` alone are included as lower bounds. `mini` must be in the cache (`beholder
pull mini`). A warm-up run brings the files into the page cache.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

PICTURE = Path(__file__).parent.parent / "demo" / "photographs" / "cat.jpg"


def program(*arguments: str) -> str:
    return f"import sys; sys.argv = {['beholder', *arguments]!r}; from beholder.cli.main import run; run()"


def measure(code: str, runs: int) -> dict[str, float]:
    """Return median and spread of the wall-clock time, and the median CPU time."""
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    clock, work = [], []
    for _ in range(runs):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        clock.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "seconds": round(statistics.median(clock), 3),
        "fastest": round(min(clock), 3),
        "slowest": round(max(clock), 3),
        "of processors": round(statistics.median(work), 3),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--picture", type=Path, default=PICTURE)
    given = options.parse_args()
    cases = {
        "the interpreter": "pass",
        "beholder --help": program("--help"),
        "import torch": "import torch",
        "beholder classify": program("classify", str(given.picture), "--label", "cat", "--label", "dog"),
    }
    for name, code in cases.items():
        print(json.dumps({"command": name, **measure(code, given.runs)}), flush=True)


if __name__ == "__main__":
    main()
