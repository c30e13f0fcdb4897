"""Embed shards: what is left to do, by which engine, and how it goes."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from beholder.errors import BeholderError
from beholder.scale.local_engine import run_local
from beholder.scale.parts import FAILED, part_names, start_run
from beholder.scale.ray_engine import run_ray
from beholder.scale.shard_embedder import EmbedOptions, ShardResult
from beholder.scale.storage import Location
from beholder.text.json_lines import json_line

if TYPE_CHECKING:
    from beholder.tasks.dual_encoder import DualEncoder

Engine = Literal["local", "ray"]


class TooManyFailed(BeholderError):
    """More shards failed than allowed; those that are done stay done."""


@dataclass
class EmbedProgress:
    """How far a run has come.

    Attributes:
        shards: of the source.
        done_before: of them, those with a part before this run, or by another run meanwhile.
        done: in this run.
        rows: records in the parts of this run.
        failed: those of them without a vector.
        failed_shards: shards that could not be read.
        by_node: records by machine.
    """

    shards: int
    done_before: int = 0
    done: int = 0
    rows: int = 0
    failed: int = 0
    failed_shards: list[ShardResult] = field(default_factory=list)
    by_node: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    started: float = field(default_factory=time.monotonic)

    def count(self, result: ShardResult) -> None:
        """Count one more shard."""
        if result.error is not None:
            self.failed_shards.append(result)
        elif result.done_before:
            self.done_before += 1
        else:
            self.done += 1
            self.rows += result.rows
            self.failed += result.failed
            self.by_node[result.node] += result.rows

    @property
    def left(self) -> int:
        """Shards that are neither done nor failed."""
        return self.shards - self.done_before - self.done - len(self.failed_shards)

    @property
    def pictures_per_second(self) -> float:
        """Records a second, in this run."""
        return self.rows / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Time that the shards left will take; None before the first one is done."""
        return self.left * (time.monotonic() - self.started) / self.done if self.done else None


class EmbedRun:
    """A run over some shards; iterating over it works and yields the outcome of each shard.

    Another run with the same output, at the same time, does no harm: shards are taken in random order, and one whose
    part another run has written meanwhile is left out.

    Args:
        shards: their addresses.
        options: what to do.
        encoder: the model.
        max_failed: shards that may fail.
        engine: ``"local"``, or ``"ray"``.
        address: of the Ray cluster (`run_ray`).

    Raises:
        InvalidSetting: the output holds vectors made with other settings, or can't be reached.
        WriteFailed: it can't be written.
    """

    def __init__(
        self,
        shards: Sequence[str],
        options: EmbedOptions,
        encoder: DualEncoder,
        max_failed: int | None = None,
        engine: Engine = "local",
        address: str | None = None,
    ):
        self.options, self.encoder, self.max_failed = options, encoder, max_failed
        self.engine, self.address = engine, address
        self.out = Location.of(options.out)
        start_run(self.out, options.settings)
        finished = set(part_names(self.out))
        self.todo = [shard for shard in shards if options.settings.part(shard) not in finished]
        random.shuffle(self.todo)
        self.progress = EmbedProgress(len(shards), len(shards) - len(self.todo))

    def __iter__(self) -> Iterator[ShardResult]:
        """Embed what is left.

        Raises:
            WriteFailed: a part can't be written.
            TooManyFailed: more than ``max_failed`` shards can't be read.
        """
        with suppress(FileNotFoundError):
            self.out.files.rm(self._failed.path)  # of the run before; its shards are tried again
        for result in self._results():
            self.progress.count(result)
            if result.error is not None:
                self._write_failed()
            yield result
            if self.max_failed is not None and len(self.progress.failed_shards) > self.max_failed:
                raise TooManyFailed(
                    f"{len(self.progress.failed_shards)} shards failed, more than --max-failed {self.max_failed}; "
                    f"{self._failed.address} names them. The last: {result.error}"
                )

    def _results(self) -> Iterator[ShardResult]:
        if not self.todo:
            return iter(())
        if self.engine == "ray":
            return run_ray(self.options, self.todo, self.address)
        return run_local(self.options, self.todo, self.encoder)

    @property
    def _failed(self) -> Location:
        return self.out / FAILED

    def _write_failed(self) -> None:
        failed = self.progress.failed_shards
        rows = [{"shard": result.shard, "error": result.error, "node": result.node} for result in failed]
        self._failed.write("".join(f"{json_line(row)}\n" for row in rows).encode())
