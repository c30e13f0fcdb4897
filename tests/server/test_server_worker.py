import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch

from beholder.runtime.continuous_batching import CacheDemand
from beholder.runtime.decoding import DecodeStep, Decoding
from beholder.server.decoding_scheduler import CacheFull, DecodingJob, DecodingScheduler, Generation
from beholder.server.fair_share import FairShare
from beholder.server.worker import LONG_SECONDS, Job, WorkCancelled, Worker

PLACES = 8  # texts for which the cache of these tests has room
TOKENS = 4  # of each


class StubCache:
    joinable = True

    def __init__(self, rows: int) -> None:
        self.mask = torch.ones(rows, TOKENS, dtype=torch.bool)

    def select(self, rows: torch.Tensor) -> None:
        self.mask = self.mask[rows]

    def join(self, others: list["StubCache"]) -> None:
        self.mask = torch.cat([self.mask, *(other.mask for other in others)])


class StubLanguage:
    """Records how many texts are decoded together."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def decode(self, ids: torch.Tensor, kv_cache: StubCache) -> torch.Tensor:
        assert len(ids) == len(kv_cache.mask)
        self.rows.append(len(ids))
        return torch.zeros(len(ids), 3)


def generation(pieces: Iterable[str], on_piece: Callable[[Any], None], rows: int = 1) -> Generation:
    """A text that consists of these pieces, whatever the network says."""

    def steps() -> Any:
        for piece in pieces:
            on_piece(piece)
            yield DecodeStep(torch.zeros(rows, dtype=torch.long))

    return Generation(CacheDemand(rows, TOKENS), lambda: Decoding(StubCache(rows), steps()))


def decoding_job(pieces: Iterable[str], on_piece: Callable[[Any], None], client: str = "") -> DecodingJob:
    return DecodingJob(lambda: generation(pieces, on_piece), on_piece, client=client)


@pytest.fixture
def language() -> StubLanguage:
    return StubLanguage()


@pytest.fixture
def worker(language: StubLanguage) -> Iterator[Worker]:
    worker = Worker("test", max_batch_size=4, scheduler=DecodingScheduler(language, PLACES * TOKENS))
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
    assert held.started.wait(60)
    jobs = [Job("g", [number], held) for number in range(1, 7)]
    other = Job("h", [100], held)
    for job in (*jobs[:2], other, *jobs[2:]):
        worker.submit(job)
    held.released.set()
    assert [job.result.result(60) for job in (first, *jobs, other)] == [[0], [10], [20], [30], [40], [50], [60], [1000]]
    assert held.batches == [[0], [1, 2, 3, 4], [100], [5, 6]]


def test_an_error_fails_only_its_own_input(worker: Worker) -> None:
    held = BlockingWork()

    def work(inputs: list[Any], check_cancelled: Callable[[], None]) -> list[Any]:
        if 3 in inputs:
            raise ValueError("three")
        return held(inputs, check_cancelled)

    worker.submit(Job("wait", [0], held))
    assert held.started.wait(60)
    jobs = [Job("g", [number], work) for number in range(1, 5)]
    for job in jobs:
        worker.submit(job)
    held.released.set()
    assert [jobs[place].result.result(60) for place in (0, 1, 3)] == [[10], [20], [40]]
    with pytest.raises(ValueError, match="three"):
        jobs[2].result.result(60)


def test_a_batch_is_halved_when_memory_runs_out(worker: Worker) -> None:
    held = BlockingWork()
    sizes = []

    def work(inputs: list[Any], check_cancelled: Callable[[], None]) -> list[Any]:
        sizes.append(len(inputs))
        if len(inputs) > 1:
            raise MemoryError
        return inputs

    worker.submit(Job("wait", [0], held))
    assert held.started.wait(60)
    jobs = [Job("g", [number], work) for number in range(4)]
    for job in jobs:
        worker.submit(job)
    held.released.set()
    assert [job.result.result(60) for job in jobs] == [[0], [1], [2], [3]]
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def test_cancelled_work_is_stopped_or_never_started(worker: Worker) -> None:
    held, never = BlockingWork(), BlockingWork()
    job, behind = Job("g", [0], held), Job("h", [1], never)
    worker.submit(job)
    assert held.started.wait(60)
    worker.submit(behind)
    behind.cancelled = True
    job.cancelled = True  # it is never released, so only cancelling can end it
    with pytest.raises(WorkCancelled):
        job.result.result(60)
    last = Job("i", [2], lambda inputs, _: inputs)
    worker.submit(last)
    assert last.result.result(60) == [2]
    assert never.batches == []


def test_texts_are_decoded_together_and_wait_for_room(worker: Worker, language: StubLanguage) -> None:
    started, may = threading.Event(), threading.Event()
    worker.submit(Job("wait", [0], lambda inputs, _: (started.set(), may.wait(60), inputs)[2]))
    assert started.wait(60)
    order: list[tuple[int, Any]] = []
    done = threading.Event()

    def make_callback(number: int) -> Callable[[Any], None]:
        def on_piece(piece: Any) -> None:
            order.append((number, piece))
            if len(order) == 1:  # the cache is full
                for late in (PLACES, PLACES + 1):
                    worker.submit(decoding_job("abc", make_callback(late)))
            if len(order) == 4 * (PLACES + 2):
                done.set()

        return on_piece

    for number in range(PLACES):
        worker.submit(decoding_job("abc", make_callback(number)))
    may.set()
    assert done.wait(60)
    assert [number for number, piece in order[:PLACES]] == list(range(PLACES))
    assert [piece for number, piece in order if number == PLACES + 1] == ["a", "b", "c", None]
    assert language.rows == [PLACES] * 3 + [2] * 3


def test_texts_are_refused_when_as_many_wait_as_there_is_room_for(worker: Worker) -> None:
    started, may = threading.Event(), threading.Event()
    worker.submit(Job("wait", [0], lambda inputs, _: (started.set(), may.wait(60), inputs)[2]))
    assert started.wait(60)
    ends: list[tuple[int, Any]] = []
    done = threading.Event()

    def make_callback(number: int) -> Callable[[Any], None]:
        def on_piece(piece: Any) -> None:
            if piece is None or isinstance(piece, Exception):
                ends.append((number, piece))
                if len(ends) == PLACES + 3:
                    done.set()

        return on_piece

    for number in range(PLACES + 3):
        worker.submit(decoding_job("ab", make_callback(number)))
    may.set()
    assert done.wait(60)
    refused = [number for number, end in ends if isinstance(end, CacheFull)]
    assert refused == list(range(PLACES, PLACES + 3))
    assert all(end.seconds >= 1 for _, end in ends if isinstance(end, CacheFull))


def test_texts_of_the_client_with_the_fewest_running_ones_are_admitted_first(worker: Worker) -> None:
    started, may = threading.Event(), threading.Event()
    worker.submit(Job("wait", [0], lambda inputs, _: (started.set(), may.wait(60), inputs)[2]))
    assert started.wait(60)
    order: list[str] = []
    done = threading.Event()

    def make_callback(client: str) -> Callable[[Any], None]:
        def on_piece(piece: Any) -> None:
            order.append(client)
            if len(order) == 2 * PLACES:
                done.set()

        return on_piece

    for client in ["one"] * (PLACES - 1) + ["other"]:
        worker.submit(decoding_job("a", make_callback(client), client))
    may.set()
    assert done.wait(60)
    assert order[:2] == ["one", "other"]


def test_jobs_may_generate_texts_in_the_running_batch(worker: Worker, language: StubLanguage) -> None:
    started, may = threading.Event(), threading.Event()
    worker.submit(Job("wait", [0], lambda inputs, _: (started.set(), may.wait(60), inputs)[2]))
    assert started.wait(60)

    def write(inputs: list[Any], _: Callable[[], None]) -> Generation:
        if len(inputs) > 1 and "bad" in inputs:
            raise ValueError("bad")
        if "bad" in inputs:
            raise RuntimeError("bad alone")
        texts = generation("abc", lambda _: None, len(inputs))
        return Generation(texts.demand, lambda: texts.start().map(lambda _: [f"{each}!" for each in inputs]))

    jobs = [Job("captions", [each], write, generates=True) for each in ("x", "bad", "y")]
    for job in jobs:
        worker.submit(job)
    pieces: list[Any] = []
    worker.submit(decoding_job("abc", pieces.append))
    may.set()
    assert jobs[0].result.result(60) == ["x!"] and jobs[2].result.result(5) == ["y!"]
    with pytest.raises(RuntimeError, match="bad alone"):
        jobs[1].result.result(60)
    assert max(language.rows) >= 2


def test_an_abandoned_conversation_ends_at_its_next_token(worker: Worker) -> None:
    pieces: list[Any] = []
    stream = decoding_job(itertools.repeat("word"), pieces.append)
    worker.submit(stream)
    deadline = time.monotonic() + 60
    while len(pieces) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    stream.cancelled = True
    while not isinstance(pieces[-1], WorkCancelled) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert isinstance(pieces[-1], WorkCancelled)
    assert worker.pending() == 0


def test_a_closed_worker_ends_its_thread_and_refuses_jobs() -> None:
    worker = Worker("test", scheduler=DecodingScheduler(StubLanguage(), PLACES * TOKENS))
    pieces: list[Any] = []
    stream = decoding_job(itertools.repeat("word"), pieces.append)
    worker.submit(stream)
    worker.close(5)
    assert isinstance(pieces[-1], WorkCancelled)
    assert not worker._thread.is_alive()
    with pytest.raises(WorkCancelled):
        worker.submit(stream)


def test_a_conversation_does_not_wait_for_a_long_batch(worker: Worker) -> None:
    held = BlockingWork()
    job = Job("g", [0], held)
    worker.submit(job)
    assert held.started.wait(60)
    pieces: list[Any] = []
    done = threading.Event()
    worker.submit(decoding_job("abc", lambda piece: (pieces.append(piece), piece is None and done.set())))
    assert done.wait(60) and pieces == ["a", "b", "c", None]
    assert not job.result.done()
    held.released.set()
    assert job.result.result(60) == [0]


def test_a_short_job_does_not_wait_for_the_remainder_of_a_long_one(worker: Worker) -> None:
    held = BlockingWork()
    long = Job("g", list(range(100)), held, client="one")
    worker.submit(long)
    assert held.started.wait(60)
    short = Job("g", [1000], held, client="other")
    worker.submit(short)
    held.released.set()
    assert short.result.result(60) == [10_000]
    assert 1000 in held.batches[1]  # the very next batch, although 96 inputs of the long job were before it
    assert long.result.result(60) == [each * 10 for each in range(100)]


def test_clients_take_turns_and_shorter_jobs_go_first(worker: Worker) -> None:
    held = BlockingWork()
    worker.submit(Job("wait", [0], held, client="one"))
    assert held.started.wait(60)
    long, short = Job("long", ["long"] * 8, held, client="one"), Job("short", ["short"], held, client="one")
    other = Job("other", ["other"] * 8, held, client="other")
    for job in (long, short, other):
        worker.submit(job)
    held.released.set()
    for job in (long, short, other):
        job.result.result(60)
    assert [batch[0] for batch in held.batches[1:]] == ["other", "short", "other", "long", "long"]


def test_a_cancelled_long_job_ends_after_its_current_batch(worker: Worker) -> None:
    batches: list[list[Any]] = []
    first = threading.Event()
    may = threading.Event()

    def function(inputs: list[Any], _: Callable[[], None]) -> list[Any]:
        batches.append(inputs)
        first.set()
        may.wait(60)
        return inputs

    job = Job("g", list(range(1000)), function)
    worker.submit(job)
    assert first.wait(60)
    job.cancelled = True
    may.set()
    with pytest.raises(WorkCancelled):
        job.result.result(60)
    assert len(batches) == 1


def test_cancelling_a_worker_ends_waiting_jobs_with_a_reason(worker: Worker) -> None:
    held = BlockingWork()
    worker.submit(Job("g", [0], held))
    assert held.started.wait(60)
    job = Job("h", [1], held)
    worker.submit(job)
    worker.cancel()
    held.released.set()
    with pytest.raises(WorkCancelled):
        job.result.result(60)


def test_a_client_ahead_of_others_waits_for_them_at_another_worker() -> None:
    share = FairShare(burst=1.0)
    active: dict[str, set[str]] = {"encoder": {"bulk", "small"}, "language": {"talker", "waiting"}}

    def encoder() -> set[str]:
        return active["encoder"]

    share.add_worker(encoder)
    share.add_worker(lambda: active["language"])
    share.charge(["bulk"], 0.9)
    assert share.allowed(["bulk", "small"], encoder) == {"bulk", "small"}  # less than the burst
    share.charge(["bulk", "small"], 0.4)  # 0.2 each
    assert share.allowed(["bulk", "small"], encoder) == {"small"}
    active["language"] = set()
    assert share.allowed(["bulk", "small"], encoder) == {"bulk", "small"}  # nobody else needs the processor
    active["language"] = {"bulk"}
    assert share.allowed(["bulk"], encoder) == {"bulk"}  # a client does not wait for itself
    active["language"] = {"talker", "waiting"}
    share.charge(["talker"], 0.5)  # one who waits for another reason does not hold it up: the mean counts
    assert share.allowed(["bulk"], encoder) == {"bulk"}


def test_a_client_is_not_repaid_for_the_time_in_which_it_asked_for_nothing() -> None:
    share = FairShare(burst=1.0)

    def encoder() -> set[str]:
        return {"early"}

    share.add_worker(encoder)
    share.charge(["early"], 100.0)
    share.add_worker(lambda: {"late"})
    assert share.allowed(["early"], encoder) == {"early"}
    share.charge(["early"], 1.5)
    assert share.allowed(["early"], encoder) == set()
    share.charge(["late"], 1.0)
    assert share.allowed(["early"], encoder) == {"early"}


def test_workers_share_the_processor_among_clients(language: StubLanguage) -> None:
    share = FairShare(burst=5.0)
    others = {"bulk": True}
    share.add_worker(lambda: {"talker"} if others["bulk"] else set())
    worker = Worker("test", max_batch_size=4, share=share)
    try:
        first = Job("g", [1], lambda inputs, _: inputs, client="bulk")
        worker.submit(first)
        assert first.result.result(60) == [1]
        share.charge(["bulk"], 10.0)
        bulk = Job("g", list(range(9)), lambda inputs, _: inputs, client="bulk")
        worker.submit(bulk)
        small = Job("g", list(range(5)), lambda inputs, _: inputs, client="small")
        single = Job("g", [7], lambda inputs, _: inputs, client="bulk")  # not long: never waits
        worker.submit(small)
        worker.submit(single)
        assert small.result.result(60) == list(range(5))  # although bulk's waits longer
        assert single.result.result(60) == [7]
        assert not bulk.result.done()
        others["bulk"] = False
        assert bulk.result.result(60) == list(range(9))
    finally:
        worker.close(60)
    assert not worker.clients()


def test_a_long_job_is_cut_finer_while_other_clients_have_work() -> None:
    share, others = FairShare(), {"talker"}
    share.add_worker(lambda: others)
    sizes: list[int] = []

    def compute(inputs: list[Any], _: Callable[[], None]) -> list[Any]:
        sizes.append(len(inputs))
        time.sleep(LONG_SECONDS / 2 * len(inputs))
        return inputs

    worker = Worker("test", max_batch_size=8, share=share)
    try:
        for shared, fitting in ((True, [4, *[2] * 8]), (False, [8, 8, 4])):
            sizes.clear()
            if not shared:
                others.clear()
            bulk = Job("g", list(range(20)), compute, client="bulk")
            worker.submit(bulk)
            assert bulk.result.result(60) == list(range(20))
            assert len(sizes) >= len(fitting) and all(size <= most for size, most in zip(sizes, fitting, strict=False))
    finally:
        worker.close(60)


def test_short_jobs_are_not_computed_with_a_part_of_a_long_one() -> None:
    batches: list[set[Any]] = []
    started, go_on = threading.Event(), threading.Event()

    def compute(inputs: list[Any], _: Callable[[], None]) -> list[Any]:
        started.set()
        assert go_on.wait(60)
        batches.append(set(inputs))
        return inputs

    worker = Worker("test", max_batch_size=4)
    try:
        jobs = [Job("g", ["first"], compute, client="first")]
        worker.submit(jobs[0])
        assert started.wait(60)
        jobs += [Job("g", ["long"] * 6, compute, client="long")]
        jobs += [Job("g", [f"short {number}"], compute, client="short") for number in range(2)]
        for job in jobs[1:]:
            worker.submit(job)
        go_on.set()
        assert [job.result.result(60) for job in jobs] == [job.inputs for job in jobs]
    finally:
        worker.close(60)
    assert {"short 0", "short 1"} in batches and all("long" not in batch or batch == {"long"} for batch in batches)
