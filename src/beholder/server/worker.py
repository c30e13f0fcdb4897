"""One thread that runs one model: queued jobs are cut into pieces and batched, and token streams advance in turn.

Pieces are taken from the client that was served least recently, and of that client from its shortest job: a text is
embedded within one batch even while another client's thousands are under way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from beholder.errors import BeholderError
from beholder.server.clients import current_client

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
        client: Who shares the model with other clients.
        outputs: The results so far; a job with many inputs is computed in several batches.
    """

    group: Hashable
    inputs: list[Any]
    function: BatchFunction
    result: Future[list[Any]] = field(default_factory=Future)
    cancelled: bool = False
    client: str = field(default_factory=current_client.get)
    outputs: list[Any] = field(default_factory=list)
    scheduled: int = 0  # inputs that are computed or in the current batch

    @property
    def remaining(self) -> int:
        """The number of inputs that are not scheduled yet."""
        return len(self.inputs) - self.scheduled


@dataclass(eq=False)
class _Piece:
    """Some consecutive inputs of a job."""

    job: Job
    inputs: list[Any]


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
        self._last_served: dict[str, int] = {}  # client → number of the batch; only clients with queued jobs
        self._batch_number = 0
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

    def cancel(self) -> None:
        """Cancel running work at its next token, and drop queued work; nothing is accepted anymore."""
        with self._condition:
            self._closed = True
            for job in self._jobs:
                job.cancelled = True
            self._cancel_streams()
            self._condition.notify()

    def close(self, timeout: float) -> None:
        """Cancel all work and join the thread."""
        self.cancel()
        self._thread.join(timeout)

    def _cancel_streams(self) -> None:
        for stream in (*self._queued_streams, *self._active_streams):
            stream.cancelled = True

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
                inputs = sum(len(piece.inputs) for piece in batch)
                self.on_batch(_group_name(batch[0].job.group), len(batch), inputs, time.perf_counter() - start)
            del batch  # or its images would stay in memory until the next one

    def _next_batch(self) -> list[_Piece]:
        """Return pieces of jobs of one group, at most ``max_batch_size`` inputs together."""
        for job in [job for job in self._jobs if job.cancelled]:
            self._jobs.remove(job)
            _resolve(job, WorkCancelled("the server is stopping"))
        waiting = {job.client for job in self._jobs}
        self._last_served = {client: last for client, last in self._last_served.items() if client in waiting}
        self._batch_number += 1
        batch: list[_Piece] = []
        room = self.max_batch_size
        while room > 0:
            candidates = [job for job in self._jobs if not batch or job.group == batch[0].job.group]
            if not candidates:
                break
            job = min(candidates, key=lambda job: (self._last_served.get(job.client, 0), job.remaining))
            count = min(room, job.remaining)
            batch.append(_Piece(job, job.inputs[job.scheduled : job.scheduled + count]))
            job.scheduled += count
            room -= count
            self._last_served[job.client] = self._batch_number
            if not job.remaining:
                self._jobs.remove(job)
        return batch

    def _compute(self, batch: list[_Piece]) -> None:
        """Compute a batch. After a failure each half is retried, to save memory and to isolate the failing job."""

        def check_cancelled() -> None:
            self._advance_streams()  # between two tokens of captions, so that streams don't wait for whole captions
            if all(piece.job.cancelled for piece in batch):
                raise WorkCancelled("every client of this batch disconnected")

        try:
            results = list(batch[0].job.function([each for piece in batch for each in piece.inputs], check_cancelled))
            if len(results) != sum(len(piece.inputs) for piece in batch):
                raise RuntimeError("the number of results differs from the number of inputs")
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, WorkCancelled):
                self._compute(batch[: len(batch) // 2])
                self._compute(batch[len(batch) // 2 :])
                return
            for piece in batch:
                with self._condition:
                    if piece.job in self._jobs:
                        self._jobs.remove(piece.job)
                _resolve(piece.job, error)
            return
        for piece in batch:
            piece.job.outputs += results[: len(piece.inputs)]
            del results[: len(piece.inputs)]
            if len(piece.job.outputs) == len(piece.job.inputs):
                _resolve(piece.job, piece.job.outputs)

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
    if job.result.done() or not job.result.set_running_or_notify_cancel():
        return  # the client has disconnected
    if isinstance(outcome, Exception):
        job.result.set_exception(outcome)
    else:
        job.result.set_result(outcome)
