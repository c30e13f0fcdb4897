"""Which requests are decoded together: they wait for room in the KV cache, and join the running batch.

Waiting requests are admitted from the client with the fewest running ones, among several from the one that has received
the least time, oldest first; between two tokens of the running batch only as many prompts are read as take
`ADMISSION_SECONDS`, so that nobody's stream stalls.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from beholder.errors import BeholderError
from beholder.server.clients import current_client
from beholder.server.fair_share import FairShare

if TYPE_CHECKING:
    from beholder.runtime.continuous_batching import CacheDemand, DecodingRequest
    from beholder.runtime.decoding import Decoding, Language

ADMISSION_SECONDS = 0.25  # of reading prompts between two tokens of the running batch
RATE_SECONDS = 10.0  # over which tokens per second are averaged


class WorkCancelled(BeholderError):
    """The client disconnected or the server is stopping, so the work was cancelled."""


class CacheFull(BeholderError):
    """As many tokens as the KV cache holds are waiting already.

    Attributes:
        seconds: after which there may be room.
    """

    def __init__(self, seconds: int):
        super().__init__("too many texts are being generated")
        self.seconds = seconds


@dataclass(frozen=True)
class Generation:
    """Texts to generate.

    Attributes:
        demand: The room that they need in the KV cache.
        start: Reads their prompts; called once there is room.
    """

    demand: CacheDemand
    start: Callable[[], Decoding[Any]]


@dataclass(eq=False)
class DecodingJob:
    """A request for generated texts. Everything is called in the model's thread.

    Attributes:
        prepare: Checks the request, quickly; returns None if it has been answered already.
        on_end: Called with the result, or with the exception that ended it.
        cancelled: Set when nobody waits for the rest.
        is_cancelled: Tells the same, where more than one client has to leave.
        client: Who shares the model with other clients.
        clients: Whose requests it answers; by default, those of ``client`` alone.
        refusable: Whether it is refused when too many are waiting.
    """

    prepare: Callable[[], Generation | None]
    on_end: Callable[[Any], None]
    cancelled: bool = False
    is_cancelled: Callable[[], bool] = lambda: False
    client: str = field(default_factory=current_client.get)
    clients: tuple[str, ...] = ()
    refusable: bool = True
    generation: Generation | None = field(default=None, init=False)
    request: DecodingRequest | None = field(default=None, init=False)
    started: float = field(default_factory=time.perf_counter, init=False)

    def __post_init__(self) -> None:
        self.clients = self.clients or (self.client,)


class DecodingScheduler:
    """The running batch of a language model and the requests that wait for it; used by the model's thread.

    Args:
        language: The language model.
        capacity: Tokens that the KV cache may hold. As many may wait.
        on_step: Called after each step with the number of texts that were decoded together.
        share: Where the seconds of each client are counted.
    """

    def __init__(
        self,
        language: Language,
        capacity: int,
        on_step: Callable[[int], None] = lambda _: None,
        share: FairShare | None = None,
    ):
        from beholder.runtime.continuous_batching import ContinuousBatch

        self.batch = ContinuousBatch(language, capacity)
        self.capacity = capacity
        self.on_step = on_step
        self.share = share or FairShare()
        self.waiting: deque[DecodingJob] = deque()
        self.running: list[DecodingJob] = []
        self._average_seconds = 1.0  # of a request, from its arrival to its end
        self._recent: deque[tuple[float, int]] = deque()  # when steps ended, and their tokens

    @property
    def pending(self) -> int:
        """The number of requests that wait or run."""
        return len(self.waiting) + len(self.running)

    @property
    def tokens_per_second(self) -> float:
        """Tokens generated per second, over the last `RATE_SECONDS`."""
        now = time.perf_counter()
        return sum(tokens for ended, tokens in self._recent.copy() if now - ended <= RATE_SECONDS) / RATE_SECONDS

    def add(self, job: DecodingJob) -> None:
        """Check a request, and let it wait for room; one that is invalid or too much ends at once."""
        from beholder.runtime.continuous_batching import joint_size

        try:
            generation = job.prepare()
            if generation is None:
                return
            demands = [each.generation.demand for each in self.waiting if each.generation is not None]
            if job.refusable and self.waiting and joint_size([*demands, generation.demand]) > self.capacity:
                raise CacheFull(max(1, min(60, round(self._average_seconds))))
        except Exception as error:
            job.on_end(error)
            return
        job.generation = generation
        self.waiting.append(job)

    def advance(self) -> None:
        """Admit requests, and decode one token of each running text."""
        self._end_cancelled()
        self._admit()
        rows = self.batch.rows
        if rows:
            clients, start = [client for job in self.running for client in job.clients], time.perf_counter()
            self.batch.step()
            now = time.perf_counter()
            self.share.charge(clients, now - start)
            self._recent.append((now, rows))
            while now - self._recent[0][0] > RATE_SECONDS:
                self._recent.popleft()
            self.on_step(rows)

    def cancel(self) -> None:
        """End all requests."""
        for job in (*self.waiting, *self.running):
            job.cancelled = True
        self._end_cancelled()

    def _admit(self) -> None:
        from beholder.runtime.continuous_batching import DecodingRequest

        deadline = time.perf_counter() + ADMISSION_SECONDS
        joining: list[DecodingRequest] = []
        while self.waiting and (not joining or time.perf_counter() < deadline):
            clients = [job.client for job in self.running]
            job = min(self.waiting, key=lambda each: (clients.count(each.client), self.share.received(each.client)))
            generation = job.generation
            if generation is None:
                raise RuntimeError("a request is waiting that was not prepared")
            if not self.batch.fits(*(request.demand for request in joining), generation.demand):
                break
            self.waiting.remove(job)
            start = time.perf_counter()
            try:
                decoding = generation.start()
            except Exception as error:
                job.on_end(error)
                continue
            finally:
                self.share.charge(job.clients, time.perf_counter() - start)
            job.request = DecodingRequest(generation.demand, decoding, partial(self._end, job))
            self.running.append(job)
            joining.append(job.request)
        self.batch.join(joining)

    def _end(self, job: DecodingJob, outcome: Any) -> None:
        self.running.remove(job)
        self._average_seconds += 0.1 * (time.perf_counter() - job.started - self._average_seconds)
        job.on_end(outcome)

    def _end_cancelled(self) -> None:
        for job in [job for job in (*self.waiting, *self.running) if job.cancelled or job.is_cancelled()]:
            if job.request is None:
                self.waiting.remove(job)
            else:
                self.running.remove(job)
                self.batch.remove(job.request)
            job.on_end(WorkCancelled("the client disconnected"))
