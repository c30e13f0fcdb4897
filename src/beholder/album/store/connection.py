"""One connection to an album's database, with its transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from beholder.album.store.schema import sqlite_errors

BATCH = 500  # values bound to one statement


class Store:
    """One connection to one album. Threads may share it; they take turns.

    Args:
        connection: opened by `open_or_create` or `open_existing`.
        folder: of the album.
    """

    def __init__(self, connection: apsw.Connection, folder: Path):
        self.connection = connection
        self.folder = folder
        self.lock = threading.RLock()

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A read transaction: the block sees one state of the album, whatever other processes write."""
        with self.lock, sqlite_errors(self.folder):
            if self.connection.in_transaction:
                yield
                return
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                if self.connection.in_transaction:  # ended already if the database turned out to be damaged
                    self.connection.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A write transaction: everything written in the block is on disk when it ends, or nothing is."""
        with self.lock, sqlite_errors(self.folder):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # a full disk may have rolled it back already
                    self.connection.execute("ROLLBACK")
                raise

    def execute(self, sql: str, bound: Sequence[Any] = ()) -> int:
        """Run a statement inside `transaction` and return the number of rows that it changed."""
        before = self.connection.total_changes()
        self.connection.execute(sql, tuple(bound))
        return self.connection.total_changes() - before

    def query(self, sql: str, bound: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows."""
        with self.lock, sqlite_errors(self.folder):
            return list(self.connection.execute(sql, tuple(bound)))

    def scalar(self, sql: str, bound: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        rows = self.query(sql, bound)
        return rows[0][0] if rows else None

    def query_in(self, sql: str, values: Sequence[Any], bound: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query with ``IN ({marks})``, run for a batch of the values at a time.

        Args:
            sql: with ``{marks}`` where the values belong.
            values: any number.
            bound: values of the parameters before ``{marks}``.
        """
        for start in range(0, len(values), BATCH):
            some = values[start : start + BATCH]
            yield from self.query(sql.format(marks=", ".join("?" * len(some))), (*bound, *some))

    def version(self) -> tuple[int, int]:
        """A value that changes whenever this or another process has written to the album."""
        return self.scalar("PRAGMA data_version"), self.connection.total_changes()

    def damage(self) -> list[str]:
        """Return what SQLite's integrity check finds, at most ten findings."""
        return [row[0] for row in self.query("PRAGMA integrity_check(10)") if row[0] != "ok"]
