from collections import Counter
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder.errors import InvalidSetting
from beholder.training.examples import Example
from beholder.training.samplers import ShuffledBatchSampler, rank_slice


def examples(count: int) -> list[Example]:
    return [Example(str(number), Path(str(number)), ("text",)) for number in range(count)]


def drawn(order: ShuffledBatchSampler, steps: int, state: dict | None = None) -> list[list[str]]:
    return [[draw.example.name for draw in draws] for draws, _ in islice(order.batches(state), steps)]


@given(st.integers(2, 40), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_all_ranks_together_sample_every_example_exactly_once_per_epoch(
    count: int, ranks: int, each: int, epochs: int
) -> None:
    batch = min(ranks * each, count // ranks * ranks)
    if batch == 0:
        return
    steps = -(-epochs * count // batch)
    parts = [drawn(ShuffledBatchSampler(examples(count), batch, 7, rank, ranks), steps) for rank in range(ranks)]
    row = [name for step in range(steps) for part in parts for name in part[step]]
    for epoch in range(epochs):
        assert Counter(row[epoch * count : (epoch + 1) * count]) == Counter(str(number) for number in range(count))


def test_the_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    alone = drawn(ShuffledBatchSampler(examples(13), 6, 1), 9)
    parts = [drawn(ShuffledBatchSampler(examples(13), 6, 1, rank, 3), 9) for rank in range(3)]
    assert [list(chain(*step)) for step in zip(*parts, strict=True)] == alone


def test_the_sampler_resumes_from_any_position() -> None:
    order = ShuffledBatchSampler(examples(10), 4, 3)
    whole = [(draws, state) for draws, state in islice(order.batches(), 8)]
    for step in range(7):
        behind = list(islice(ShuffledBatchSampler(examples(10), 4, 3).batches(whole[step][1]), 7 - step))
        assert behind == whole[step + 1 :]


def test_the_order_depends_on_epoch_and_seed() -> None:
    row = list(chain(*drawn(ShuffledBatchSampler(examples(30), 10, 3), 6)))
    other = list(chain(*drawn(ShuffledBatchSampler(examples(30), 10, 4), 3)))
    assert row[:30] != row[30:] and row[:30] != other


def test_an_indivisible_batch_size_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="evenly"):
        rank_slice(10, 0, 4)
    with pytest.raises(InvalidSetting, match="more than the 3"):
        ShuffledBatchSampler(examples(3), 4, 0)
