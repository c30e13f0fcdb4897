"""The result: one Parquet file, a *part*, for each input shard, and the listing of the parts as the ledger.

    OUT/run.json             what made the parts: model, precision, options. Other settings need another OUT
    OUT/part-HASH.parquet    the records of one shard in order; HASH is of the shard's address and of run.json
    OUT/failed.jsonl         the shards that the last run could not read

A part is written whole or not at all, and depends on nothing but its shard and the settings. So whoever computes it,
and however often, it is the same file; and a run that was killed goes on with the shards whose parts are not listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra
from beholder.scale.storage import Location, reason_of

RUN = "run.json"
FAILED = "failed.jsonl"
METADATA = b"beholder"
THUMBNAIL = "thumbnail"  # a column that is there if it was asked for


@dataclass(frozen=True)
class RunSettings:
    """What the content of a part depends on, beside its shard.

    Attributes:
        model: name of the dual encoder.
        fingerprint: of its network.
        embedding: E.
        precision: that it ran in.
        exact: whether large JPEGs were decoded at full resolution.
        score: whether captions were scored.
        captioner: name of the model that wrote captions, or None.
        image: column of Parquet shards with the pictures, if it was named.
        caption: likewise, with the captions.
        thumbnail: longer side of the thumbnails in pixels, or None for no thumbnails.
    """

    model: str
    fingerprint: str
    embedding: int
    precision: str = "exact"
    exact: bool = False
    score: bool = False
    captioner: str | None = None
    image: str | None = None
    caption: str | None = None
    thumbnail: int | None = None

    @cached_property
    def _content(self) -> str:
        """What decides the content of a part, beside its shard, as JSON."""
        content = {name: value for name, value in asdict(self).items() if name != "model"}
        if self.thumbnail is None:  # as parts were named before there were thumbnails
            del content["thumbnail"]
        return json.dumps(content, sort_keys=True)

    def part(self, shard: str) -> str:
        """Return the name of a shard's part."""
        text = f"[{json.dumps(shard)}, {self._content}]"
        return f"part-{hashlib.sha256(text.encode()).hexdigest()[:32]}.parquet"


@dataclass
class Row:
    """A record of a part; without a vector, ``error`` says why."""

    key: str
    sha256: bytes | None = None
    width: int | None = None
    height: int | None = None
    caption: str | None = None
    vector: np.ndarray | None = None  # (E,) float32
    cosine: float | None = None
    match: float | None = None
    generated_caption: str | None = None
    thumbnail: bytes | None = None
    error: str | None = None


