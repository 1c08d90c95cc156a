"""The records of tasks in SQLite: tasks enqueued, executions with their ends, and dead letters.

Every process writes to a file of its own, so that none waits for another's lock; they are read together. The kernel
keeps committed records even if the process dies (https://www.sqlite.org/pragma.html#pragma_synchronous: OFF loses them
only at a power cut). All times are the machine's monotonic clock.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
    key INTEGER PRIMARY KEY, kind TEXT, delay REAL, fails INTEGER, after REAL, timeout REAL, began REAL,
    ended REAL, outcome TEXT, id TEXT, said TEXT
);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY, key INTEGER, pid INTEGER, attempt INTEGER, began REAL, ended REAL, outcome TEXT
);
CREATE TABLE IF NOT EXISTS dead (key INTEGER, id TEXT, queue TEXT, reason TEXT, attempt INTEGER, crashes INTEGER);
"""


class Ledger:
    """A file of records; safe from any thread of the process that opened it.

    Args:
        folder: The folder of the run.
        name: The name of the file, one for each process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        # Each statement is a transaction, committed when it returns.
        self._database = sqlite3.connect(folder / f"{name}.sqlite", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_TABLES)
        self._lock = threading.Lock()

    def add(self, table: str, **fields: Any) -> int:
        """Append a record, and return its number."""
        names, places = ", ".join(fields), ", ".join("?" * len(fields))
        with self._lock:
            done = self._database.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", [*fields.values()])  # noqa: S608 - our own names
        return int(done.lastrowid or 0)

    def complete(self, table: str, number: int, **fields: Any) -> None:
        """Add the outcome to a record."""
        names = ", ".join(f"{name} = ?" for name in fields)
        with self._lock:
            self._database.execute(f"UPDATE {table} SET {names} WHERE rowid = ?", [*fields.values(), number])  # noqa: S608 - as above


def recorded(folder: Path) -> int:
    """Return the number of begins and ends of executions that a run has recorded until now."""
    return sum(
        run["begins"] + run["ends"] for run in _read(folder, "SELECT COUNT(*) begins, COUNT(ended) ends FROM runs")
    )


def rows(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    """Return the records of all processes of a run, even of those that still write."""
    return _read(folder, f"SELECT * FROM {table}")  # noqa: S608 - as above


def _read(folder: Path, query: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.sqlite")):
        database = sqlite3.connect(path, timeout=20)
        database.row_factory = sqlite3.Row
        try:
            yield from map(dict, database.execute(query))
        finally:
            database.close()
