"""Results in Redis, for workers and clients of several machines; the only importer of redis-py.

Each record is one key, ``amqp_rpc:task:<id>``, which Redis removes when it expires
(https://redis.io/docs/latest/commands/set/). It is a seam: a store is chosen by its URL, and loaded when it is chosen.
"""

from __future__ import annotations

from typing import Any, Final, cast

from amqp_rpc.errors import ConfigurationError, StoreUnavailable, Undecodable
from amqp_rpc.message.settings import hide_password
from amqp_rpc.results.record import Record

#: Seconds to connect, and to wait for one answer: workers must not wait longer for a Redis that is gone.
_CONNECT_TIMEOUT: Final = 1.0
_ANSWER_TIMEOUT: Final = 2.0
_PREFIX: Final = "amqp_rpc:task:"


class RedisStore:
    """A store in Redis. It connects when it must, and again after a connection breaks.

    Args:
        url: ``redis://user:password@host:port/database``, or ``rediss://…`` for TLS.

    Raises:
        ConfigurationError: It is not such a URL, or redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = hide_password(url)
        try:
            import redis  # noqa: PLC0415 - an extra, which only this store needs
            from redis.backoff import NoBackoff  # noqa: PLC0415 - as above
            from redis.retry import Retry  # noqa: PLC0415 - as above
        except ImportError as error:
            raise ConfigurationError(
                f"the store of results {self._url!r} needs a package that is not installed: "
                "pip install 'amqp-rpc[redis]'"
            ) from error
        self._errors = (redis.RedisError, OSError)
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_connect_timeout=_CONNECT_TIMEOUT,
                socket_timeout=_ANSWER_TIMEOUT,
                # redis-py notices a closed connection by itself; a retry would only make callers wait longer.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            # Without the cause: it may quote the password.
            raise ConfigurationError(
                f"{self._url!r} is not a Redis URL, such as redis://user:password@host:6379/0; write special "
                "characters of a password as %XX"
            ) from (None if "@" in url else error)

    def put(self, record: Record, *, expires: float) -> None:
        """Keep a record: `Store.put`."""
        try:
            self._redis.set(_PREFIX + record.id, record.encode(), px=max(1, int(expires * 1000)))
        except self._errors as error:
            raise self._unavailable(error) from error

    def get(self, id: str) -> Record | None:  # noqa: A002 - as users write it
        """Return the record of a task: `Store.get`."""
        try:
            data = cast(bytes | None, self._redis.get(_PREFIX + id))
            return None if data is None else Record.decode(data)
        except (*self._errors, Undecodable) as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Close the connections: `Store.close`."""
        self._redis.close()

    def __str__(self) -> str:
        return self._url

    def _unavailable(self, error: Any) -> StoreUnavailable:
        return StoreUnavailable(f"the store of results {self._url!r} can't be used: {error}")
