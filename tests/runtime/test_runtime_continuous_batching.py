"""Requests that are decoded together get the texts that each would get alone."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.models.language_model import LanguageModel
from beholder.runtime.continuous_batching import CacheDemand, ContinuousBatch, DecodingRequest
from beholder.runtime.decoding import DecodingSettings, generate, start_decoding
from tiny_language_models import make

STRATEGIES = [
    DecodingSettings(max_new_tokens=12),
    DecodingSettings(max_new_tokens=3),
    DecodingSettings(max_new_tokens=9, no_repeat_ngram_size=2, repetition_penalty=1.3),
    DecodingSettings(max_new_tokens=10, top_p=0.9, temperature=1.5, seed=7),
    DecodingSettings(max_new_tokens=10, num_beams=3),
    DecodingSettings(max_new_tokens=6, num_beams=4, early_stopping=True),
]
LANGUAGES: dict[str, LanguageModel] = {}


def language_of(kind: str) -> LanguageModel:
    if kind not in LANGUAGES:
        LANGUAGES[kind] = make(kind)
    return LANGUAGES[kind]


def prompt(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One or two rows of one to twelve vectors."""
    generator = torch.Generator().manual_seed(seed)
    rows, length = 1 + seed % 2, 1 + seed % 12
    return torch.randn(rows, length, 32, generator=generator) * 2, torch.ones(rows, length, dtype=torch.bool)


def request(language: LanguageModel, seed: int, chosen: DecodingSettings, ends: dict[int, Any], number: int) -> Any:
    embeddings, mask = prompt(seed)
    demand = CacheDemand(len(mask) * chosen.num_beams, mask.shape[1] + chosen.max_new_tokens)
    decoding = start_decoding(language, embeddings, mask, chosen)
    return DecodingRequest(demand, decoding, lambda outcome: ends.setdefault(number, outcome))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
@settings(max_examples=25, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 6),  # steps before it arrives
            st.integers(0, 40),  # its prompt
            st.sampled_from(STRATEGIES),
            st.one_of(st.none(), st.integers(0, 5)),  # steps until it is cancelled
        ),
        min_size=1,
        max_size=8,
    ),
    capacity=st.sampled_from([60, 200, 10_000]),
)
def test_every_text_is_that_of_a_lone_request(
    kind: str, arrivals: list[tuple[int, int, DecodingSettings, int | None]], capacity: int
) -> None:
    language = language_of(kind)
    batch = ContinuousBatch(language, capacity)
    ends: dict[int, Any] = {}
    running: dict[int, tuple[DecodingRequest, int | None]] = {}
    waiting = [(number, *arrival) for number, arrival in enumerate(arrivals)]
    cancelled = set()
    while waiting or batch.requests:
        if waiting and waiting[0][1] > 0 and batch.requests:
            waiting[0] = (waiting[0][0], waiting[0][1] - 1, *waiting[0][2:])
        else:
            joining = []
            while waiting and len(joining) < 3:
                number, _, seed, chosen, left = waiting[0]
                new = request(language, seed, chosen, ends, number)
                if not batch.fits(*(each.demand for each in (*joining, new))):
                    break
                waiting.pop(0)
                joining.append(new)
                running[number] = new, left
            batch.join(joining)
        for number, (each, left) in list(running.items()):
            if number in ends:
                del running[number]
            elif left == 0:
                batch.remove(each)
                cancelled.add(number)
                del running[number]
            elif left is not None:
                running[number] = each, left - 1
        batch.step()
        for group in batch._groups:
            rows, length = group.kv_cache.mask.shape
            assert len(group.members) == 1 or rows * length <= capacity
    assert batch.rows == 0 and batch.reserved == 0
    assert set(ends) | cancelled == set(range(len(arrivals))) and not set(ends) & cancelled
    for number, texts in ends.items():
        _, seed, chosen, _ = arrivals[number]
        alone = generate(language, *prompt(seed), chosen)
        assert [text.ids for text in texts] == [text.ids for text in alone]
        assert [text.score for text in texts] == pytest.approx([text.score for text in alone], abs=1e-4)


@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
def test_requests_may_join_and_leave_at_any_time(kind: str) -> None:
    language = language_of(kind)
    batch = ContinuousBatch(language, 10_000)
    ends: dict[int, Any] = {}
    for number, chosen in enumerate(STRATEGIES):
        batch.join([request(language, 7 * number, chosen, ends, number)])
        batch.step()
    while batch.requests:
        batch.step()
    for number, chosen in enumerate(STRATEGIES):
        alone = generate(language, *prompt(7 * number), chosen)
        assert [text.ids for text in ends[number]] == [text.ids for text in alone]


def test_requests_share_one_call_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    language = language_of("llama")
    rows: list[int] = []
    decode = language.decode
    monkeypatch.setattr(
        language, "decode", lambda ids, *arguments, **options: (rows.append(len(ids)), decode(ids, *arguments))[1]
    )
    batch = ContinuousBatch(language, 10_000)
    ends: dict[int, Any] = {}
    chosen = DecodingSettings(max_new_tokens=2)
    batch.join([request(language, seed, chosen, ends, seed) for seed in (0, 2, 4)])
    batch.step()
    assert rows == [3]
    assert len(ends) == 3 and not batch.requests


def test_an_error_of_one_request_does_not_end_the_others() -> None:
    language = language_of("opt")
    batch = ContinuousBatch(language, 10_000)
    ends: dict[int, Any] = {}
    failing, fine = (request(language, seed, STRATEGIES[1], ends, seed) for seed in (0, 2))

    def broken() -> Any:
        yield next(failing_steps)
        raise ValueError("broken")

    failing_steps = failing.decoding.steps
    object.__setattr__(failing.decoding, "steps", broken())
    batch.join([failing, fine])
    while batch.requests:
        batch.step()
    assert isinstance(ends[0], ValueError)
    assert [text.ids for text in ends[2]] == [text.ids for text in generate(language, *prompt(2), STRATEGIES[1])]


def test_a_failure_of_the_network_ends_every_request_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    language = language_of("opt")
    batch = ContinuousBatch(language, 10_000)
    ends: dict[int, Any] = {}
    batch.join([request(language, seed, STRATEGIES[0], ends, seed) for seed in (0, 2)])

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(language, "decode", fail)
    batch.step()
    assert [type(end) for end in ends.values()] == [MemoryError, MemoryError] and not batch.requests


def test_room_is_counted_by_the_longest_request() -> None:
    batch = ContinuousBatch(language_of("opt"), 60)
    assert batch.fits(CacheDemand(100, 100))  # alone, whatever its size
    batch.join([request(language_of("opt"), 0, STRATEGIES[0], {}, 0)])
    assert batch.reserved == 13
    assert batch.fits(CacheDemand(1, 30)) and not batch.fits(CacheDemand(1, 31))
