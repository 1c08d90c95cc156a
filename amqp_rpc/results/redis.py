"""Results in Redis, for workers and clients of several machines; the only importer of redis-py.

Each is one key, ``amqp_rpc:task:<id>``, that Redis removes by itself when its time is over
(https://redis.io/docs/latest/commands/set/).
"""

from __future__ import annotations

from typing import Any, Final, cast

from amqp_rpc.errors import ConfigurationError, StoreUnavailable, Undecodable
from amqp_rpc.message.settings import hide_password
from amqp_rpc.results.record import Record

#: Seconds for a connection, and for one answer: a Redis that is gone must not hold up workers for longer.
_CONNECT_TIMEOUT: Final = 1.0
_ANSWER_TIMEOUT: Final = 2.0
_PREFIX: Final = "amqp_rpc:task:"


class RedisStore:
    """Keeps records in Redis; connections are made when they are needed, and made anew when they break.

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
                # It looks by itself whether a connection that it has kept was closed; who asks here must not wait more.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            # The cause is not told: it may quote the password.
            raise ConfigurationError(
                f"{self._url!r} is not a Redis URL, such as redis://user:password@host:6379/0; write special "
                "characters of a password as %XX"
            ) from (None if "@" in url else error)

    def put(self, record: Record, *, expires: float) -> None:
        """Keep a record in the place of an earlier one of the same task, for that many seconds.

        Raises:
            StoreUnavailable: Redis can't be reached, or refuses it.
        """
        try:
            self._redis.set(_PREFIX + record.id, record.encode(), px=max(1, int(expires * 1000)))
        except self._errors as error:
            raise self._unavailable(error) from error

    def get(self, id: str) -> Record | None:  # noqa: A002 - as users write it
        """Return what is known of a task; None where nothing is, or it has expired.

        Raises:
            StoreUnavailable: Redis can't be reached, or has something else there.
        """
        try:
            data = cast(bytes | None, self._redis.get(_PREFIX + id))
            return None if data is None else Record.decode(data)
        except (*self._errors, Undecodable) as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        """Close the connections; they are made again when they are needed."""
        self._redis.close()

    def __str__(self) -> str:
        return self._url

    def _unavailable(self, error: Any) -> StoreUnavailable:
        return StoreUnavailable(f"the store of results {self._url!r} can't be used: {error}")