def schema(embedding: int, thumbnails: bool = False) -> Any:
    """Return the columns of a part."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtra("writing Parquet", "scale") from error
    optional = {THUMBNAIL: pa.binary()} if thumbnails else {}
    return pa.schema(
        {
            "key": pa.string(),
            "vector": pa.list_(pa.float16(), embedding),
            "sha256": pa.binary(32),
            "width": pa.int32(),
            "height": pa.int32(),
            "caption": pa.string(),
            "cosine": pa.float32(),
            "match": pa.float32(),
            "generated_caption": pa.string(),
            **optional,
            "error": pa.string(),
        }
    )


def encode_part(rows: Sequence[Row], settings: RunSettings, shard: str, version: str) -> bytes:
    """Return a part as the bytes of a Parquet file.

    Args:
        rows: the shard's records.
        settings: of the run.
        shard: its address.
        version: its ETag or size.
    """
    import pyarrow as pa
    from pyarrow import parquet

    about = {"shard": shard, "version": version, "rows": len(rows), "fingerprint": settings.fingerprint}
    about["failed"] = sum(row.vector is None for row in rows)
    columns = schema(settings.embedding, settings.thumbnail is not None).with_metadata(
        {METADATA: json.dumps(about).encode()}
    )
    values: dict[str, list[Any]] = {
        name: [_utf8(getattr(row, name)) for row in rows] for name in columns.names if name != "vector"
    }
    vectors = np.zeros((len(rows), settings.embedding), np.float16)
    for number, row in enumerate(rows):
        if row.vector is not None:
            vectors[number] = row.vector
    missing = pa.array([row.vector is None for row in rows], pa.bool_())
    values["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1), pa.float16()), settings.embedding, mask=missing
    )
    table = pa.table([pa.array(values[field.name], field.type) for field in columns], schema=columns)
    file = BytesIO()
    # Vectors, hashes and thumbnails don't compress; statistics let select skip row groups.
    codecs = {name: "none" if name in ("vector", "sha256", THUMBNAIL) else "zstd" for name in columns.names}
    parquet.write_table(table, file, compression=codecs, use_dictionary=False)
    return file.getvalue()


def _utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def part_metadata(table: Any) -> dict[str, Any]:
    """Return what a part says about itself: ``shard``, ``version``, ``rows``, ``failed`` and ``fingerprint``.

    Args:
        table: pyarrow's ParquetFile.

    Raises:
        InvalidSetting: it is no part.
    """
    found = (table.schema_arrow.metadata or {}).get(METADATA)
    if found is None:
        raise InvalidSetting("a Parquet file that beholder scale embed has not written")
    return dict(json.loads(found))


def part_names(out: Location) -> list[str]:
    """List the parts in a folder, sorted."""
    return sorted(name for name in out.names() if name.startswith("part-") and name.endswith(".parquet"))


def vectors_of(column: Any, embedding: int) -> np.ndarray:
    """Return a ``vector`` column (n, E) float16 as stored; zeros where there is none."""
    arrays = []
    for chunk in column.chunks if hasattr(column, "chunks") else [column]:
        values = chunk.values.to_numpy(zero_copy_only=False).reshape(-1, embedding)
        arrays.append(values[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(arrays) if arrays else np.zeros((0, embedding), np.float16)


def start_run(out: Location, settings: RunSettings) -> None:
    """Write ``run.json``, or check that the one that is there says the same.

    Raises:
        InvalidSetting: the parts in this folder were made with other settings.
        WriteFailed: it can't be written.
    """
    try:
        found = read_settings(out)
    except FileNotFoundError:
        out_file = out / RUN
        out_file.write(json.dumps(asdict(settings), indent=1).encode())
        return
    different = [
        f"{name} {getattr(found, name)}, not {value}"
        for name, value in asdict(settings).items()
        if name != "model" and getattr(found, name) != value
    ]
    if different:
        raise InvalidSetting(
            f"{out.address}: holds vectors made otherwise ({'; '.join(different)}); name another --out"
        )


def read_settings(out: Location) -> RunSettings:
    """Read ``run.json``.

    Raises:
        FileNotFoundError: there is none.
        InvalidSetting: it can't be read.
    """
    file = out / RUN
    try:
        return RunSettings(**json.loads(file.read()))
    except FileNotFoundError:
        raise
    except (ValueError, TypeError) as error:
        raise InvalidSetting(f"{file.address}: is not what beholder scale embed writes ({error})") from error
    except Exception as error:  # every file system raises its own
        raise InvalidSetting(f"{file.address}: can't be read: {reason_of(error)}") from error


def open_parts(out: Location, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield name and pyarrow's ParquetFile of parts; each is closed afterwards."""
    from pyarrow.parquet import ParquetFile

    for name in names:
        place = out / name
        with place.files.open(place.path, "rb") as stream, ParquetFile(stream) as table:
            yield name, table


def list_parts(out: Location) -> tuple[RunSettings, dict[str, int]]:
    """Return what made the parts in a folder, and the number of vectors in each.

    Raises:
        InvalidSetting: there are none, or none of them has a vector.
    """
    try:
        settings = read_settings(out)
    except FileNotFoundError:
        raise InvalidSetting(f"{out.address}: beholder scale embed has written nothing here") from None
    counts = {}
    for name, table in open_parts(out, part_names(out)):
        about = part_metadata(table)
        counts[name] = about["rows"] - about["failed"]
    if not counts:
        raise InvalidSetting(f"{out.address}: holds no parts yet")
    if not sum(counts.values()):
        raise InvalidSetting(f"{out.address}: none of the pictures has a vector")
    return settings, counts


def group_parts(counts: dict[str, int], most: int) -> Iterator[list[str]]:
    """Group parts so that each group has at most so many vectors, or is a single part; parts without one are left out.

    Args:
        counts: vectors in each part.
        most: vectors in a group.
    """
    group: list[str] = []
    held = 0
    for name, count in counts.items():
        if group and held + count > most:
            yield group
            group, held = [], 0
        if count:
            group.append(name)
            held += count
    if group:
        yield group


def read_vectors(out: Location, name: str, embedding: int) -> tuple[Any, np.ndarray]:
    """Return a part's rows that have a vector, without it but with their shard, and the vectors (n, E) float16."""
    import pyarrow as pa

    for _, table in open_parts(out, [name]):
        rows = table.read()
        shard = part_metadata(table)["shard"]
    rows = rows.filter(rows["vector"].is_valid())
    vectors = vectors_of(rows["vector"], embedding)
    shards = pa.array([shard] * len(rows), pa.string())
    return rows.drop_columns(["vector", "error"]).append_column("shard", shards).replace_schema_metadata(None), vectors
