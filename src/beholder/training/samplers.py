"""In which order examples are seen: every one exactly once an epoch, over all ranks, from any place on.

The epochs' permutations stand one behind the other in an endless row, and a batch is a piece of it. So nothing is lost
where an epoch ends in the middle of a batch, and the place in the row is all that a resumed training needs to know.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from beholder.errors import InvalidSetting
from beholder.training.examples import Example

SamplerState = dict[str, Any]  # plain values, for a checkpoint


@dataclass(frozen=True)
class Sample:
    """An example's turn; ``seed`` decides which of its texts is taken and how its picture is changed."""

    example: Example
    seed: tuple[int, ...]


class BatchSampler(Protocol):
    """Gives batch after batch without end."""

    def batches(self, state: SamplerState | None = None) -> Iterator[tuple[list[Sample], SamplerState]]:
        """This rank's part of each batch, and the state from which to go on behind it; None is the beginning."""


class ShuffledBatchSampler:
    """The order of examples in memory. The batches are the same whatever the number of ranks.

    Args:
        examples: all of them, on every rank.
        batch: examples of a step, over all ranks.
        seed: of the permutations.
        rank: which part of a batch is ours.
        ranks: into how many it is divided.

    Raises:
        InvalidSetting: there are too few examples for a batch of different ones, or a batch can't be divided.
    """

    def __init__(self, examples: Sequence[Example], batch: int, seed: int, rank: int = 0, ranks: int = 1):
        if batch > len(examples):
            raise InvalidSetting(f"a batch of {batch} is more than the {len(examples)} pictures that there are")
        self.examples = examples
        self.batch = batch
        self.seed = seed
        self.part = rank_slice(batch, rank, ranks)

    def batches(self, state: SamplerState | None = None) -> Iterator[tuple[list[Sample], SamplerState]]:
        """As `Order` says; the state is a ``position`` in the endless row."""
        position = 0 if state is None else int(state["position"])
        known: dict[int, np.ndarray] = {}
        while True:
            draws = []
            for number in range(position + self.part.start, position + self.part.stop):
                epoch, place = divmod(number, len(self.examples))
                if epoch not in known:
                    known = {epoch: np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))}
                draws.append(Sample(self.examples[known[epoch][place]], (self.seed, epoch, place)))
            position += self.batch
            yield draws, {"position": position}


def rank_slice(batch: int, rank: int, ranks: int) -> range:
    """Which places of a batch are a rank's.

    Raises:
        InvalidSetting: the batch can't be divided evenly.
    """
    if batch % ranks:
        raise InvalidSetting(f"a batch of {batch} can't be divided evenly over {ranks} processes")
    each = batch // ranks
    return range(rank * each, (rank + 1) * each)
