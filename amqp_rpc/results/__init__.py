"""Results of tasks, kept for clients that ask later: in a SQLite file or in Redis.

It knows nothing of RabbitMQ, and imports `message` alone. A store is imported when a URL names it.
"""

from __future__ import annotations

from typing import Final, Protocol

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.settings import hide_password
from amqp_rpc.results.record import Record

_EXAMPLES: Final = "sqlite:///results.db (a file of this machine) or redis://host:6379/0 (for several machines)"


class Store(Protocol):
    """A place for records. Any thread may call any method; each does I/O.

    All raise `StoreUnavailable` when the store can't be reached, read or written, after a few seconds at most:
    `failure.unavailable` makes it of whatever a package raises. `get` also raises `Undecodable`, and nothing else.
    """

    def put(self, record: Record, *, expires: float) -> None:
        """Keep a record for that many seconds, in the place of an earlier one of the same task."""

    def get(self, id: str, fingerprint: str | None = None) -> Record | None:  # noqa: A002 - as users write it
        """Return the record of a task; None when it has none, or it has expired.

        Args:
            id: The task's.
            fingerprint: The task's. Without it, of several tasks with that id, the one that was recorded first: another
                one that is sent with its id does not take its place.

        Raises:
            Undecodable: It is no record of ours: another program has written there.
        """

    def check(self) -> None:
        """Look whether it can be used."""

    def close(self) -> None:
        """Close connections and files; the next call opens them again."""

    def __str__(self) -> str:
        """Return the URL without its password."""


def open_store(url: str | None) -> Store | None:
    """Return the store that a URL names; None for none. The first use opens it.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute/path.db``, or ``redis://user:password@host:port/database``
            (``rediss://`` for TLS; needs ``pip install 'amqp-rpc[redis]'``).

    Raises:
        ConfigurationError: It is not such a URL, has an option that does not exist, its folder does not exist, or a
            package is missing.
    """
    if not url:
        return None
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        from amqp_rpc.results.sqlite import SqliteStore  # noqa: PLC0415 - most processes have no store

        return SqliteStore.of_url(url)
    if scheme in ("redis", "rediss"):
        from amqp_rpc.results.redis import RedisStore  # noqa: PLC0415 - as above

        return RedisStore(url)
    raise ConfigurationError(f"{hide_password(url)!r} names no store of results: {_EXAMPLES}")
