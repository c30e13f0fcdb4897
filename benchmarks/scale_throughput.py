"""Pictures a second of `beholder scale embed`, local and on Ray, beside `beholder embed` on the same pictures.

The sides take turns, each in a process of its own that embeds the same pictures, from files (`embed`) and from shards,
once it has embedded one. With --memory, the highest resident memory of the local engine after a quarter of the shards
and at the end is printed instead.

    python benchmarks/scale_throughput.py --folder /tmp/scale --shards 8 --pictures 500 --rounds 3
    python benchmarks/scale_throughput.py --folder /tmp/memory --shards 200 --pictures 500 --memory --model tiny
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from scale_cluster import write_model, write_shards

SIDES = ("embed", "local", "ray")


def embed(side: str, folder: Path, model: str, memory: bool) -> None:
    """Embed all pictures in this process; print how it went as JSON."""
    from beholder import DualEncoder
    from beholder.scale.embed import EmbedRun
    from beholder.scale.parts import RunSettings
    from beholder.scale.shard_embedder import EmbedOptions
    from beholder.scale.shards import list_shards

    encoder = DualEncoder.from_pretrained(model)
    encoder.embed_images([next((folder / "pictures").iterdir())])
    if side == "embed":
        pictures = sorted((folder / "pictures").iterdir())
        start = time.monotonic()
        done = sum(found.error is None for found in encoder.stream_images(pictures))
        print(json.dumps({"pictures": done, "seconds": time.monotonic() - start}))
        return
    out = folder / f"out-{side}"
    shutil.rmtree(out, ignore_errors=True)
    settings = RunSettings(model, encoder.fingerprint, encoder.towers.embedding)
    warm_up = folder / f"out-{side}-warm-up"  # imports the readers of shards and the writer of parts
    shutil.rmtree(warm_up, ignore_errors=True)
    list(EmbedRun(list_shards([str(folder / "one")]), EmbedOptions(str(warm_up), settings), encoder))
    shards = list_shards([str(folder / "shards")])
    run = EmbedRun(shards, EmbedOptions(str(out), settings), encoder, engine=side)  # type: ignore[arg-type]
    peaks, first, done, started = [], None, 0, time.monotonic()
    for number, result in enumerate(run, 1):
        now = time.monotonic()
        if side == "ray" and first is None:  # until then, workers start and load the model
            first = now
        else:
            done += result.rows
        if memory and number in (len(shards) // 4, len(shards)):
            peaks.append(peak_memory())
    seconds = time.monotonic() - (started if first is None else first)
    print(json.dumps({"pictures": done, "seconds": seconds, "peaks": peaks}))


def peak_memory() -> int:
    """Return the highest resident memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def measure(side: str, folder: Path, model: str, memory: bool = False) -> dict:
    """Embed in a process of its own."""
    order = [sys.executable, __file__, "--folder", str(folder), "--model", model, "--side", side]
    run = subprocess.run([*order, *(["--memory"] if memory else [])], capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=500, help="in a shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="mini", help="or tiny, a small random one")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder
    if options.side:
        return embed(options.side, folder, options.model, options.memory)
    model = str(write_model(folder / "model")) if options.model == "tiny" else options.model
    write_shards(folder / "shards", options.shards, options.pictures)
    write_shards(folder / "one", 1, 1)
    (folder / "pictures").mkdir(exist_ok=True)
    for shard in sorted((folder / "shards").glob("*.tar"))[: 1 if options.memory else None]:
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    archive.extract(member, folder / "pictures", filter="data")
    if options.memory:
        found = measure("local", folder, model, memory=True)
        quarter, end = found["peaks"]
        print(f"{found['pictures']:,} pictures, {found['pictures'] / found['seconds']:.0f} a second")
        print(f"peak memory: a quarter {quarter / 1e6:.1f} MB, the end {end / 1e6:.1f} MB, {end / quarter - 1:+.1%}")
        return None
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            found = measure(side, folder, model)
            rates[side].append(found["pictures"] / found["seconds"])
    for side, values in rates.items():
        print(f"{side}: {statistics.median(values):.1f} pictures a second ({min(values):.1f} to {max(values):.1f})")
    for side, other in (("local", "embed"), ("ray", "local")):
        ratios = [a / b for a, b in zip(rates[side], rates[other], strict=True)]
        print(f"{side} / {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return None


if __name__ == "__main__":
    main()
