"""From one input shard to one part: read, decode, embed, score, caption, write."""

from __future__ import annotations

import hashlib
import socket
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from beholder.album.thumbnail import thumbnail
from beholder.errors import ModelError, NotAPicture, NotFinite, PictureError, PictureRefused, PictureUnreadable
from beholder.pictures.formats import open_image
from beholder.pictures.limits import Limits
from beholder.pictures.orientation import TRANSPOSITIONS, exif_transposition
from beholder.pictures.url import fetch
from beholder.runtime.pipeline import batches, map_ahead
from beholder.scale.parts import Row, RunSettings, encode_part
from beholder.scale.shards import Record, ShardError, read_shard
from beholder.scale.storage import TIMEOUT, Location, read_ahead, reason_of
from beholder.tasks.pictures import PreprocessedImage, preprocess_image

if TYPE_CHECKING:
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.vision_language import VisionLanguageModel

SIDEWAYS = [transposition for orientation, transposition in TRANSPOSITIONS.items() if orientation >= 5]
CAPTIONED = 16  # pictures together
SCORED = 64


@dataclass(frozen=True)
class EmbedOptions:
    """What a worker needs to embed shards; it can be sent to another machine.

    Attributes:
        out: address of the folder of parts.
        settings: what the parts depend on.
        allow_urls: fetch pictures that a Parquet table names by an http(s) address.
        allow_pickle: of the models' weights.
        limits: on each picture.
        timeout: seconds without data after which a shard is given up.
        threads: that decode; by default one a processor.
    """

    out: str
    settings: RunSettings
    allow_urls: bool = False
    allow_pickle: bool = True
    limits: Limits = field(default_factory=Limits)
    timeout: float = TIMEOUT
    threads: int | None = None


class ShardResult(NamedTuple):
    """The outcome of one shard.

    Attributes:
        shard: its address.
        rows: records in its part.
        failed: those of them without a vector.
        seconds: that it took.
        node: the machine.
        error: why the shard could not be read; it then has no part.
        done_before: another run had written its part meanwhile.
    """

    shard: str
    rows: int = 0
    failed: int = 0
    seconds: float = 0.0
    node: str = ""
    error: str | None = None
    done_before: bool = False


class _Prepared(NamedTuple):
    row: Row
    pixels: PreprocessedImage | None
    data: bytes | None


