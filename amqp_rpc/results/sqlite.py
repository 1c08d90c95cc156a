"""Results in a SQLite file, for any number of processes of one machine; the only importer of sqlite3 and tenacity.

The file must not be on a network drive. It is in WAL mode (https://www.sqlite.org/wal.html), so that readers never wait
for writers, with ``synchronous=NORMAL``: it survives any crash, and a power loss may cost the last moments before it.

It is a seam, as `redis` is: a store is chosen by its URL.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import tenacity

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.settings import hide_password
from amqp_rpc.message.text import text_of
from amqp_rpc.results.failure import unavailable
from amqp_rpc.results.record import Record

#: Seconds to wait for another process to write; a write takes microseconds, unless some program holds the file.
_BUSY_TIMEOUT: Final = 5.0
#: Seconds between two deletions of expired records, and how many records one deletes.
_SWEEP_INTERVAL: Final = 10.0
_SWEPT: Final = 1000
#: The version of the table below.
_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE tasks (
    id TEXT NOT NULL, fingerprint TEXT NOT NULL, state TEXT NOT NULL, function TEXT NOT NULL, queue TEXT NOT NULL,
    attempt INTEGER NOT NULL, updated REAL NOT NULL, started REAL, next_try REAL, error TEXT, kind TEXT,
    content_type TEXT, expires REAL NOT NULL, body BLOB, PRIMARY KEY (id, fingerprint)
)
"""
_INDEX: Final = "CREATE INDEX tasks_expires ON tasks (expires)"
_PUT: Final = """
INSERT INTO tasks (
    id, fingerprint, state, function, queue, attempt, updated, started, next_try, error, kind, content_type, body,
    expires
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id, fingerprint) DO UPDATE SET
    state = excluded.state, function = excluded.function, queue = excluded.queue,
    attempt = excluded.attempt, updated = excluded.updated, started = excluded.started, next_try = excluded.next_try,
    error = excluded.error, kind = excluded.kind, content_type = excluded.content_type, body = excluded.body,
    expires = excluded.expires
"""
_GET: Final = """
SELECT id, fingerprint, state, function, queue, attempt, updated, started, next_try, error, kind, content_type, body
FROM tasks WHERE id = ? AND fingerprint = coalesce(?, fingerprint) AND expires > ? ORDER BY rowid LIMIT 1
"""
_SWEEP: Final = "DELETE FROM tasks WHERE rowid IN (SELECT rowid FROM tasks WHERE expires <= ? LIMIT ?)"


