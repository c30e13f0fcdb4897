"""Webdataset shards: tar files in which the files of an example stand together and share their name up to its dot.

Read once from beginning to end, from a disk or from any address that fsspec knows. The shards of an epoch are dealt
out to the ranks anew each time, so that each is read by exactly one. What a rank reads is shuffled in blocks: a
training that is resumed opens one shard and skips to the block's beginning.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra
from beholder.training.examples import Example, key_of, texts_of
from beholder.training.samplers import Sample, SamplerState, rank_slice

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic")
OnSkip = Callable[[str, str], None]  # the name of an example that can't be used, and why


def is_shards(address: str) -> bool:
    """Whether data is meant to be shards: a name, or a pattern of names, of tar files."""
    return address.endswith((".tar", ".tar.gz", ".tgz"))


def list_shards(address: str) -> list[str]:
    """The shards that a pattern such as ``s3://bucket/train-{000000..000255}.tar`` or ``data/*.tar`` stands for.

    Raises:
        MissingExtra: ``webdataset`` is not installed, or the protocol's package.
        InvalidSetting: there are none, or they can't be reached.
    """
    try:
        import fsspec
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise MissingExtra("training on shards", "train") from error
    shards: list[str] = []
    try:
        for named in expand_urls(address):
            files, path = fsspec.core.url_to_fs(named)
            if "*" in named or "?" in named:
                found = sorted(files.glob(path))
                shards += [each if "://" not in named else files.unstrip_protocol(each) for each in found]
            else:
                shards.append(named)
        if not shards:
            raise InvalidSetting(f"{address}: there are no such shards")
        for shard in (shards[0], shards[-1]):
            files, path = fsspec.core.url_to_fs(shard)
            if not files.exists(path):
                raise InvalidSetting(f"{shard}: there is no such shard")
    except InvalidSetting:
        raise
    except Exception as error:  # every file system of fsspec raises its own
        raise InvalidSetting(f"{address}: can't be reached ({error})") from error
    return shards


def read_shard(shard: str, on_skip: OnSkip) -> Iterator[Example | None]:
    """The examples of a shard in order; None, and a word to ``refuse``, where one lacks its picture or its text.

    A shard that is cut short gives what can be read and is refused by its own name.
    """
    import fsspec
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    try:
        with fsspec.open(shard, "rb") as stream:
            for files in group_by_keys({**file, "__url__": shard} for file in tar_file_iterator(stream)):
                name = f"{shard}/{files['__key__']}"
                picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
                texts = _texts(files)
                if picture is None or not texts:
                    on_skip(name, "has no picture" if picture is None else "has no text")
                    yield None
                else:
                    yield Example(name, picture, texts)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        on_skip(shard, f"can't be read to its end ({error})")


def _texts(files: dict[str, Any]) -> tuple[str, ...]:
    try:
        if "json" in files:
            return texts_of(json.loads(files["json"]))
    except (ValueError, TypeError, AttributeError):
        pass
    text = files.get("txt", b"").decode("utf-8", "replace").strip()
    return (text,) if text else ()


class ShardBatchSampler:
    """The order of examples in shards.

    Args:
        shards: all of them, on every rank.
        batch: examples of a step, over all ranks.
        seed: of the shards' order and the shuffling.
        shuffle: examples that are read into memory and shuffled together.
        refuse: told of what can't be used.
        rank: which shards of an epoch are ours.
        ranks: over how many they are dealt out.

    Raises:
        InvalidSetting: there are fewer shards than ranks, or a batch can't be divided.
    """

    def __init__(
        self,
        shards: Sequence[str],
        batch: int,
        seed: int,
        shuffle: int,
        on_skip: OnSkip,
        rank: int = 0,
        ranks: int = 1,
    ):
        if len(shards) < ranks:
            raise InvalidSetting(
                f"{len(shards)} shards can't be dealt out to {ranks} processes; make more, smaller ones"
            )
        self.shards = shards
        self.each = len(rank_slice(batch, rank, ranks))
        self.seed = seed
        self.shuffle = shuffle
        self.on_skip = on_skip
        self.rank = rank
        self.ranks = ranks

    def batches(self, state: SamplerState | None = None) -> Iterator[tuple[list[Sample], SamplerState]]:
        """As `Order` says; the state holds where a block begins and how much of it was ``taken``."""
        draws = self._draws(state or {"epoch": 0, "shard": 0, "sample": 0, "taken": 0})
        while True:
            batch = list(islice(draws, self.each))
            yield [draw for draw, _ in batch], batch[-1][1]

    def _draws(self, state: SamplerState) -> Iterator[tuple[Sample, SamplerState]]:
        epoch, shard, sample, taken = (int(state[name]) for name in ("epoch", "shard", "sample", "taken"))
        while True:
            dealt = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))[self.rank :: self.ranks]
            reader = self._from([self.shards[number] for number in dealt], shard, sample)
            some = (shard, sample) != (0, 0)
            while block := list(islice(reader, self.shuffle)):
                some = True
                order = np.random.default_rng([self.seed, epoch, shard, sample]).permutation(len(block))
                for number in range(taken, len(block)):
                    example = block[order[number]][0]
                    after = {"epoch": epoch, "shard": shard, "sample": sample, "taken": number + 1}
                    yield Sample(example, (self.seed, epoch, key_of(example.name))), after
                (shard, sample), taken = block[-1][1], 0
            if not some:
                raise InvalidSetting(f"{self.shards[int(dealt[0])]}: no picture with a text in it or in the others")
            epoch, shard, sample, taken = epoch + 1, 0, 0, 0

    def _from(self, dealt: Sequence[str], shard: int, sample: int) -> Iterator[tuple[Example, tuple[int, int]]]:
        """Examples from a place on, each with the place behind it."""
        for number in range(shard, len(dealt)):
            skipped = sample if number == shard else 0
            for place, example in enumerate(read_shard(dealt[number], self.on_skip)):
                if place >= skipped and example is not None:
                    yield example, (number, place + 1)
