"""One thread that runs one model: queued jobs are cut into pieces and batched, and texts are decoded together.

Pieces are taken from the client that was served least recently, and of that client from its shortest job: a text is
embedded within one batch even while another client's thousands are under way. Beside other clients, those thousands are
computed in batches of their own that take a moment. Between workers, `FairShare` decides.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from beholder.server.clients import current_client
from beholder.server.decoding_scheduler import DecodingJob, DecodingScheduler, Generation, WorkCancelled
from beholder.server.fair_share import FairShare

LONG_SECONDS = 0.05  # that a batch of long jobs takes while other clients have work
WAIT_SECONDS = 0.02  # until it is asked again whether clients that are ahead of others may go on

BatchFunction = Callable[[list[Any], Callable[[], None]], Sequence[Any] | Generation]


@dataclass(eq=False)
class Job:
    """Inputs of one call, batched with those of other jobs of the same group.

    Attributes:
        group: Jobs with equal groups may be computed in one call.
        inputs: This job's share of the batch.
        function: Maps a batch to as many results, or to a `Generation` of them. It calls its second argument,
            ``check_cancelled``, wherever it can be interrupted; that raises `WorkCancelled` once every job of the batch
            is cancelled.
        generates: Whether it returns a `Generation`.
        result: The results for ``inputs``.
        cancelled: Set once no request waits for the result.
        client: Who shares the model with other clients.
        outputs: The results so far; a job with many inputs is computed in several batches.
        seconds_per_input: In its last batch; at first a guess.
    """

    group: Hashable
    inputs: list[Any]
    function: BatchFunction
    generates: bool = False
    result: Future[list[Any]] = field(default_factory=Future)
    cancelled: bool = False
    client: str = field(default_factory=current_client.get)
    outputs: list[Any] = field(default_factory=list)
    seconds_per_input: float = LONG_SECONDS / 4
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


class Worker:
    """The model's thread and its queue.

    Args:
        name: Thread name.
        max_batch_size: Maximum number of inputs computed together.
        on_batch: Called after each batch with the first element of its group, its number of jobs, its number of
            inputs and the seconds it took.
        scheduler: Of the texts that the model generates.
        share: Counts the seconds of each client, for all workers.
    """

    def __init__(
        self,
        name: str,
        max_batch_size: int = 16,
        on_batch: Callable[[str, int, int, float], None] = lambda *_: None,
        scheduler: DecodingScheduler | None = None,
        share: FairShare | None = None,
    ):
        self.max_batch_size = max_batch_size
        self.on_batch = on_batch
        self.scheduler = scheduler
        self.share = share or FairShare()
        self.share.add_worker(self.clients)
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._last_served: dict[str, int] = {}  # client → number of the batch; only clients with queued jobs
        self._batch_number = 0
        self._decoding_jobs: deque[DecodingJob] = deque()  # not yet with the scheduler
        self._text_seconds = 0.0  # spent on decoding
        self._computing: tuple[str, ...] = ()  # the clients of the current batch
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Job | DecodingJob) -> None:
        """Enqueue a job.

        Raises:
            WorkCancelled: The worker is closed.
        """
        with self._condition:
            if self._closed:
                raise WorkCancelled("the server is stopping")
            if isinstance(work, Job):
                self._jobs.append(work)
            else:
                self._decoding_jobs.append(work)
            self._condition.notify()

    def pending(self) -> int:
        """Return the number of jobs that are queued or running."""
        scheduled = self.scheduler.pending if self.scheduler is not None else 0
        return len(self._jobs) + len(self._decoding_jobs) + scheduled

    def clients(self) -> set[str]:
        """Return the clients whose work is queued or running."""
        texts = list(self._decoding_jobs.copy())
        if self.scheduler is not None:
            texts += [*self.scheduler.waiting.copy(), *self.scheduler.running.copy()]
        jobs = {job.client for job in self._jobs.copy()}
        return jobs.union(self._computing, *(job.clients for job in texts))

    def cancel(self) -> None:
        """Cancel running work at its next token, and drop queued work; nothing is accepted anymore."""
        with self._condition:
            self._closed = True
            for job in self._jobs:
                job.cancelled = True
            self._condition.notify()

    def close(self, timeout: float) -> None:
        """Cancel all work and join the thread."""
        self.cancel()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self.pending() or self._closed):
                    self._condition.wait()
                if self._closed and not self.pending():
                    return
                batch = self._next_batch()
                held_back = bool(self._jobs) and not batch  # others' work comes first
            self._advance_texts()
            if batch:
                self._compute(batch)
                self._computing = ()
            del batch  # or its images would stay in memory until the next one
            with self._condition:
                if held_back and self.pending() == len(self._jobs):
                    self._condition.wait(WAIT_SECONDS)

    def _is_long(self, job: Job) -> bool:
        """Whether a job takes more than one batch."""
        return len(job.inputs) > self.max_batch_size

    def _next_batch(self) -> list[_Piece]:
        """Return pieces of jobs of one group, at most ``max_batch_size`` inputs together."""
        for job in [job for job in self._jobs if job.cancelled]:
            self._jobs.remove(job)
            _resolve(job, WorkCancelled("the server is stopping"))
        waiting = {job.client for job in self._jobs}
        allowed = waiting if self._closed else self.share.allowed(waiting, self.clients)
        self._last_served = {client: last for client, last in self._last_served.items() if client in waiting}
        self._batch_number += 1
        batch: list[_Piece] = []
        room, seconds = self.max_batch_size, LONG_SECONDS
        shared = not self._closed and self.share.is_shared()
        while room > 0:
            candidates = [job for job in self._jobs if job.client in allowed or not self._is_long(job)]
            if batch:
                first = batch[0].job
                kind = (first.group, self._is_long(first))
                candidates = [job for job in candidates if (job.group, self._is_long(job)) == kind]
            if self._waiting_batch:  # those that come meanwhile are read together
                candidates = [job for job in candidates if not job.generates]
            if not candidates:
                break
            job = min(candidates, key=lambda job: (self._last_served.get(job.client, 0), job.remaining))
            count = min(room, job.remaining)
            if shared and self._is_long(job):
                fitting = int(seconds / job.seconds_per_input)
                if batch and not fitting:
                    break
                count = max(1, min(count, fitting))
                seconds -= count * job.seconds_per_input
            batch.append(_Piece(job, job.inputs[job.scheduled : job.scheduled + count]))
            job.scheduled += count
            room -= count
            self._last_served[job.client] = self._batch_number
            if not job.remaining:
                self._jobs.remove(job)
        self._computing = _clients_of(batch)
        return batch

    @property
    def _waiting_batch(self) -> bool:
        """Whether texts of an earlier batch of jobs still wait for room."""
        return self.scheduler is not None and any(not job.refusable for job in self.scheduler.waiting)

    def _compute(self, batch: list[_Piece]) -> None:
        """Compute a batch. After a failure each half is retried, to save memory and to isolate the failing job."""
        start, texts = time.perf_counter(), self._text_seconds

        def is_cancelled() -> bool:
            return all(piece.job.cancelled for piece in batch)

        def check_cancelled() -> None:
            self._advance_texts()  # so that streams don't wait for the whole batch
            if self._closed:
                raise WorkCancelled("the server is stopping")
            if is_cancelled():
                raise WorkCancelled("every client of this batch disconnected")

        def finish(outcome: Any) -> None:
            inputs = sum(len(piece.inputs) for piece in batch)
            self.on_batch(_group_name(batch[0].job.group), len(batch), inputs, time.perf_counter() - start)
            self._finish(batch, outcome)  # last: whoever has an answer finds it counted

        try:
            outcome: Any = batch[0].job.function([each for piece in batch for each in piece.inputs], check_cancelled)
        except Exception as error:
            outcome = error
        seconds = time.perf_counter() - start - (self._text_seconds - texts)
        self.share.charge(_clients_of(batch), seconds)
        for piece in batch:
            piece.job.seconds_per_input = seconds / sum(len(each.inputs) for each in batch)
        if isinstance(outcome, Generation) and self.scheduler is not None:
            generation = outcome
            self.scheduler.add(
                DecodingJob(
                    lambda: generation,
                    finish,
                    is_cancelled=is_cancelled,
                    client=batch[0].job.client,
                    clients=_clients_of(batch),
                    refusable=False,
                )
            )
        else:
            finish(outcome)

    def _finish(self, batch: list[_Piece], outcome: Any) -> None:
        """Hand the results of a batch to its jobs."""
        if not isinstance(outcome, Exception):
            outcome = list(outcome)
            if len(outcome) != sum(len(piece.inputs) for piece in batch):
                outcome = RuntimeError("the number of results differs from the number of inputs")
        if isinstance(outcome, Exception):
            if len(batch) > 1 and not isinstance(outcome, WorkCancelled):
                self._compute(batch[: len(batch) // 2])
                self._compute(batch[len(batch) // 2 :])
                return
            for piece in batch:
                with self._condition:
                    if piece.job in self._jobs:
                        self._jobs.remove(piece.job)
                _resolve(piece.job, outcome)
            return
        for piece in batch:
            piece.job.outputs += outcome[: len(piece.inputs)]
            del outcome[: len(piece.inputs)]
            if len(piece.job.outputs) == len(piece.job.inputs):
                _resolve(piece.job, piece.job.outputs)

    def _advance_texts(self) -> None:
        """Decode one more token of each text; new requests join."""
        if self.scheduler is None:
            return
        start = time.perf_counter()
        with self._condition:
            added = list(self._decoding_jobs)
            self._decoding_jobs.clear()
            closed = self._closed
        for job in added:
            self.scheduler.add(job)
        if closed:
            self.scheduler.cancel()
        self.scheduler.advance()
        self._text_seconds += time.perf_counter() - start


def _clients_of(batch: Sequence[_Piece]) -> tuple[str, ...]:
    """Return the client of each input."""
    return tuple(piece.job.client for piece in batch for _ in piece.inputs)


def _group_name(group: Hashable) -> str:
    return str(group[0]) if isinstance(group, tuple) else str(group)


def _resolve(job: Job, outcome: list[Any] | Exception) -> None:
    if job.result.done() or not job.result.set_running_or_notify_cancel():
        return  # the client has disconnected
    if isinstance(outcome, Exception):
        job.result.set_exception(outcome)
    else:
        job.result.set_result(outcome)
