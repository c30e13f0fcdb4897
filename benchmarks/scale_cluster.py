"""Kill everything once: 20,000 pictures in 40 shards, embedded on a Ray cluster of three nodes on this machine.

An undisturbed run is made twice. In another one the driver is killed with SIGKILL ten times, a worker and a node once
(another node joins), and the disk of the output is full once. Each result must have every key exactly once, and the
bytes of a run in a single process. The model is a small random one: this is about the engine.

Runs as root, to mount the disk that becomes full; elsewhere that is left out, and said so:

    python benchmarks/scale_cluster.py --folder /tmp/scale
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

NODES = 3
WAIT = 600.0  # seconds for the next shard


def write_shards(folder: Path, shards: int, pictures: int) -> None:
    """Write tar files of small pictures with captions; their keys are unique over all shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        path = folder / f"{number:05}.tar"
        if path.exists():
            continue
        random = np.random.default_rng(number)
        with tarfile.open(path.with_suffix(".part"), "w") as archive:
            for place in range(pictures):
                key, file = f"{number:05}-{place:05}", io.BytesIO()
                coarse = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(file, "JPEG")
                for name, data in ((f"{key}.jpg", file.getvalue()), (f"{key}.txt", f"picture {key}".encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        path.with_suffix(".part").rename(path)


def write_model(folder: Path) -> Path:
    """Write a small random dual encoder."""
    import tiny_model
    from beholder.weights.native import save_dual_encoder

    if not folder.exists():
        save_dual_encoder(tiny_model.build(), folder)
    return folder


class Driver:
    """The command, in a process of its own."""

    def __init__(self, shards: Path, out: Path, model: Path, address: str | None):
        order = [sys.executable, "-m", "beholder", "scale", "embed", str(shards), "--out", str(out), "--json"]
        order += ["--model", str(model), *(["--engine", "ray", "--address", address] if address else [])]
        self.process = subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def next_shard(self) -> dict | None:
        """Wait for the next shard; None when the command has ended."""
        line = self.process.stdout.readline()
        try:
            return json.loads(line) if line else None
        except ValueError:
            raise SystemExit(f"not JSON: {line!r}; then: {self.process.stdout.read()!r}") from None

    def finish(self) -> tuple[int, int, str]:
        """Wait for the end; return the shards that were still done, the exit code, and the messages."""
        done = 0
        while self.next_shard() is not None:
            done += 1
        messages = self.process.stderr.read()
        return done, self.process.wait(), messages

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def content(out: Path) -> dict[str, bytes]:
    """Return all parts."""
    return {path.name: path.read_bytes() for path in out.glob("part-*.parquet")}


def keys(out: Path) -> list[str]:
    """Return the keys of all rows, sorted."""
    from pyarrow import parquet

    return sorted(key for path in out.glob("part-*") for key in parquet.read_table(path)["key"].to_pylist())


def free_ports() -> dict[str, int]:
    """Return ports for a node's agents. Where Ray chooses them, it waits at most 15 seconds for each agent."""
    names = ("metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    with contextlib.ExitStack() as stack:
        return {name: stack.enter_context(socket.create_server(("", 0))).getsockname()[1] for name in names}


def add_node(cluster):
    """Start a node; again if Ray's own 30 seconds for it are over, as on a busy machine."""
    for attempt in range(5):
        try:
            return cluster.add_node(num_cpus=1, **free_ports())
        except Exception as error:
            print(f"node not started in time ({attempt + 1}): {error}", flush=True)
    raise SystemExit("this machine is too busy for another node")


def worker_of(node) -> int | None:
    """Return the process on a node that is embedding."""
    raylet = str(node.all_processes["raylet"][0].process.pid)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == raylet and (folder / "cmdline").read_text().startswith("ray::RayWorker"):
                return int(folder.name)
    return None


def disturbed(shards: Path, out: Path, model: Path, cluster, nodes: list, kills: int) -> list[str]:
    """Run until all is done, and kill what there is; return what happened."""
    happened = []
    out.mkdir(parents=True)
    small = sum(map(len, content(out.with_name("single")).values())) // 4
    disk = (
        os.geteuid() == 0
        and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", out]).returncode == 0
    )
    try:
        if disk:
            done, code, message = Driver(shards, out, model, cluster.address).finish()
            if code != 2 or "No space left on device" not in message:
                raise SystemExit(f"a full disk: exit code {code}, {message}")
            happened.append(f"disk full after {done} shards: exit code {code}")
            subprocess.run(["mount", "-o", "remount,size=1g", out], check=True)
        else:
            happened.append("the disk could not be filled: this needs root")
        events = {2: "worker", 5: "node"}
        driver, started = Driver(shards, out, model, cluster.address), 0
        while (result := driver.next_shard()) is not None:
            if result["error"]:
                raise SystemExit(f"a shard failed: {result['error']}")
            started += 1
            event = events.pop(started, None)
            if event == "worker":
                found = [pid for pid in map(worker_of, nodes) if pid is not None]
                os.kill(found[0], signal.SIGKILL)
                happened.append("a worker killed")
            elif event == "node":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                happened.append("a node killed")
                nodes.append(add_node(cluster))
                happened.append("a node joined")
            elif kills and not events:
                driver.kill()
                kills -= 1
                happened.append(f"the driver killed, {len(content(out))} parts there")
                driver = Driver(shards, out, model, cluster.address)
        done, code, message = driver.finish()
        if code != 0:
            raise SystemExit(f"exit code {code}: {message}")
        if kills:
            happened.append(f"the work was done before the last {kills} kills of the driver")
        kept = out.with_name(out.name + "-kept")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(out, kept)
    finally:
        if disk:
            subprocess.run(["umount", out], check=False)
    shutil.copytree(kept, out, dirs_exist_ok=True)
    shutil.rmtree(kept)
    return happened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=500, help="in a shard")
    parser.add_argument("--kills", type=int, default=10, help="of the driver")
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    shards, model = options.folder / "shards", write_model(options.folder / "model")
    write_shards(shards, options.shards, options.pictures)
    outs = {name: options.folder / name for name in ("single", "undisturbed", "again", "disturbed")}
    for out in outs.values():
        shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    Driver(shards, outs["single"], model, None).finish()
    print(f"a single process: {time.monotonic() - start:.0f} s", flush=True)
    expected = [f"{n:05}-{p:05}" for n in range(options.shards) for p in range(options.pictures)]
    if keys(outs["single"]) != expected:
        raise SystemExit("the run in a single process has other keys")
    health = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": health, **free_ports()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [add_node(cluster) for _ in range(NODES - 1)]
        for name in ("undisturbed", "again"):
            start = time.monotonic()
            done, code, _ = Driver(shards, outs[name], model, cluster.address).finish()
            print(
                f"{name}, three nodes: {done} shards in {time.monotonic() - start:.0f} s, exit code {code}", flush=True
            )
        start = time.monotonic()
        for event in disturbed(shards, outs["disturbed"], model, cluster, nodes, options.kills):
            print(f"  {event}")
        print(f"disturbed: {time.monotonic() - start:.0f} s")
    finally:
        cluster.shutdown()
    for name in ("undisturbed", "again", "disturbed"):
        same = content(outs[name]) == content(outs["single"])
        once = keys(outs[name]) == expected
        print(f"{name}: every key exactly once: {once}; the bytes of the single process: {same}")
        if not (same and once):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