class ShardEmbedder:
    """Embeds shards one after the other with one set of models.

    Args:
        options: what to do.
        encoder: the model, if it is loaded already.
    """

    def __init__(self, options: EmbedOptions, encoder: DualEncoder | None = None):
        from beholder.tasks.dual_encoder import DualEncoder

        self.options, settings = options, options.settings
        self.out = Location.of(options.out)
        self.encoder = encoder or DualEncoder.from_pretrained(
            settings.model,
            precision=settings.precision,  # type: ignore[arg-type]
            allow_pickle=options.allow_pickle,
        )
        if self.encoder.fingerprint != settings.fingerprint:
            raise ModelError(
                f"{settings.model}: on {socket.gethostname()}, this is another model than where the run was started"
            )
        self.captioner: VisionLanguageModel | None = None
        if settings.captioner is not None:
            from beholder.tasks.vision_language import VisionLanguageModel

            self.captioner = VisionLanguageModel.from_pretrained(
                settings.captioner,
                precision=settings.precision,  # type: ignore[arg-type]
                allow_pickle=options.allow_pickle,
            )

    def embed(self, shard: str) -> ShardResult:
        """Write a shard's part, unless it is there already; a shard that can't be read is a result with an error.

        Raises:
            WriteFailed: the part can't be written.
        """
        started, node = time.monotonic(), socket.gethostname()
        part = self.out / self.options.settings.part(shard)
        if part.exists():
            return ShardResult(shard, node=node, done_before=True)
        try:
            version = self._version(shard)
            rows = self._rows(shard)
        except (ShardError, NotFinite) as error:
            return ShardResult(shard, seconds=time.monotonic() - started, node=node, error=str(error))
        part.write(encode_part(rows, self.options.settings, shard, version))
        failed = sum(row.vector is None for row in rows)
        return ShardResult(shard, len(rows), failed, time.monotonic() - started, node)

    def _version(self, shard: str) -> str:
        try:
            return next(read_ahead(lambda: [Location.of(shard).version()], self.options.timeout))
        except FileNotFoundError:
            raise ShardError(f"{shard}: there is no such shard") from None
        except Exception as error:  # every file system raises its own
            raise ShardError(f"{shard}: can't be reached: {reason_of(error)}") from error

    def _rows(self, shard: str) -> list[Row]:
        settings = self.options.settings
        records = read_shard(shard, settings.image, settings.caption, self.options.timeout)
        ahead = 2 * self.encoder.towers.batch
        rows: list[Row] = []
        waiting: deque[_Prepared] = deque()  # in the network
        uncaptioned: list[tuple[Row, bytes]] = []

        def prepare(record: Record) -> _Prepared:
            return self._prepare(record, shard)

        def images() -> Iterator[PreprocessedImage]:
            for prepared in map_ahead(prepare, records, ahead, self.options.threads):
                rows.append(prepared.row)
                if prepared.pixels is not None:
                    waiting.append(prepared if self.captioner is not None else prepared._replace(data=None))
                    yield prepared.pixels

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about single pictures: here they have columns
            for found in self.encoder.stream_images(images()):
                prepared = waiting.popleft()
                prepared.row.vector = found.embedding
                if prepared.data is not None:
                    uncaptioned.append((prepared.row, prepared.data))
                if len(uncaptioned) == CAPTIONED:
                    self._caption(uncaptioned)
            self._caption(uncaptioned)
        if settings.score:
            for batch in batches((row for row in rows if row.vector is not None and row.caption), SCORED):
                self._score(batch)
        return rows

    def _prepare(self, record: Record, shard: str) -> _Prepared:
        row = Row(record.key, caption=record.caption, error=record.error)
        if record.error is not None:
            return _Prepared(row, None, None)
        try:
            data = record.data if record.data is not None else self._fetch(record, shard)
            row.sha256 = hashlib.sha256(data).digest()
            self.options.limits.check_bytes(len(data), record.key)
            row.width, row.height = _upright_size(data, record.key)
            pixels = preprocess_image(
                data,
                self.encoder.loaded.preprocessing,
                name=record.key,
                exact=self.options.settings.exact,
                limits=self.options.limits,
            )
            if self.options.settings.thumbnail is not None:
                row.thumbnail = thumbnail(data, self.options.settings.thumbnail, limits=self.options.limits)
        except PictureError as error:
            row.error = error.reason
            return _Prepared(row, None, None)
        return _Prepared(row, pixels, data)

    def _fetch(self, record: Record, shard: str) -> bytes:
        """Return the bytes of a picture that a shard names by its address."""
        address, key = str(record.address), record.key
        if address.startswith(("http://", "https://")):
            if not self.options.allow_urls:
                raise PictureRefused(key, "is at an http(s) address; these are fetched only with --allow-urls")
            return bytes(fetch(address, key, self.options.limits))
        if _protocol(address) != _protocol(shard):  # a table from elsewhere must not name other places
            raise PictureRefused(key, "is neither at an http(s) address nor on the file system of its shard")
        try:
            return next(read_ahead(lambda: [Location.of(address).read()], self.options.timeout))
        except Exception as error:  # every file system raises its own
            raise PictureUnreadable(key, f"can't be fetched: {reason_of(error)}") from error

    def _score(self, rows: list[Row]) -> None:
        captions = [str(row.caption) for row in rows]
        images, texts = np.stack([row.vector for row in rows]), self.encoder.embed_texts(captions)  # type: ignore[misc]
        try:
            match: Any = np.diagonal(self.encoder.match(images, texts, captions))
        except ModelError:  # it has no calibration
            match = [None] * len(rows)
        for row, cosine, probability in zip(rows, np.einsum("ne,ne->n", images, texts), match, strict=True):
            row.cosine, row.match = float(cosine), None if probability is None else float(probability)

    def _caption(self, uncaptioned: list[tuple[Row, bytes]]) -> None:
        if self.captioner is None or not uncaptioned:
            return
        found = self.captioner.stream_captions([data for _, data in uncaptioned], limits=self.options.limits)
        for (row, _), captioned in zip(uncaptioned, found, strict=True):
            row.generated_caption = captioned.caption
        uncaptioned.clear()


def _upright_size(data: bytes, name: str) -> tuple[int, int]:
    """Return width and height of a picture as it is shown, from its header."""
    if not data:
        raise NotAPicture(name, "is empty: 0 bytes")
    try:
        image, _ = open_image(data, name)
        width, height = image.size
        return (height, width) if exif_transposition(image) in SIDEWAYS else (width, height)
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of any type on damaged data
        raise NotAPicture(name, "its header is damaged or truncated") from error


def _protocol(address: str) -> str:
    protocol, found, _ = address.partition("://")
    return protocol if found else "file"
