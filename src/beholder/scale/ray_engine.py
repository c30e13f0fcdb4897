"""The engine of a cluster: Ray actors that embed one shard after the other, fed by the driver.

This is Ray's core and not Ray Data. Ray Data cuts what it reads into blocks of its own size and merges them again,
while here a shard is what is retried and what becomes a file; and its stages hand over pictures through the object
store, while a worker here reads its shard from storage itself. So nothing but addresses and counts passes between
processes, memory doesn't grow with the collection, and the parts that are written are the only state: a worker, a
machine or the driver may be killed at any moment, and what is lost is the shards that were being embedded.

A machine with GPUs runs a worker for each, other machines run one; machines that join or leave are noticed. In a
cluster that has GPUs, machines without one do nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from beholder.errors import BeholderError, InvalidSetting, MissingExtra
from beholder.scale.shard_embedder import EmbedOptions, ShardEmbedder, ShardResult

MAX_DEATHS = 5  # of workers, while they embed the same shard: after that, the shard is at fault
REFRESH = 5.0  # seconds between looks at the machines
CONNECT_SECONDS = 10.0  # to reach the address of a cluster
PATIENCE = 60.0  # seconds without any worker before a warning


class RayWarning(UserWarning):
    """The cluster has no room for a worker."""


class WorkersDied(BeholderError):
    """Workers die before they are given a shard."""


class RayWorker:
    """An actor: one set of models, and the shards that it is given.

    Args:
        options: what to do.
    """

    def __init__(self, options: EmbedOptions):
        self.options = options
        self.embedder: ShardEmbedder | None = None

    def start(self) -> BeholderError | None:
        """Load the models; return what is wrong with them."""
        try:
            self.embedder = ShardEmbedder(self.options)
        except BeholderError as error:
            return error
        return None

    def embed(self, shard: str) -> ShardResult | BeholderError:
        """Embed a shard; return the outcome, or the error that ends the run."""
        from ray.util.metrics import Counter

        if self.embedder is None:
            raise RuntimeError("start comes first")
        try:
            result = self.embedder.embed(shard)
        except BeholderError as error:
            return error
        pictures = Counter("beholder_scale_pictures", "Pictures of shards, by outcome.", ("outcome",))
        for outcome, count in (("embedded", result.rows - result.failed), ("failed", result.failed)):
            if count:
                pictures.inc(count, {"outcome": outcome})
        return result


def run_ray(options: EmbedOptions, shards: Sequence[str], address: str | None = None) -> Iterator[ShardResult]:
    """Yield the outcome of each shard, in the order in which they are done.

    Args:
        options: what to do; the workers load the model by its name, so it must be there on every machine.
        shards: their addresses.
        address: of a cluster, such as ``"auto"``; by default ``$RAY_ADDRESS``, or a cluster on this machine alone.

    Raises:
        MissingExtra: Ray is not installed.
        InvalidSetting: there is no cluster at this address.
        WriteFailed, ModelError: what a worker raises.
        WorkersDied: workers die while they load the model.

    Warns:
        RayWarning: there is no room for a worker.
    """
    with ray_prints_to_stderr(), _connected(address):
        workers = _Workers(options)
        try:
            yield from _work(workers, deque(shards))
        finally:
            workers.stop()


def _work(workers: _Workers, todo: deque[str]) -> Iterator[ShardResult]:
    import ray
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

    died = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
    running: dict[Any, tuple[str, Any]] = {}  # call: shard and worker
    deaths: Counter[str] = Counter()
    failed_starts = 0  # since one succeeded
    while todo or running:
        workers.refresh()
        while todo and workers.idle:
            shard, worker = todo.popleft(), workers.idle.pop()
            running[worker.embed.remote(shard)] = shard, worker
        calls = [*running, *workers.starting]
        if not calls:
            time.sleep(REFRESH)
            continue
        for call in ray.wait(calls, num_returns=1, timeout=REFRESH)[0]:
            given, worker = running.pop(call, (None, workers.starting.pop(call, None)))
            try:
                result = ray.get(call)
            except died as error:
                workers.lost(worker)
                if given is None:
                    failed_starts += 1
                    if failed_starts >= MAX_DEATHS:
                        raise WorkersDied(f"{MAX_DEATHS} workers died while they loaded the model: {error}") from error
                    continue
                deaths[given] += 1
                if deaths[given] < MAX_DEATHS:
                    todo.append(given)
                else:
                    yield ShardResult(given, error=f"{given}: {MAX_DEATHS} workers died while they embedded it")
                continue
            if isinstance(result, BeholderError):
                raise result
            workers.idle.append(worker)
            failed_starts = 0
            if result is not None:
                yield result


class _Workers:
    """The actors: as many as the machines have room for.

    Attributes:
        idle: those without a shard.
        starting: those whose models are being loaded or that wait for room, by the call of `RayWorker.start`.
    """

    def __init__(self, options: EmbedOptions):
        self.options = options
        self.all: list[Any] = []
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self._refreshed = 0.0
        self._alive = time.monotonic()  # when there was a worker that is not starting

    def refresh(self) -> None:
        """Start workers on new machines; give up those that wait for room on machines that are gone."""
        import ray

        now = time.monotonic()
        if len(self.all) > len(self.starting):
            self._alive = now
        if now - self._refreshed < REFRESH and self.all:
            return
        self._refreshed = now
        wanted, needs = worker_resources([node["Resources"] for node in ray.nodes() if node["Alive"]])
        while len(self.all) < wanted:
            worker: Any = ray.remote(RayWorker).options(max_restarts=0, **needs).remote(self.options)
            self.all.append(worker)
            self.starting[worker.start.remote()] = worker
        while len(self.all) > wanted and self.starting:
            self.lost(self.starting.pop(next(reversed(self.starting))))
        if now - self._alive > PATIENCE:
            warnings.warn("the cluster has had no room for a worker for a while; waiting", RayWarning, stacklevel=2)

    def lost(self, worker: Any) -> None:
        """Take away a worker that is dead or not needed; `refresh` starts another where there is room."""
        import ray

        ray.kill(worker)
        self.all.remove(worker)
        self._refreshed = 0.0

    def stop(self) -> None:
        """End all workers."""
        import ray

        for worker in self.all:
            ray.kill(worker)


def worker_resources(nodes: Sequence[dict[str, float]]) -> tuple[int, dict[str, float]]:
    """Return how many workers some machines have room for, and what each asks Ray for.

    Args:
        nodes: resources of each machine, by Ray's names.
    """
    gpus = [(int(node["GPU"]), node.get("CPU", 0)) for node in nodes if node.get("GPU", 0) >= 1]
    if gpus:
        return sum(count for count, _ in gpus), {"num_gpus": 1, "num_cpus": min(cpus // count for count, cpus in gpus)}
    cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) >= 1]
    return len(cpus), {"num_cpus": min(cpus, default=1)}


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing answers: Ray itself would try again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # auto or local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InvalidSetting(f"--address {address}: no Ray cluster there ({error})") from error


class _StandardOutput:
    """Standard output, without what Ray's threads print about dead workers: that goes to standard error."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what the command itself prints."""
        by_ray = threading.current_thread().name.startswith("ray_")
        return (sys.stderr if by_ray else self._stream).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def ray_prints_to_stderr() -> redirect_stdout[Any]:
    """Return a context in which standard output holds results alone; Ray has no setting for it."""
    return redirect_stdout(_StandardOutput(sys.stdout))


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine for as long as the block lasts."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("--engine ray", "scale") from error
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    start: dict[str, Any] = {}
    _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    if address is None and "RAY_ADDRESS" not in os.environ:
        start = {"include_dashboard": False}
        address = "local"
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **start)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidSetting(f"--address {address}: no Ray cluster there ({str(error).splitlines()[0]})") from error
    try:
        yield
    finally:
        ray.shutdown()
