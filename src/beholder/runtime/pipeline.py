"""Decoding runs ahead of the network: while a batch is computed, threads prepare the next pictures."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


def map_ahead(function: Callable[[Input], Output], inputs: Iterable[Input], ahead: int) -> Iterator[Output]:
    """``map`` in order, with up to ``ahead`` results prepared by threads before they are asked for.

    Memory holds at most ``ahead`` results. What ``function`` raises is raised here, at the turn of its input; leaving
    the loop early drops what has not begun.
    """
    source = iter(inputs)
    pool = ThreadPoolExecutor(max_workers=cpu_count() or 1, thread_name_prefix="beholder-decode")
    try:
        waiting: deque[Future[Output]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches(items: Iterable[Input], size: int) -> Iterator[list[Input]]:
    """Lists of ``size`` items in order; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
