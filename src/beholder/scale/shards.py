"""Input shards: tar files as webdataset writes them, and Parquet tables of pictures, one record after the other.

A source is the address of a shard, a pattern of addresses, a folder of shards, or a text file with one address a line.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from beholder.errors import BeholderError, InvalidSetting, MissingExtra
from beholder.scale.storage import TIMEOUT, Location, read_ahead, reason_of
from beholder.training.shards import PICTURES, shard_texts, tar_members

TAR = (".tar", ".tar.gz", ".tgz")
PARQUET = (".parquet",)
LISTS = (".txt", ".list")
KEYS = ("key", "__key__", "id", "uid", "image_id", "sample_id")
IMAGES = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
ADDRESSES = ("url", "image_url", "address", "image_path", "path")
CAPTIONS = ("caption", "text", "txt", "captions")
PARQUET_ROWS = 64  # that are read together


class ShardError(BeholderError):
    """A shard can't be read, or not to its end."""


@dataclass(frozen=True)
class Record:
    """A picture of a shard.

    Attributes:
        key: its name in the shard.
        data: the bytes of the file; None where there are none.
        address: where the picture is, if the shard holds no bytes.
        caption: that came with it.
        error: why there is no picture.
    """

    key: str
    data: bytes | None = None
    address: str | None = None
    caption: str | None = None
    error: str | None = None


def list_shards(sources: Sequence[str]) -> list[str]:
    """Return the addresses of all shards of some sources, each once, in order.

    Raises:
        MissingExtra: a package is missing.
        InvalidSetting: there are none, or a source can't be listed.
    """
    found: dict[str, None] = {}
    for source in sources:
        try:
            found.update((_absolute(shard), None) for shard in _expand(source))
        except BeholderError:
            raise
        except Exception as error:  # every file system raises its own
            raise InvalidSetting(f"{source}: can't be listed: {reason_of(error)}") from error
    if not found:
        raise InvalidSetting(f"{', '.join(sources)}: holds no shards; they end in {', '.join((*TAR, *PARQUET))}")
    return list(found)


def _absolute(shard: str) -> str:
    """Return the address of a shard in one form: parts are named after it."""
    folder, slash, name = shard.rpartition("/")
    in_folder = folder.startswith("/") or folder.partition("://")[2].strip("/")
    return f"{_absolute_folder(folder)}{slash}{name}" if in_folder and "::" not in shard else _absolute_address(shard)


def _absolute_address(address: str) -> str:
    if "::" in address:  # one file system inside another
        return address
    place = Location.of(address)
    return str(place.local or place.files.unstrip_protocol(place.path))


# Of a hundred thousand shards, most are in the same folders. No folder is relative.
_absolute_folder = lru_cache(1000)(_absolute_address)


def _expand(source: str) -> Iterator[str]:
    if "{" in source:
        try:
            from braceexpand import braceexpand
        except ImportError as error:
            raise MissingExtra("addresses with {000..999}", "scale") from error
        for each in braceexpand(source):
            yield from _expand(each) if "*" in each else [each]
    elif source.endswith(LISTS):
        lines = Location.of(source).read().decode().splitlines()
        for line in lines:
            if line.strip() and not line.startswith("#"):
                yield from _expand(line.strip())
    elif "*" in source or "?" in source.rpartition("/")[2]:
        place = Location.of(source)
        for path in sorted(place.files.glob(place.path)):
            yield path if "://" not in source else place.files.unstrip_protocol(path)
    elif source.endswith((*TAR, *PARQUET)):
        yield source
    else:
        folder = Location.of(source)
        if not folder.files.exists(folder.path):
            raise InvalidSetting(f"{source}: there is no such folder, shard or list of shards")
        for name in sorted(folder.names()):
            if name.endswith((*TAR, *PARQUET)):
                yield (folder / name).address


def read_shard(
    shard: str, image: str | None = None, caption: str | None = None, timeout: float = TIMEOUT
) -> Iterator[Record]:
    """Yield the records of a shard in order, read ahead by a thread.

    Args:
        shard: its address.
        image: column of a Parquet table with the pictures or their addresses; by default one of the usual names.
        caption: column with the captions; likewise.
        timeout: seconds without any data after which to give up.

    Raises:
        ShardError: it can't be opened, or it ends in the middle; the message says why.
    """
    try:
        if shard.endswith(PARQUET):
            yield from read_ahead(lambda: _read_parquet(shard, image, caption), timeout)
        else:
            yield from read_ahead(lambda: _read_tar(shard), timeout)
    except (MissingExtra, ShardError, MemoryError):
        raise
    except (EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise ShardError(f"{shard}: is cut off or damaged: {reason_of(error)}") from error
    except Exception as error:  # every file system raises its own
        raise ShardError(f"{shard}: can't be read: {reason_of(error)}") from error


def _read_tar(shard: str) -> Iterator[Record]:
    from webdataset.tariterators import group_by_keys

    location = Location.of(shard)
    with location.files.open(location.path, "rb") as stream:
        for files in group_by_keys({**file, "__url__": shard} for file in tar_members(stream)):
            data = next((files[suffix] for suffix in PICTURES if suffix in files), None)
            error = None if data is not None else "has no picture: files end in " + ", ".join(_suffixes(files))
            try:
                texts = shard_texts(files)
            except ValueError as wrong:
                texts, error = (), error or str(wrong)
            yield Record(files["__key__"], data, caption=texts[0] if texts else None, error=error)


def _suffixes(files: dict[str, Any]) -> list[str]:
    return [name for name in files if not name.startswith("__")]


def _read_parquet(shard: str, image: str | None, caption: str | None) -> Iterator[Record]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("reading Parquet", "scale") from error
    location = Location.of(shard)
    with location.files.open(location.path, "rb") as stream, ParquetFile(stream) as table:
        names = table.schema_arrow.names
        pictures = _column(shard, names, image, (*IMAGES, *ADDRESSES))
        if pictures is None:
            raise ShardError(f"{shard}: has no column with pictures; its columns are {', '.join(names)}")
        captions, keys = _column(shard, names, caption, CAPTIONS), _column(shard, names, None, KEYS)
        columns = list(dict.fromkeys(name for name in (pictures, captions, keys) if name is not None))
        row = 0
        for batch in table.iter_batches(PARQUET_ROWS, columns=columns):
            for values in batch.to_pylist():
                key = values.get(keys) if keys else None
                yield _record(f"{row:09}" if key is None else str(key), values[pictures], values.get(captions))
                row += 1


def _column(shard: str, names: Sequence[str], named: str | None, usual: Sequence[str]) -> str | None:
    """Return a column's name: the one that was named, or the first usual one that is there."""
    if named is None:
        return next((name for name in usual if name in names), None)
    if named not in names:
        raise ShardError(f"{shard}: has no column {named}; its columns are {', '.join(names)}")
    return named


def _record(key: str, picture: Any, caption: Any) -> Record:
    if isinstance(picture, dict):  # as the datasets library stores pictures
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(caption, list):
        caption = caption[0] if caption else None
    text = caption.strip() or None if isinstance(caption, str) else None
    if isinstance(picture, bytes):
        return Record(key, picture, caption=text)
    if isinstance(picture, str) and picture:
        return Record(key, address=picture, caption=text)
    return Record(key, caption=text, error="has neither a picture nor an address")
