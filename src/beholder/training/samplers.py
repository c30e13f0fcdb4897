"""Batch samplers: every example exactly once per epoch, over all ranks, resumable at any batch.

The permutations of the epochs follow each other in an endless sequence, and a batch is a slice of it. So no example is
dropped where an epoch ends within a batch, and the position in the sequence is all that a resumed training needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from beholder.errors import InvalidSetting
from beholder.training.examples import Example

Item = TypeVar("Item")
SamplerState = dict[str, Any]  # plain values, for a checkpoint


@dataclass(frozen=True)
class Sample(Generic[Item]):
    """An example in a batch; ``seed`` decides which of its texts is used and how its image is augmented."""

    example: Item
    seed: tuple[int, ...]


class BatchSampler(Protocol):
    """Yields batch after batch without end."""

    def batches(self, state: SamplerState | None = None) -> Iterator[tuple[list[Sample[Example]], SamplerState]]:
        """Yield this rank's part of each batch, and the state from which to resume after it; None is the beginning."""


class ShuffledBatchSampler(Generic[Item]):
    """Shuffled batches of examples in memory. The batches are the same whatever the number of ranks.

    Args:
        examples: all of them, on every rank.
        batch: examples per step, over all ranks.
        seed: of the permutations.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InvalidSetting: there are fewer examples than a batch has, or a batch can't be divided evenly.
    """

    def __init__(self, examples: Sequence[Item], batch: int, seed: int, rank: int = 0, world_size: int = 1):
        if batch > len(examples):
            raise InvalidSetting(f"a batch of {batch} is more than the {len(examples)} pictures that there are")
        self.examples = examples
        self.batch = batch
        self.seed = seed
        self.part = rank_slice(batch, rank, world_size)

    def batches(self, state: SamplerState | None = None) -> Iterator[tuple[list[Sample[Item]], SamplerState]]:
        """Yield batches as `BatchSampler` does; the state is a ``position`` in the endless sequence."""
        position = 0 if state is None else int(state["position"])
        permutations: dict[int, np.ndarray] = {}
        while True:
            samples = []
            for number in range(position + self.part.start, position + self.part.stop):
                epoch, place = divmod(number, len(self.examples))
                if epoch not in permutations:
                    permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
                    permutations = {epoch: permutation}
                samples.append(Sample(self.examples[permutations[epoch][place]], (self.seed, epoch, place)))
            position += self.batch
            yield samples, {"position": position}


def rank_slice(batch: int, rank: int, world_size: int) -> range:
    """Return a rank's rows of a batch.

    Raises:
        InvalidSetting: the batch can't be divided evenly.
    """
    if batch % world_size:
        raise InvalidSetting(f"a batch of {batch} can't be divided evenly over {world_size} processes")
    part = batch // world_size
    return range(rank * part, (rank + 1) * part)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of what is drawn in a step, the same for a resumed training."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
