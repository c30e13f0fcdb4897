"""Webdataset shards: tar files in which the files of an example follow each other and share their name up to its dot.

Shards are read sequentially, from a disk or from any address that fsspec knows. The shards of an epoch are distributed
over the ranks anew each time, so that each is read by exactly one. A rank shuffles in blocks of examples: a training
that is resumed opens one shard and skips to the beginning of the block.
"""

import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra
from beholder.training.examples import Example, key_of, texts_of
from beholder.training.samplers import Sample, SamplerState, rank_slice

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic")
OnSkip = Callable[[str, str], None]  # called with the name of an example that can't be used, and the reason


def is_shards(address: str) -> bool:
    """Whether an address names shards: a tar file, or a pattern of tar files."""
    return address.endswith((".tar", ".tar.gz", ".tgz"))


def list_shards(address: str) -> list[str]:
    """Expand a pattern such as ``s3://bucket/train-{000000..000255}.tar`` or ``data/*.tar``.

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
        for url in expand_urls(address):
            files, path = fsspec.core.url_to_fs(url)
            if "*" in url or "?" in url:
                found = sorted(files.glob(path))
                shards += [each if "://" not in url else files.unstrip_protocol(each) for each in found]
            else:
                shards.append(url)
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
    """Yield the examples of a shard in order; None, after a call of ``on_skip``, for one without its image or text.

    Of a truncated shard, what can be read is yielded, and ``on_skip`` is called with the shard's own name.
    """
    import fsspec
    from webdataset.tariterators import group_by_keys

    try:
        with fsspec.open(shard, "rb") as stream:
            for files in group_by_keys({**file, "__url__": shard} for file in tar_members(stream)):
                name = f"{shard}/{files['__key__']}"
                picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
                try:
                    texts = shard_texts(files)
                except ValueError as error:
                    on_skip(name, str(error))
                    yield None
                    continue
                if picture is None or not texts:
                    on_skip(name, "has no picture" if picture is None else "has no text")
                    yield None
                else:
                    yield Example(name, picture, texts)
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        on_skip(shard, f"can't be read to its end ({error})")


class _CheckedHeader(tarfile.TarInfo):
    """A tar member with a complete header: ``tarfile`` itself takes a truncated one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_CheckedHeader":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the zeros that end an archive
        except tarfile.HeaderError as error:
            raise EOFError(f"it is cut off or damaged: {error}") from error


def tar_members(stream: Any) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar stream, compressed or not, as ``fname`` and ``data``."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_CheckedHeader) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() and not member.name.startswith("__") else None
            if file is not None:
                data = file.read()
                if len(data) < member.size:
                    raise EOFError(f"{member.name} is cut off")
                yield {"fname": member.name, "data": data}
            archive.members = []  # type: ignore[attr-defined]


def shard_texts(files: dict[str, Any]) -> tuple[str, ...]:
    """Return the texts of an example; none where it has no file for them.

    Raises:
        ValueError: they are not UTF-8.
    """
    if "json" in files:
        try:
            return texts_of(json.loads(files["json"].decode("utf-8-sig")))
        except UnicodeDecodeError:
            raise ValueError("its JSON is not UTF-8 text") from None
        except (ValueError, TypeError, AttributeError):
            pass
    try:
        text = files.get("txt", b"").decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("its text is not UTF-8") from None
    return (text,) if text else ()


class ShardBatchSampler:
    """Shuffled batches of examples in shards.

    Args:
        shards: all of them, on every rank.
        batch: examples per step, over all ranks.
        seed: of the order of shards and the shuffling.
        shuffle: size of the shuffle buffer, in examples.
        on_skip: called with what can't be used.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InvalidSetting: there are fewer shards than ranks, or a batch can't be divided evenly.
    """

    def __init__(
        self,
        shards: Sequence[str],
        batch: int,
        seed: int,
        shuffle: int,
        on_skip: OnSkip,
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(shards) < world_size:
            raise InvalidSetting(
                f"{len(shards)} shards can't be distributed over {world_size} processes; make more, smaller ones"
            )
        self.shards = shards
        self.part = len(rank_slice(batch, rank, world_size))
        self.seed = seed
        self.shuffle = shuffle
        self.on_skip = on_skip
        self.rank = rank
        self.world_size = world_size

    def batches(self, state: SamplerState | None = None) -> Iterator[tuple[list[Sample[Example]], SamplerState]]:
        """Yield batches as `BatchSampler` does; the state is a block's beginning and how much of it was ``taken``."""
        samples = self._samples(state or {"epoch": 0, "shard": 0, "sample": 0, "taken": 0})
        while True:
            batch = list(islice(samples, self.part))
            yield [sample for sample, _ in batch], batch[-1][1]

    def _samples(self, state: SamplerState) -> Iterator[tuple[Sample[Example], SamplerState]]:
        epoch, shard, sample, taken = (int(state[name]) for name in ("epoch", "shard", "sample", "taken"))
        while True:
            permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
            own = permutation[self.rank :: self.world_size]
            examples = self._examples([self.shards[number] for number in own], shard, sample)
            found = (shard, sample) != (0, 0)
            while block := list(islice(examples, self.shuffle)):
                found = True
                order = np.random.default_rng([self.seed, epoch, shard, sample]).permutation(len(block))
                for number in range(taken, len(block)):
                    example = block[order[number]][0]
                    after = {"epoch": epoch, "shard": shard, "sample": sample, "taken": number + 1}
                    yield Sample(example, (self.seed, epoch, key_of(example.name))), after
                (shard, sample), taken = block[-1][1], 0
            if not found:
                raise InvalidSetting(f"{self.shards[int(own[0])]}: no picture with a text in it or in the others")
            epoch, shard, sample, taken = epoch + 1, 0, 0, 0

    def _examples(self, shards: Sequence[str], shard: int, sample: int) -> Iterator[tuple[Example, tuple[int, int]]]:
        """Yield the examples from a position on, each with the position after it."""
        for number in range(shard, len(shards)):
            skipped = sample if number == shard else 0
            for place, example in enumerate(read_shard(shards[number], self.on_skip)):
                if place >= skipped and example is not None:
                    yield example, (number, place + 1)
