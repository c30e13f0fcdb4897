"""Work that takes longer than a request should: started once, its result shared by everyone who asks for it."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from beholder.server.http_errors import too_many_requests

MAX_RESULTS = 16
MAX_PENDING = 4  # queued or running


@dataclass
class _BackgroundJob:
    """A pending or finished result, the version of its input, and whether anyone has received it."""

    version: Hashable
    result: Future[Any]
    delivered: bool = False


class BackgroundJobs:
    """Runs one job at a time and caches the latest results."""

    def __init__(self) -> None:
        self._running = threading.Lock()
        self._jobs: OrderedDict[Hashable, _BackgroundJob] = OrderedDict()

    async def get(self, key: Hashable, version: Hashable, function: Callable[[], Any], timeout: float) -> Any:
        """Return the result of a function, starting it if necessary.

        A result of another version is recomputed, but only after it has been delivered once: otherwise the result for
        an input that keeps changing would never be delivered.

        Args:
            key: Identifies the result.
            version: Version of the function's input.
            function: Called in a thread unless the result is cached or pending.
            timeout: Seconds to wait for the result.

        Raises:
            TimeoutError: The result takes longer; the job continues.
            HTTPError: Too many jobs are pending.
        """
        job = self._jobs.get(key)
        if job is None or (job.version != version and job.delivered):
            if sum(not each.result.done() for each in self._jobs.values()) >= MAX_PENDING:
                raise too_many_requests(5)
            job = self._jobs[key] = _BackgroundJob(version, self._start(function))
        self._jobs.move_to_end(key)
        finished = [other for other, each in self._jobs.items() if each.result.done() and other != key]
        for other in finished[: max(0, len(self._jobs) - MAX_RESULTS)]:
            del self._jobs[other]
        try:
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(asyncio.wrap_future(job.result))
            job.delivered = True
            return result
        finally:
            failed = job.result.done() and (job.result.cancelled() or job.result.exception() is not None)
            if failed and self._jobs.get(key) is job:
                del self._jobs[key]

    def close(self) -> None:
        """Drop queued jobs. A running one ends with the process."""
        for job in self._jobs.values():
            job.result.cancel()

    def _start(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            with self._running:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        # A daemon thread, so that shutting down does not wait for it.
        threading.Thread(target=run, name="beholder-background", daemon=True).start()
        return future
