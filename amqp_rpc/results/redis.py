"""Results in Redis, for workers and clients of several machines; the only importer of redis-py.

Each id is one key, ``amqp_rpc:task:<id>``, which Redis removes when it expires: a hash with a record for each task that
had the id, by their fingerprints, and the fingerprint of the first (https://redis.io/docs/latest/commands/hset/). It is
a seam: a store is chosen by its URL, and loaded when it is chosen.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from amqp_rpc.errors import ConfigurationError, StoreUnavailable, Undecodable
from amqp_rpc.message.settings import first_line, hide_password, read_file
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.results.failure import unavailable
from amqp_rpc.results.record import Record

logger: logging.Logger = bounded_logger(__name__)

#: Seconds to connect, and to wait for one answer: workers must not wait longer for a Redis that is gone.
_CONNECT_TIMEOUT: Final = 1.0
_ANSWER_TIMEOUT: Final = 2.0
_PREFIX: Final = "amqp_rpc:task:"
#: The field that names the task which was recorded first.
_FIRST: Final = "first"


class RedisStore:
    """A store in Redis. It connects when it must, and again after a connection breaks.

    Args:
        url: ``redis://user:password@host:port/database``, or ``rediss://…`` for TLS; redis-py's options behind ``?``,
            and ``password_file=``, whose password is read for each connection.

    Raises:
        ConfigurationError: It is not such a URL, has an option that does not exist, or redis-py is not installed.
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
        self._read_only = redis.ReadOnlyError
        url, options = _secured(url)
        try:
            self._redis = redis.Redis.from_url(
                url,
                **options,
                socket_connect_timeout=_CONNECT_TIMEOUT,
                socket_timeout=_ANSWER_TIMEOUT,
                # redis-py notices a closed connection by itself; a retry would only make callers wait longer.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # Without the cause: it may quote the password.
            raise ConfigurationError(
                f"{self._url!r} is not a Redis URL, such as redis://user:password@host:6379/0; write special "
                "characters of a password as %XX"
            ) from None
        self._check_options()

    def put(self, record: Record, *, expires: float) -> None:
        """Keep a record: `Store.put`."""
        try:
            try:
                self._put(record, expires)
            except self._read_only:
                # It was the master, and is a replica now: the address leads to another one for new connections.
                self._drop_idle()
                self._put(record, expires)
        # redis-py may raise anything, and a task that has run must not fail by it.
        except Exception as error:
            raise self._unavailable(error) from error

    def _put(self, record: Record, expires: float) -> None:
        key = _PREFIX + record.id
        with self._redis.pipeline() as together:
            together.hsetnx(key, _FIRST, record.fingerprint)
            together.hset(key, record.fingerprint, record.encode())
            together.pexpire(key, max(1, int(expires * 1000)))
            together.execute()

    def get(self, id: str, fingerprint: str | None = None) -> Record | None:  # noqa: A002 - as users write it
        """Return the record of a task: `Store.get`."""
        try:
            field = fingerprint or cast(bytes | None, self._redis.hget(_PREFIX + id, _FIRST))
            data = None if field is None else cast(bytes | None, self._redis.hget(_PREFIX + id, cast(str, field)))
        # As in `put`.
        except Exception as error:
            raise self._unavailable(error) from error
        record = None if data is None else Record.decode(data)
        if record is not None and record.id != id:
            raise Undecodable(f"it is no record of task {id!r}: its id is {record.id!r}")
        return record

    def check(self) -> None:
        """Look whether it answers: `Store.check`."""
        try:
            self.get("")
        except StoreUnavailable as error:
            if advice := _advice(self._url, str(error).lower().replace("_", " ")):
                raise StoreUnavailable(f"{error}. {advice}") from error
            raise

    def close(self) -> None:
        """Close the connections: `Store.close`."""
        self._redis.close()

    def __str__(self) -> str:
        return self._url

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        # A connection that answers is not yet a good one: the next use opens another.
        self._drop_idle()
        return unavailable(self, error)

    def _drop_idle(self) -> None:
        # Those that other threads use now fail by themselves, if they have to.
        with contextlib.suppress(Exception):
            self._redis.connection_pool.disconnect(inuse_connections=False)

    def _check_options(self) -> None:
        """Make a connection that is never opened: redis-py looks at the options behind ``?`` no earlier."""
        pool = self._redis.connection_pool
        self._check_tls(pool.connection_kwargs)
        try:
            pool.connection_class(**pool.connection_kwargs)
        except Exception as error:
            reason = str(error).rpartition("__init__() ")[2]
            # As above.
            raise ConfigurationError(f"{self._url!r} has an option that redis-py does not take: {reason}") from None
        if pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError(
                f"{self._url!r}: decode_responses is not for results, which are no text; leave it out"
            )

    def _check_tls(self, options: dict[str, Any]) -> None:
        """Look for the files, which redis-py reads for each connection; warn if no certificate is checked."""
        for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            if options.get(name):
                read_file(name, options[name])
        # redis-py 5 leaves the word of the URL a word.
        looks = str(options.get("ssl_check_hostname", True)).lower() not in ("false", "0", "no", "none", "")
        if "ssl_check_hostname" in options:
            options["ssl_check_hostname"] = looks and options.get("ssl_cert_reqs") != "none"
            if not options["ssl_check_hostname"]:
                how = "ssl_cert_reqs is none" if looks else "ssl_check_hostname is False"
                logger.warning("results: anyone may be the store at %s: its certificate is not checked (%s)", self, how)


def _advice(url: str, reason: str) -> str:
    """Return the setting that may mend a failure of TLS, or of a connection without it."""
    if not url.startswith("rediss://"):
        closed = "closed by server" in reason or "reset by peer" in reason
        return "For a Redis with TLS the URL starts with rediss://" if closed else ""
    # A Redis without TLS waits for the rest of what it takes for a command.
    if any(each in reason for each in ("wrong version number", "record layer failure", "timeout connecting")):
        return "For a Redis without TLS the URL starts with redis://"
    if "certificate verify failed" in reason and "not valid for" not in reason and "expired" not in reason:
        return "ssl_ca_certs, in its URL, names a file with the certificate of the authority"
    return ""


class _Login:
    """A user whose password is in a file, for redis-py: it asks for both at each connection."""

    def __init__(self, user: str | None, path: str) -> None:
        self._user, self._path = user, path
        self.get_credentials()

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = first_line("password_file", self._path)
        return (password,) if self._user is None else (self._user, password)


def _secured(url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL for redis-py, and its options: the host's name is checked, and a password may be in a file."""
    # redis-py checks the name by default since version 6.
    options: dict[str, Any] = {"ssl_check_hostname": True} if url.startswith("rediss://") else {}
    address, _, query = url.partition("?")
    files = [each for each in query.split("&") if each.startswith("password_file=")]
    if not files:
        return url, options
    try:
        user, password = urlsplit(address).username, urlsplit(address).password
    except ValueError:
        return url, options  # redis-py says what is wrong with it
    if password is not None:
        raise ConfigurationError(
            f"{hide_password(url)!r}: the password is in the URL and in password_file=; leave one out"
        )
    options["credential_provider"] = _Login(user and unquote(user), unquote(files[0].partition("=")[2]))
    scheme, _, place = address.partition("://")
    rest = "&".join(each for each in query.split("&") if each not in files)
    return f"{scheme}://{place.rpartition('@')[2]}{'?' if rest else ''}{rest}", options
