"""The SQLite file of an album: its tables, their migrations, and opening it.

apsw bundles its own SQLite. The version matters: before 3.51.3, two connections could corrupt a file in WAL mode.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from beholder.album.fulltext import fold, to_tokens
from beholder.errors import AlbumDamaged, AlbumNotFound, WriteFailed

FILE = "album.sqlite"
APPLICATION = 0x42484C44  # "BHLD", in the file's header
MIN_SQLITE = (3, 51, 3)
BUSY_TIMEOUT = 60_000  # milliseconds to wait for another process that writes

# One script per version of the schema, in order; the first n have been applied to an album of version n.
MIGRATIONS = (
    """
    CREATE TABLE model (
        id INTEGER PRIMARY KEY,
        fingerprint TEXT NOT NULL UNIQUE,  -- weights, preprocessing and tokenizer
        name TEXT NOT NULL,                -- under which it is loaded
        embedding INTEGER NOT NULL,        -- dimensions of its vectors
        folder TEXT,                       -- of its files, if in our own format
        stamp TEXT,                        -- names, sizes and times of that folder's files
        used REAL NOT NULL                 -- when it last completed an index run
    ) STRICT;
    CREATE TABLE content (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        sha256 BLOB NOT NULL UNIQUE,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        format TEXT NOT NULL,
        taken TEXT,                        -- local time, 2024-05-31T14:03:00
        camera TEXT,
        latitude REAL,
        longitude REAL
    ) STRICT;
    CREATE TABLE picture (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE,         -- as the file system spells it
        name TEXT NOT NULL,                -- its own and its folder's name, printable
        size INTEGER NOT NULL,
        modified INTEGER NOT NULL,         -- nanoseconds
        sidecar INTEGER NOT NULL,          -- changes with its .xmp sidecars; 0 without any
        content INTEGER NOT NULL REFERENCES content (id)
    ) STRICT;
    CREATE INDEX picture_content ON picture (content);
    CREATE TABLE vector (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- only ever grows, so an index file knows what it lacks
        model INTEGER NOT NULL REFERENCES model (id),
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        data BLOB NOT NULL,                -- float16
        UNIQUE (model, content)
    ) STRICT;
    CREATE INDEX vector_content ON vector (content);
    CREATE TABLE caption (
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        source TEXT NOT NULL,              -- 'file', or who wrote it
        text TEXT NOT NULL,
        PRIMARY KEY (content, source)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tag (
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        source TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (content, source, text)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE look (                    -- made from the pixels by the first search for duplicates
        content INTEGER PRIMARY KEY REFERENCES content (id) ON DELETE CASCADE,
        grey BLOB NOT NULL,                -- 16 x 16 bytes
        sharpness REAL NOT NULL
    ) STRICT;
    CREATE TABLE failed (path BLOB PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE root (path BLOB PRIMARY KEY, device INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE VIRTUAL TABLE words USING fts5 (name, caption, tag, tokenize = "unicode61 remove_diacritics 2");
    """,
    """
    CREATE TABLE place (                   -- on the map, made when it is first shown
        model INTEGER NOT NULL REFERENCES model (id),
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        x REAL NOT NULL,
        y REAL NOT NULL,
        PRIMARY KEY (model, content)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX place_content ON place (content);
    """,
    """
    DELETE FROM words;
    INSERT INTO words (rowid, name, caption, tag) SELECT id, to_tokens(name),
        to_tokens((SELECT group_concat(text, ' ' ORDER BY source) FROM caption WHERE content = picture.content)),
        to_tokens((SELECT group_concat(text, ' ' ORDER BY source, text) FROM tag WHERE content = picture.content))
        FROM picture;
    UPDATE content SET latitude = NULL, longitude = NULL WHERE latitude = 0 AND longitude = 0;  -- no fix
    """,
    """
    ALTER TABLE content ADD COLUMN rating INTEGER;  -- stars, 0 to 5; -1 is rejected
    ALTER TABLE content ADD COLUMN label TEXT;      -- a color's name
    ALTER TABLE content ADD COLUMN headline TEXT;
    ALTER TABLE content ADD COLUMN creator TEXT;
    ALTER TABLE content ADD COLUMN city TEXT;
    ALTER TABLE content ADD COLUMN country TEXT;
    ALTER TABLE picture ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;  -- st_ctime in nanoseconds; 0 if not known
    ALTER TABLE picture ADD COLUMN inode INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX picture_inode ON picture (inode);
    CREATE TABLE description (             -- when a source other than the file described a content
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        source TEXT NOT NULL,
        written REAL NOT NULL,
        PRIMARY KEY (content, source)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO description SELECT content, source, 0 FROM
        (SELECT content, source FROM caption UNION SELECT content, source FROM tag) WHERE source != 'file';
    CREATE TABLE former_path (             -- where files with a described content were
        path BLOB NOT NULL,
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        PRIMARY KEY (path, content)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX former_path_content ON former_path (content);
    CREATE TABLE mount (path BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;  -- mount points below a root
    """,
    """
    DROP TABLE look;
    CREATE TABLE appearance (              -- made from the pixels by the first search for duplicates
        content INTEGER PRIMARY KEY REFERENCES content (id) ON DELETE CASCADE,
        data BLOB NOT NULL
    ) STRICT;
    CREATE TABLE pixel_hash (
        content INTEGER PRIMARY KEY REFERENCES content (id) ON DELETE CASCADE,
        data BLOB NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE new_picture (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL,                -- as the file system spells it
        time INTEGER NOT NULL DEFAULT -1,  -- milliseconds of a frame in its video; -1 for a picture
        name TEXT NOT NULL,                -- its own and its folder's name, printable
        size INTEGER NOT NULL,
        modified INTEGER NOT NULL,         -- nanoseconds
        sidecar INTEGER NOT NULL,          -- changes with its .xmp sidecars; 0 without any
        content INTEGER NOT NULL REFERENCES content (id),
        changed INTEGER NOT NULL DEFAULT 0,  -- st_ctime in nanoseconds; 0 if not known
        inode INTEGER NOT NULL DEFAULT 0,
        UNIQUE (path, time)
    ) STRICT;
    INSERT INTO new_picture (id, path, name, size, modified, sidecar, content, changed, inode)
        SELECT id, path, name, size, modified, sidecar, content, changed, inode FROM picture;
    DROP TABLE picture;
    ALTER TABLE new_picture RENAME TO picture;
    CREATE INDEX picture_content ON picture (content);
    CREATE INDEX picture_inode ON picture (inode);
    CREATE TABLE raw_companion (           -- RAW files of shots that the album shows as a JPEG
        path BLOB PRIMARY KEY,
        picture BLOB NOT NULL              -- path of the JPEG
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX raw_companion_picture ON raw_companion (picture);
    CREATE TABLE mark (                    -- ratings and labels by hand
        content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
        source TEXT NOT NULL,
        rating INTEGER,
        label TEXT,
        PRIMARY KEY (content, source)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE recognized (              -- text in the picture; empty if there is none
        content INTEGER PRIMARY KEY REFERENCES content (id) ON DELETE CASCADE,
        text TEXT NOT NULL
    ) STRICT;
    CREATE TABLE located (                 -- the nearest city to a position
        content INTEGER PRIMARY KEY REFERENCES content (id) ON DELETE CASCADE,
        latitude REAL NOT NULL,
        longitude REAL NOT NULL,
        city TEXT NOT NULL,
        country TEXT NOT NULL,
        names TEXT NOT NULL                -- in other languages, folded, each between newlines
    ) STRICT;
    DROP TABLE words;
    CREATE VIRTUAL TABLE words USING fts5 (name, caption, tag, text, tokenize = "unicode61 remove_diacritics 2");
    INSERT INTO words (rowid, name, caption, tag, text) SELECT picture.id, to_tokens(name),
        to_tokens(concat_ws(' ', headline,
            (SELECT group_concat(text, ' ' ORDER BY source) FROM caption WHERE content = picture.content))),
        to_tokens(concat_ws(' ', city, country, creator,
            (SELECT group_concat(text, ' ' ORDER BY source, text) FROM tag WHERE content = picture.content))), ''
        FROM picture JOIN content ON content.id = picture.content;
    """,
)


def open_or_create(folder: Path) -> apsw.Connection:
    """Open an album, created if there is none and migrated if its schema is older.

    Raises:
        AlbumDamaged: the file is not an album, is damaged, or is newer than this Beholder.
        WriteFailed: the folder or the file can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = _open(folder / FILE, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        with sqlite_errors(folder):
            _enable_wal(connection)
            _migrate(connection, folder)
        return connection
    except OSError as error:
        raise WriteFailed(f"{folder}: no album can be created here: {error.strerror or error}") from error


def open_existing(folder: Path) -> apsw.Connection:
    """Open an existing album, migrated if its schema is older; on read-only media for reading.

    Raises:
        AlbumNotFound: there is none.
        AlbumDamaged: the file is not an album, is damaged, or is newer than this Beholder.
    """
    if not (folder / FILE).is_file():
        raise AlbumNotFound(f"{folder}: no album here; create one with: beholder index FOLDER --album {folder}")
    if not _is_writable(folder):
        return _open_read_only(folder)
    connection = _open(folder / FILE, apsw.SQLITE_OPEN_READWRITE)
    with sqlite_errors(folder):
        _migrate(connection, folder)
    return connection


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return os.access(folder / FILE, os.W_OK)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # a full disk can be read with its log


def _open_read_only(folder: Path) -> apsw.Connection:
    """Open an album on read-only media, where SQLite can neither lock the file nor replay its log.

    If something is in the log, or the schema is older, a copy in memory is used.
    """
    file = folder / FILE
    log = file.with_name(f"{FILE}-wal")
    if not log.exists() or not log.stat().st_size:
        address = f"file:{quote(str(file))}?mode=ro&immutable=1"
        connection = _connect(folder, address, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        with sqlite_errors(folder):
            if connection.pragma("user_version") == len(MIGRATIONS):
                _migrate(connection, folder)  # which checks that it is an album
                return connection
        connection.close()
    with tempfile.TemporaryDirectory() as scratch:
        for path in (file, log):
            if path.exists():
                shutil.copyfile(path, Path(scratch) / path.name)
        on_disk = _open(Path(scratch) / FILE, apsw.SQLITE_OPEN_READWRITE)
        connection = _connect(folder, ":memory:", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        with sqlite_errors(folder):
            _migrate(on_disk, folder)
            with connection.backup("main", on_disk, "main") as backup:
                backup.step()
            on_disk.close()
            connection.execute("PRAGMA query_only = ON")
    return connection


def _enable_wal(connection: apsw.Connection) -> None:
    """Turn the write-ahead log on, waiting for others that create the same album, which SQLite does not do here."""
    until = time.monotonic() + BUSY_TIMEOUT / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


class sqlite_errors:  # noqa: N801 (used as a function)
    """Turns SQLite's errors into ours, which name the album and say what to do."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case apsw.NotADBError():
                raise AlbumDamaged(f"{self.folder / FILE}: is not an album; name another folder") from error
            case apsw.CorruptError():
                raise AlbumDamaged(
                    f"{self.folder / FILE}: is damaged ({error}). Your pictures are not touched by this; remove the "
                    "album's folder and index them again"
                ) from error
            case apsw.FullError() | apsw.IOError():
                raise WriteFailed(
                    f"{self.folder / FILE}: can't be written ({error}): is the disk full? What was indexed before is "
                    "kept, and the same command continues after it"
                ) from error
            case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.CantOpenError():
                raise WriteFailed(f"{self.folder / FILE}: can't be written: it is read-only ({error})") from error
            case apsw.BusyError():
                raise WriteFailed(
                    f"{self.folder / FILE}: locked by another program for {BUSY_TIMEOUT // 1000} s; try again later"
                ) from error


def _open(file: Path, flags: int) -> apsw.Connection:
    if tuple(map(int, apsw.sqlitelibversion().split("."))) < MIN_SQLITE:
        raise AlbumDamaged(f"SQLite {apsw.sqlitelibversion()} can corrupt albums: pip install --upgrade apsw")
    return _connect(file.parent, str(file), flags)


def _connect(folder: Path, address: str, flags: int) -> apsw.Connection:
    with sqlite_errors(folder):
        connection = apsw.Connection(address, flags=flags)
        connection.set_busy_timeout(BUSY_TIMEOUT)
        connection.execute("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF")
        for name, function in (("fold", fold), ("to_tokens", to_tokens)):
            connection.create_scalar_function(name, _null_safe(function), 1, deterministic=True)  # type: ignore[arg-type]
    return connection


def _null_safe(function: Callable[[str], str]) -> Callable[[Any], Any]:
    return lambda value: function(value) if isinstance(value, str) else value


def _migrate(connection: apsw.Connection, folder: Path) -> None:
    with connection:  # one state of all three: another process may be creating the album
        version = connection.pragma("user_version")
        application = connection.pragma("application_id")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if version > len(MIGRATIONS):
        raise AlbumDamaged(
            f"{folder / FILE}: was written by a newer Beholder (album version {version}; this one reads up to "
            f"{len(MIGRATIONS)}): pip install --upgrade beholder"
        )
    if application != APPLICATION and (version or tables):
        raise AlbumDamaged(f"{folder / FILE}: is another program's database; name another folder")
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[connection.pragma("user_version") :]:  # another process may have been faster
            connection.execute(step)
        connection.pragma("application_id", APPLICATION)
        connection.pragma("user_version", len(MIGRATIONS))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a failed write may have rolled it back already
            connection.execute("ROLLBACK")
        raise
