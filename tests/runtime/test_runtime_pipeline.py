import threading
import time
from itertools import count

import pytest

from beholder.runtime.pipeline import batches, map_ahead


def test_results_are_in_the_order_of_their_inputs() -> None:
    def slow_for_even(number: int) -> int:
        time.sleep(0.01 * (number % 2 == 0))
        return number * number

    assert list(map_ahead(slow_for_even, range(20), ahead=5)) == [number * number for number in range(20)]


def test_at_most_the_given_number_of_inputs_is_prepared_ahead() -> None:
    begun = []
    stream = map_ahead(begun.append, count(), ahead=4)
    for _ in range(3):
        next(stream)
    time.sleep(0.05)
    stream.close()
    assert len(begun) <= 3 + 4


def test_the_next_inputs_are_prepared_while_a_result_is_processed() -> None:
    prepared = threading.Event()

    def prepare(number: int) -> int:
        if number == 1:
            prepared.set()
        return number

    stream = map_ahead(prepare, range(3), ahead=2)
    next(stream)
    assert prepared.wait(timeout=60)
    stream.close()


def test_an_error_is_raised_at_the_position_of_its_input() -> None:
    def divide(number: int) -> float:
        return 1 / number

    stream = map_ahead(divide, [1, 2, 0, 4], ahead=4)
    assert [next(stream), next(stream)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_an_error_of_the_input_iterator_is_raised() -> None:
    def source():
        yield 1
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="the source broke"):
        list(map_ahead(str, source(), ahead=1))


def test_pending_inputs_are_canceled_when_the_loop_ends_early() -> None:
    begun = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        return number

    stream = map_ahead(slow, range(1000), ahead=1000)
    next(stream)
    stream.close()
    time.sleep(0.1)
    assert len(begun) < 500


@pytest.mark.parametrize(("items", "expected"), [(5, [[0, 1], [2, 3], [4]]), (4, [[0, 1], [2, 3]]), (0, [])])
def test_all_batches_but_the_last_are_full(items: int, expected: list[list[int]]) -> None:
    assert list(batches(range(items), 2)) == expected
