"""One thread that runs one model: queued jobs are batched, and token streams advance in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from beholder.errors import BeholderError

MAX_STREAMS = 8  # conversations decoded concurrently, each with a KV cache of its own


class WorkCancelled(BeholderError):
    """The client disconnected or the server is stopping, so the work was cancelled."""


BatchFunction = Callable[[list[Any], Callable[[], None]], Sequence[Any]]


@dataclass(eq=False)
class Job:
    """Inputs of one call, batched with those of other jobs of the same group.

    Attributes:
        group: Jobs with equal groups may be computed in one call.
        inputs: This job's share of the batch.
        function: Maps a batch to as many results. It calls its second argument, ``check_cancelled``, wherever it can
            be interrupted; that raises `WorkCancelled` once every job of the batch is cancelled.
        result: The results for ``inputs``.
        cancelled: Set when nobody waits for the result anymore.
    """

    group: Hashable
    inputs: list[Any]
    function: BatchFunction
    result: Future[list[Any]] = field(default_factory=Future)
    cancelled: bool = False


@dataclass(eq=False)
class ConversationStream:
    """Text generated piece by piece.

    Attributes:
        start: Returns the iterator of pieces; called in the model's thread.
        on_piece: Called in the model's thread with each piece, and finally with None or the exception that ended it.
        cancelled: Set when nobody reads the rest.
    """

    start: Callable[[], Iterator[Any]]
    on_piece: Callable[[Any], None]
    cancelled: bool = False
    pieces: Iterator[Any] | None = None


class Worker:
    """The model's thread and its queue.

    Args:
        name: Thread name.
        max_batch_size: Maximum number of inputs computed together.
        on_batch: Called after each batch with the first element of its group, its number of jobs, its number of
            inputs and the seconds it took.
    """

    def __init__(
        self,
        name: str,
        max_batch_size: int = 16,
        on_batch: Callable[[str, int, int, float], None] = lambda *_: None,
    ):
        self.max_batch_size = max_batch_size
        self.on_batch = on_batch
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._queued_streams: deque[ConversationStream] = deque()
        self._active_streams: list[ConversationStream] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Job | ConversationStream) -> None:
        """Enqueue a job or a stream.

        Raises:
            WorkCancelled: The worker is closed.
        """
        with self._condition:
            if self._closed:
                raise WorkCancelled("the server is stopping")
            if isinstance(work, Job):
                self._jobs.append(work)
            else:
                self._queued_streams.append(work)
            self._condition.notify()

    def pending(self) -> int:
        """Return the number of jobs and streams that are queued or running."""
        return len(self._jobs) + len(self._queued_streams) + len(self._active_streams)

    def close(self, timeout: float) -> None:
        """Cancel running work at its next token, drop queued work, and join the thread."""
        with self._condition:
            self._closed = True
            for job in self._jobs:
                job.cancelled = True
            for stream in (*self._queued_streams, *self._active_streams):
                stream.cancelled = True
            self._condition.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._jobs or self._queued_streams or self._active_streams or self._closed):
                    self._condition.wait()
                if self._closed and not (self._jobs or self._queued_streams or self._active_streams):
                    return
                batch = self._next_batch()
            self._advance_streams()
            if batch:
                start = time.perf_counter()
                self._compute(batch)
                inputs = sum(len(job.inputs) for job in batch)
                self.on_batch(_group_name(batch[0].group), len(batch), inputs, time.perf_counter() - start)
            del batch  # or its images would stay in memory until the next one

    def _next_batch(self) -> list[Job]:
        """Return the first job that is not cancelled, and those after it that can be batched with it."""
        batch: list[Job] = []
        inputs = 0
        for job in list(self._jobs):
            if job.cancelled:
                self._jobs.remove(job)
                job.result.cancel()
            elif not batch or (job.group == batch[0].group and inputs + len(job.inputs) <= self.max_batch_size):
                self._jobs.remove(job)
                batch.append(job)
                inputs += len(job.inputs)
        return batch

    def _compute(self, batch: list[Job]) -> None:
        """Compute a batch. After a failure each half is retried, to save memory and to isolate the failing job."""

        def check_cancelled() -> None:
            self._advance_streams()  # between two tokens of captions, so that streams don't wait for whole captions
            if all(job.cancelled for job in batch):
                raise WorkCancelled("every client of this batch disconnected")

        try:
            results = list(batch[0].function([each for job in batch for each in job.inputs], check_cancelled))
            if len(results) != sum(len(job.inputs) for job in batch):
                raise RuntimeError("the number of results differs from the number of inputs")
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, WorkCancelled):
                self._compute(batch[: len(batch) // 2])
                self._compute(batch[len(batch) // 2 :])
                return
            for job in batch:
                _resolve(job, error)
            return
        for job in batch:
            _resolve(job, results[: len(job.inputs)])
            del results[: len(job.inputs)]

    def _advance_streams(self) -> None:
        """Generate one more piece of each active stream; queued streams take free places."""
        with self._condition:
            while self._queued_streams and len(self._active_streams) < MAX_STREAMS:
                self._active_streams.append(self._queued_streams.popleft())
        for stream in list(self._active_streams):
            if not self._advance(stream):
                self._active_streams.remove(stream)

    def _advance(self, stream: ConversationStream) -> bool:
        """Generate one more piece; return whether the stream continues."""
        if stream.cancelled:
            stream.on_piece(WorkCancelled("the client disconnected"))
            return False
        try:
            if stream.pieces is None:
                stream.pieces = stream.start()
            piece = next(stream.pieces)
        except StopIteration:
            stream.on_piece(None)
            return False
        except Exception as error:
            stream.on_piece(error)
            return False
        stream.on_piece(piece)
        return True


def _group_name(group: Hashable) -> str:
    return str(group[0]) if isinstance(group, tuple) else str(group)


def _resolve(job: Job, outcome: list[Any] | Exception) -> None:
    if not job.result.set_running_or_notify_cancel():
        return  # the client has disconnected
    if isinstance(outcome, Exception):
        job.result.set_exception(outcome)
    else:
        job.result.set_result(outcome)
