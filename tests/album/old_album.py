"""An album as written by an earlier version of Beholder: the first migrations and rows in their format."""

import hashlib
import os
from pathlib import Path

import apsw
import numpy as np

from beholder.album.fulltext import to_tokens
from beholder.album.picture import short_name
from beholder.album.store.schema import APPLICATION, FILE, MIGRATIONS
from beholder.tasks.dual_encoder import DualEncoder


def write_old_album(
    folder: Path, version: int, encoder: DualEncoder, paths: list[Path], captions: dict[str, str]
) -> None:
    """Write an album of the given version with pictures and user captions, keyed by file name."""
    folder.mkdir(parents=True)
    connection = apsw.Connection(str(folder / FILE))
    execute = connection.execute
    execute("PRAGMA journal_mode = WAL")
    if version > 2:  # later schemas call SQL functions of Beholder
        connection.create_scalar_function("to_tokens", lambda text: text and to_tokens(text), 1)
    for script in MIGRATIONS[:version]:
        execute(script)
    connection.pragma("application_id", APPLICATION)
    connection.pragma("user_version", version)
    execute(
        "INSERT INTO model (fingerprint, name, embedding, used) VALUES (?, 'tiny', ?, 1)",
        (encoder.fingerprint, encoder.towers.embedding),
    )
    vectors = encoder.embed_images(paths)
    for path, vector in zip(paths, vectors, strict=True):
        execute(
            "INSERT INTO content (sha256, width, height, format, latitude, longitude) VALUES (?, 40, 32, 'PNG', 0, 0)",
            (hashlib.sha256(path.read_bytes()).digest(),),
        )
        content = connection.last_insert_rowid()
        status, raw = path.stat(), os.fsencode(path)
        execute(
            "INSERT INTO picture (path, name, size, modified, sidecar, content) VALUES (?, ?, ?, ?, 0, ?)",
            (raw, short_name(raw), status.st_size, status.st_mtime_ns, content),
        )
        row, caption = connection.last_insert_rowid(), captions.get(path.name)
        execute(
            "INSERT INTO vector (model, content, data) VALUES (1, ?, ?)", (content, vector.astype(np.float16).tobytes())
        )
        if caption:
            execute("INSERT INTO caption (content, source, text) VALUES (?, 'user', ?)", (content, caption))
        execute("INSERT INTO words (rowid, name, caption) VALUES (?, ?, ?)", (row, short_name(raw), caption))
    connection.close()
