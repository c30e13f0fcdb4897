import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from pyarrow import parquet
from small_shards import write_shards

from beholder import DualEncoder
from beholder.scale.embed import EmbedRun
from beholder.scale.parts import RunSettings
from beholder.scale.ray_engine import ray_prints_to_stderr, worker_resources
from beholder.scale.shard_embedder import EmbedOptions
from beholder.scale.shards import list_shards
from command import beholder

ray = pytest.importorskip("ray", reason="runs on Ray")


@pytest.mark.parametrize(
    ("nodes", "workers", "needs"),
    [
        ([{"CPU": 4.0}], 1, {"num_cpus": 4}),
        ([{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}], 2, {"num_cpus": 4}),
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 64.0}, {"CPU": 6.0, "GPU": 1.0}], 5, {"num_gpus": 1, "num_cpus": 6}),
        ([{"memory": 1.0}], 0, {"num_cpus": 1}),
    ],
)
def test_each_gpu_or_else_each_machine_gets_a_worker(nodes: list[Any], workers: int, needs: dict[str, float]) -> None:
    assert worker_resources(nodes) == (workers, needs)


def test_what_ray_prints_does_not_get_among_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with ray_prints_to_stderr():
        listener = threading.Thread(target=print, args=("A worker died",), name="ray_listen_error_messages")
        listener.start()
        listener.join()
        print("a result")
    assert tuple(capsys.readouterr()) == ("a result\n", "A worker died\n")


def free_ports() -> dict[str, int]:
    """Return ports for a machine's agents. Where Ray chooses them, it waits at most 15 seconds for each agent."""
    names = ("metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    sockets = [socket.create_server(("", 0)) for _ in names]
    ports = {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one machine, which stays when its driver ends."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    try:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, **free_ports()},
        )
    except Exception as error:  # Ray gives its processes 30 seconds to start
        pytest.skip(f"this machine is too busy for a Ray cluster: {error}")
    yield cluster
    cluster.shutdown()


def contents(out: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in out.glob("part-*")}


def workers_on(machine: Any) -> list[int]:
    """Return the processes on a machine that are embedding."""
    raylets = {str(process.process.pid) for process in machine.all_processes["raylet"]}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent in raylets and (folder / "cmdline").read_text().startswith("ray::RayWorker"):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
def test_killed_workers_lose_nothing(tmp_path: Path, tiny_model: Path, cluster: Any) -> None:
    shards, out = write_shards(tmp_path / "shards", 12, 2), tmp_path / "out"
    assert beholder("scale", "embed", shards, "--out", tmp_path / "local", "--model", tiny_model).returncode == 0
    encoder = DualEncoder.from_pretrained(tiny_model)
    settings = RunSettings(str(tiny_model), encoder.fingerprint, encoder.towers.embedding)
    run = EmbedRun(
        list_shards([str(shards)]), EmbedOptions(str(out), settings), encoder, engine="ray", address=cluster.address
    )
    results = []
    for result in run:
        results.append(result)
        if len(results) == 3:
            [worker] = workers_on(cluster.head_node)
            os.kill(worker, SIGKILL)
    assert [result.error for result in results] == [None] * len(results) and run.progress.left == 0
    assert contents(out) == contents(tmp_path / "local") and len(contents(out)) == 12
    keys = [key for part in out.glob("part-*") for key in parquet.read_table(part)["key"].to_pylist()]
    assert sorted(keys) == [f"{shard:03}-{place:03}" for shard in range(12) for place in range(2)]


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(tmp_path: Path, tiny_model: Path, cluster: Any) -> None:
    shards, out = write_shards(tmp_path / "shards", 12, 2), tmp_path / "out"
    order = ("scale", "embed", shards, "--model", tiny_model, "--out")
    assert beholder(*order, tmp_path / "local").returncode == 0
    ray_order = (*order, out, "--engine", "ray", "--address", cluster.address, "--json")
    command = [sys.executable, "-m", "beholder", *map(str, ray_order)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None and json.loads(driver.stdout.readline())["error"] is None
        driver.send_signal(SIGKILL)
    assert contents(out)
    run = beholder(*ray_order)
    assert run.returncode == 0 and all(json.loads(line)["error"] is None for line in run.stdout.splitlines())
    assert contents(out) == contents(tmp_path / "local") and len(contents(out)) == 12


def test_an_address_without_a_cluster_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    shards = write_shards(tmp_path / "shards", 1, 1)
    order = ("scale", "embed", shards, "--out", tmp_path / "out", "--model", tiny_model, "--address", "no such:1")
    assert "needs --engine ray" in beholder(*order).stderr
    run = beholder(*order, "--engine", "ray")
    assert run.returncode == 2 and "no Ray cluster there" in run.stderr
