"""Which store a URL names; each is imported when it is asked for."""

from __future__ import annotations

from typing import Final

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.settings import hide_password
from amqp_rpc.results.record import Store

_EXAMPLES: Final = "sqlite:///results.db (a file of this machine) or redis://host:6379/0 (for several machines)"


def open_store(url: str | None) -> Store | None:
    """Return the store that a URL names; None for none. Nothing is opened until it is used.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute/path.db``, or ``redis://user:password@host:port/database``
            (``rediss://`` for TLS; needs ``pip install 'amqp-rpc[redis]'``).

    Raises:
        ConfigurationError: It is not such a URL, its folder does not exist, or a package is missing.
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
