import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beholder.server.worker import MAX_STREAMS, ConversationStream, Job, WorkCancelled, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("test", max_batch_size=4)
    yield worker
    worker.close(5)


class BlockingWork:
    """Work that blocks until released, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.started = threading.Event()
        self.released = threading.Event()

    def __call__(self, inputs: list[Any], check_cancelled: Callable[[], None]) -> list[Any]:
        self.batches.append(list(inputs))
        self.started.set()
        while not self.released.wait(0.01):
            check_cancelled()
        return [each * 10 for each in inputs]


def test_waiting_jobs_are_batched_in_order(worker: Worker) -> None:
    held = BlockingWork()
    first = Job("g", [0], held)
    worker.submit(first)
    assert held.started.wait(5)
    jobs = [Job("g", [number], held) for number in range(1, 7)]
    other = Job("h", [100], held)
    for job in (*jobs[:2], other, *jobs[2:]):
        worker.submit(job)
    held.released.set()
    assert [job.result.result(5) for job in (first, *jobs, other)] == [[0], [10], [20], [30], [40], [50], [60], [1000]]
    assert held.batches == [[0], [1, 2, 3, 4], [100], [5, 6]]


def test_an_error_fails_only_its_own_input(worker: Worker) -> None:
    held = BlockingWork()

    def work(inputs: list[Any], check_cancelled: Callable[[], None]) -> list[Any]:
        if 3 in inputs:
            raise ValueError("three")
        return held(inputs, check_cancelled)

    worker.submit(Job("wait", [0], held))
    assert held.started.wait(5)
    jobs = [Job("g", [number], work) for number in range(1, 5)]
    for job in jobs:
        worker.submit(job)
    held.released.set()
    assert [jobs[place].result.result(5) for place in (0, 1, 3)] == [[10], [20], [40]]
    with pytest.raises(ValueError, match="three"):
        jobs[2].result.result(5)


def test_a_batch_is_halved_when_memory_runs_out(worker: Worker) -> None:
    held = BlockingWork()
    sizes = []

    def work(inputs: list[Any], check_cancelled: Callable[[], None]) -> list[Any]:
        sizes.append(len(inputs))
        if len(inputs) > 1:
            raise MemoryError
        return inputs

    worker.submit(Job("wait", [0], held))
    assert held.started.wait(5)
    jobs = [Job("g", [number], work) for number in range(4)]
    for job in jobs:
        worker.submit(job)
    held.released.set()
    assert [job.result.result(5) for job in jobs] == [[0], [1], [2], [3]]
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def test_cancelled_work_is_stopped_or_never_started(worker: Worker) -> None:
    held, never = BlockingWork(), BlockingWork()
    job, behind = Job("g", [0], held), Job("h", [1], never)
    worker.submit(job)
    assert held.started.wait(5)
    worker.submit(behind)
    behind.cancelled = True
    job.cancelled = True  # it is never released, so only cancelling can end it
    with pytest.raises(WorkCancelled):
        job.result.result(5)
    last = Job("i", [2], lambda inputs, _: inputs)
    worker.submit(last)
    assert last.result.result(5) == [2]
    assert never.batches == []


def test_conversations_take_turns(worker: Worker) -> None:
    started, may = threading.Event(), threading.Event()
    worker.submit(Job("wait", [0], lambda inputs, _: (started.set(), may.wait(5), inputs)[2]))
    assert started.wait(5)
    order: list[tuple[int, Any]] = []
    done = threading.Event()

    def make_callback(number: int) -> Callable[[Any], None]:
        def on_piece(piece: Any) -> None:
            order.append((number, piece))
            if len(order) == 4 * (MAX_STREAMS + 2):
                done.set()

        return on_piece

    for number in range(MAX_STREAMS + 2):
        worker.submit(ConversationStream(lambda: iter("abc"), make_callback(number)))
    may.set()
    assert done.wait(5)
    assert [number for number, piece in order[:MAX_STREAMS]] == list(range(MAX_STREAMS))
    assert [piece for number, piece in order if number == MAX_STREAMS + 1] == ["a", "b", "c", None]


def test_an_abandoned_conversation_ends_at_its_next_token(worker: Worker) -> None:
    pieces: list[Any] = []
    stream = ConversationStream(lambda: iter(lambda: time.sleep(0.001) or "word", None), pieces.append)
    worker.submit(stream)
    deadline = time.monotonic() + 5
    while len(pieces) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    stream.cancelled = True
    while not isinstance(pieces[-1], WorkCancelled) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert isinstance(pieces[-1], WorkCancelled)
    assert worker.pending() == 0


def test_a_closed_worker_ends_its_thread_and_refuses_jobs() -> None:
    worker = Worker("test")
    stream = ConversationStream(lambda: iter(lambda: time.sleep(0.001) or "word", None), lambda _: None)
    worker.submit(stream)
    worker.close(5)
    assert not worker._thread.is_alive()
    with pytest.raises(WorkCancelled):
        worker.submit(stream)


def test_a_conversation_does_not_wait_for_a_long_batch(worker: Worker) -> None:
    held = BlockingWork()
    job = Job("g", [0], held)
    worker.submit(job)
    assert held.started.wait(5)
    pieces: list[Any] = []
    done = threading.Event()
    worker.submit(
        ConversationStream(lambda: iter("abc"), lambda piece: (pieces.append(piece), piece is None and done.set()))
    )
    assert done.wait(5) and pieces == ["a", "b", "c", None]
    assert not job.result.done()
    held.released.set()
    assert job.result.result(5) == [0]


def test_a_short_job_does_not_wait_for_the_remainder_of_a_long_one(worker: Worker) -> None:
    held = BlockingWork()
    long = Job("g", list(range(100)), held, client="one")
    worker.submit(long)
    assert held.started.wait(5)
    short = Job("g", [1000], held, client="other")
    worker.submit(short)
    held.released.set()
    assert short.result.result(5) == [10_000]
    assert 1000 in held.batches[1]  # the very next batch, although 96 inputs of the long job were before it
    assert long.result.result(5) == [each * 10 for each in range(100)]


def test_clients_take_turns_and_shorter_jobs_go_first(worker: Worker) -> None:
    held = BlockingWork()
    worker.submit(Job("wait", [0], held, client="one"))
    assert held.started.wait(5)
    long, short = Job("long", ["long"] * 8, held, client="one"), Job("short", ["short"], held, client="one")
    other = Job("other", ["other"] * 8, held, client="other")
    for job in (long, short, other):
        worker.submit(job)
    held.released.set()
    for job in (long, short, other):
        job.result.result(5)
    assert [batch[0] for batch in held.batches[1:]] == ["other", "short", "other", "long", "long"]


def test_a_cancelled_long_job_ends_after_its_current_batch(worker: Worker) -> None:
    batches: list[list[Any]] = []
    first = threading.Event()
    may = threading.Event()

    def function(inputs: list[Any], _: Callable[[], None]) -> list[Any]:
        batches.append(inputs)
        first.set()
        may.wait(5)
        return inputs

    job = Job("g", list(range(1000)), function)
    worker.submit(job)
    assert first.wait(5)
    job.cancelled = True
    may.set()
    with pytest.raises(WorkCancelled):
        job.result.result(5)
    assert len(batches) == 1


def test_cancelling_a_worker_ends_waiting_jobs_with_a_reason(worker: Worker) -> None:
    held = BlockingWork()
    worker.submit(Job("g", [0], held))
    assert held.started.wait(5)
    job = Job("h", [1], held)
    worker.submit(job)
    worker.cancel()
    held.released.set()
    with pytest.raises(WorkCancelled):
        job.result.result(5)
