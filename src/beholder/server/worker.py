"""One thread that runs one model. Work that waits is done in batches; conversations advance word by word, in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from beholder.errors import BeholderError

TALKS = 8  # conversations whose answers are written at once, each with a memory of its own


class Abandoned(BeholderError):
    """Whoever asked has left, so the work was stopped."""


Work = Callable[[list[Any], Callable[[], None]], Sequence[Any]]


@dataclass(eq=False)
class Job:
    """Inputs for one call, to be computed with those of other jobs of the same group.

    Attributes:
        group: jobs of one group can be computed in one call.
        inputs: a part of what ``work`` is given.
        work: from inputs to as many results; it calls its second argument where it can be interrupted, which raises
            `Abandoned` when nobody waits for any of them.
        done: the results of these inputs.
        abandoned: set by who does not want them any more.
    """

    group: Hashable
    inputs: list[Any]
    work: Work
    done: Future[list[Any]] = field(default_factory=Future)
    abandoned: bool = False


@dataclass(eq=False)
class Talk:
    """A text that is written piece by piece.

    Attributes:
        begin: gives the pieces; called in the thread of the model.
        tell: called there with each piece, and in the end with None or with the error that ended it.
        abandoned: set by who does not want the rest.
    """

    begin: Callable[[], Iterator[Any]]
    tell: Callable[[Any], None]
    abandoned: bool = False
    pieces: Iterator[Any] | None = None


class Worker:
    """The thread, and what waits for it.

    Args:
        name: of the thread.
        largest_batch: inputs that are computed together.
        watch: told of each batch: its group's first word, how many jobs, how many inputs, seconds.
    """

    def __init__(
        self,
        name: str,
        largest_batch: int = 16,
        watch: Callable[[str, int, int, float], None] = lambda *_: None,
    ):
        self.largest_batch = largest_batch
        self.watch = watch
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._talks: deque[Talk] = deque()
        self._talking: list[Talk] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, work: Job | Talk) -> None:
        """Puts work in the line.

        Raises:
            Abandoned: the worker was closed.
        """
        with self._condition:
            if self._closed:
                raise Abandoned("the server is stopping")
            if isinstance(work, Job):
                self._jobs.append(work)
            else:
                self._talks.append(work)
            self._condition.notify()

    def waiting(self) -> int:
        """Jobs and conversations that wait or are under way."""
        return len(self._jobs) + len(self._talks) + len(self._talking)

    def close(self, seconds: float) -> None:
        """Stops what is under way at its next word, drops what waits, and ends the thread."""
        with self._condition:
            self._closed = True
            for job in self._jobs:
                job.abandoned = True
            for talk in (*self._talks, *self._talking):
                talk.abandoned = True
            self._condition.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._jobs or self._talks or self._talking or self._closed):
                    self._condition.wait()
                if self._closed and not (self._jobs or self._talks or self._talking):
                    return
                batch = self._next_batch()
            self._advance_all()
            if batch:
                start = time.perf_counter()
                self._compute(batch)
                inputs = sum(len(job.inputs) for job in batch)
                self.watch(_kind(batch[0].group), len(batch), inputs, time.perf_counter() - start)
            del batch  # its pictures would stay until the next one

    def _next_batch(self) -> list[Job]:
        """The first job that is still wanted, and those behind it that can be computed with it."""
        batch: list[Job] = []
        inputs = 0
        for job in list(self._jobs):
            if job.abandoned:
                self._jobs.remove(job)
                job.done.cancel()
            elif not batch or (job.group == batch[0].group and inputs + len(job.inputs) <= self.largest_batch):
                self._jobs.remove(job)
                batch.append(job)
                inputs += len(job.inputs)
        return batch

    def _compute(self, batch: list[Job]) -> None:
        """Computes jobs together. A failure is tried again in halves: for want of memory, and to find whose it is."""

        def wanted() -> None:
            self._advance_all()  # between two words of captions, so that no one who talks waits for all of them
            if all(job.abandoned for job in batch):
                raise Abandoned("nobody waits for this")

        try:
            results = list(batch[0].work([each for job in batch for each in job.inputs], wanted))
            if len(results) != sum(len(job.inputs) for job in batch):
                raise RuntimeError("not as many results as inputs")
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, Abandoned):
                self._compute(batch[: len(batch) // 2])
                self._compute(batch[len(batch) // 2 :])
                return
            for job in batch:
                _finish(job, error)
            return
        for job in batch:
            _finish(job, results[: len(job.inputs)])
            del results[: len(job.inputs)]

    def _advance_all(self) -> None:
        """One more piece of each conversation; those that wait take the places that are free."""
        with self._condition:
            while self._talks and len(self._talking) < TALKS:
                self._talking.append(self._talks.popleft())
        for talk in list(self._talking):
            if not self._advance(talk):
                self._talking.remove(talk)

    def _advance(self, talk: Talk) -> bool:
        """One more piece; whether there may be another."""
        if talk.abandoned:
            talk.tell(Abandoned("nobody waits for this"))
            return False
        try:
            if talk.pieces is None:
                talk.pieces = talk.begin()
            piece = next(talk.pieces)
        except StopIteration:
            talk.tell(None)
            return False
        except Exception as error:
            talk.tell(error)
            return False
        talk.tell(piece)
        return True


def _kind(group: Hashable) -> str:
    return str(group[0]) if isinstance(group, tuple) else str(group)


def _finish(job: Job, outcome: list[Any] | Exception) -> None:
    if not job.done.set_running_or_notify_cancel():
        return  # whoever waited has left
    if isinstance(outcome, Exception):
        job.done.set_exception(outcome)
    else:
        job.done.set_result(outcome)
