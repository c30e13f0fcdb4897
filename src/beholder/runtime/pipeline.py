"""Prefetching: while the network computes a batch, threads prepare the next images."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


def map_ahead(
    function: Callable[[Input], Output], inputs: Iterable[Input], ahead: int, threads: int | None = None
) -> Iterator[Output]:
    """Like ``map``, with up to ``ahead`` results computed in advance by threads, as many as there are processors.

    Results come in order. An exception of ``function`` is raised here when its input's turn comes; leaving the loop
    early cancels the calls that have not started.
    """
    source = iter(inputs)
    pool = ThreadPoolExecutor(max_workers=threads or cpu_count() or 1, thread_name_prefix="beholder-decode")
    try:
        pending: deque[Future[Output]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        while pending:
            result = pending.popleft().result()
            for item in islice(source, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches(items: Iterable[Input], size: int) -> Iterator[list[Input]]:
    """Yield lists of ``size`` items in order; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