class SqliteStore:
    """A store in a file; the first use creates it.

    Args:
        path: Of the file, absolute or relative to the working directory.

    Raises:
        ConfigurationError: Its folder does not exist.
    """

    def __init__(self, path: str) -> None:
        #: Absolute: the process may change its working directory.
        self.path: Path = Path(path).absolute()
        if not self.path.parent.is_dir():
            raise ConfigurationError(
                f"the store of results {str(self)!r} is in a folder that does not exist: {self.path.parent}. "
                "Make it, or name another; sqlite:///… is relative to the working directory, sqlite:////… is absolute"
            )
        #: By process id: a forked process must neither use its parent's connection nor close it.
        #: https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_
        self._opened: dict[int, _Opened] = {}

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Return the store that a URL names, written as SQLAlchemy writes it.

        Raises:
            ConfigurationError: It names no file, or one in a folder that does not exist.
        """
        path = url.removeprefix("sqlite:///")
        if path == url or not path or path == ":memory:" or "?" in path:
            raise ConfigurationError(
                f"{hide_password(url)!r} names no file: sqlite:///results.db is one of the working directory, "
                "sqlite:////var/lib/app/results.db has an absolute path; there are no options behind '?'"
            )
        return cls(path)

    def put(self, record: Record, *, expires: float) -> None:
        """Keep a record: `Store.put`."""
        r, now = record, time.time()
        row = (
            r.id, r.fingerprint, r.state, r.function, r.queue, r.attempt, r.updated, r.started, r.next_try, r.error,
            r.kind, r.content_type, r.body, now + expires,
        )  # fmt: skip
        with self._using() as (opened, connection):
            connection.execute(_PUT, row)
            if now >= opened.swept + _SWEEP_INTERVAL or now < opened.swept:
                removed = connection.execute(_SWEEP, (now, _SWEPT)).rowcount
                # When there may be more, the next record's turn deletes them.
                opened.swept = now if removed < _SWEPT else 0.0

    def get(self, id: str, fingerprint: str | None = None) -> Record | None:  # noqa: A002 - as users write it
        """Return the record of a task: `Store.get`."""
        with self._using() as (_, connection):
            row = connection.execute(_GET, (id, fingerprint, time.time())).fetchone()
        return None if row is None else Record.of(row)

    def check(self) -> None:
        """Open the file: `Store.check`."""
        with self._using():
            pass

    def close(self) -> None:
        """Close the file: `Store.close`."""
        opened = self._mine()
        with opened.lock:
            opened.close()

    def __str__(self) -> str:
        return f"sqlite:///{self.path}"

    @contextlib.contextmanager
    def _using(self) -> Iterator[tuple[_Opened, sqlite3.Connection]]:
        """Take the file for a moment; whatever fails with it is `StoreUnavailable`."""
        opened, began = self._mine(), time.monotonic()
        with opened.lock:
            if opened.failed > began:
                # Another thread has waited for the file meanwhile, and in vain: not one after another.
                raise unavailable(self, opened.reason)
            try:
                yield opened, self._connected(opened)
            except Exception as error:
                # The next use opens the file again: someone may replace it, or mount the disk again.
                opened.close()
                opened.failed, opened.reason = time.monotonic(), text_of(error)
                raise unavailable(self, error) from error

    def _mine(self) -> _Opened:
        # setdefault is atomic: two threads that come first get the same one.
        process = os.getpid()
        return self._opened.get(process) or self._opened.setdefault(process, _Opened())

    def _connected(self, opened: _Opened) -> sqlite3.Connection:
        if opened.connection is None:
            _create(self.path)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            opened.connection = connection
        return opened.connection


class _Opened:
    """The connection of one process; its threads take turns."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        #: When expired records were removed, in Unix seconds.
        self.swept = time.time()
        #: When the file last failed, on the monotonic clock, and why.
        self.failed, self.reason = float("-inf"), ""

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def _create(path: Path) -> None:
    """Create the file, if it is missing, for this user alone: SQLite gives ``-wal`` and ``-shm`` the same mode.

    A file that exists keeps its mode: several users may share it.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        # If it can't be created, SQLite reports that next.
        with contextlib.suppress(OSError):
            # Not the file itself: closing it would drop the locks of this process's other connections.
            # https://www.sqlite.org/howtocorrupt.html (section 2.2)
            descriptor, empty = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            os.close(descriptor)
            try:
                os.link(empty, target)
            finally:
                Path(empty).unlink()


def _prepare(connection: sqlite3.Connection) -> None:
    """Configure a new connection, and create the table if it is missing."""
    _to_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    if _version(connection) == _VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Checked again, now that no other process can create it meanwhile.
        version = _version(connection)
        if version == 0:
            connection.execute(_SCHEMA)
            connection.execute(_INDEX)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(  # noqa: TRY301 - reported as SQLite's own errors are
                f"its tables have version {version}, and this amqp_rpc knows {_VERSION}; give it a file of its own"
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


#: SQLite does not always wait by itself where several processes do this to a new file in the same moment.
@tenacity.retry(
    retry=tenacity.retry_if_exception(lambda error: "locked" in str(error)),
    wait=tenacity.wait_random(0.005, 0.015),
    stop=tenacity.stop_after_delay(_BUSY_TIMEOUT),
    reraise=True,
)
def _to_wal(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
