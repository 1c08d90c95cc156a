"""Settings: addresses, limits and defaults. Arguments come first, then the environment, then the defaults.

Every setting has one name: the keyword ``heartbeat=`` is the option ``--heartbeat`` and the variable
``AMQP_RPC_HEARTBEAT``. The URL is also read from ``AMQP_URL``. Nothing here opens a connection.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.timing import Seconds, seconds_of, whole

#: The address of a newly installed RabbitMQ.
DEFAULT_URL = "amqp://guest:guest@localhost:5672/"
#: Seconds that a call may take, from `call` to its result.
DEFAULT_TIMEOUT = 30.0
#: Seconds between heartbeats; a peer that is silent for twice as long counts as dead.
#: RabbitMQ recommends 5 to 20: https://www.rabbitmq.com/docs/heartbeats
DEFAULT_HEARTBEAT = 10.0
#: Bytes of one body, on either side. RabbitMQ 4 closes the channel of a larger message:
#: https://www.rabbitmq.com/docs/limits
DEFAULT_MAX_MESSAGE_SIZE = 16 * 1024 * 1024
#: Calls of one client that may be in flight, and the bytes of their bodies together.
DEFAULT_MAX_PENDING = 10_000
DEFAULT_MAX_PENDING_BYTES = 256 * 1024 * 1024
#: Handlers of one server process that run at the same time.
DEFAULT_THREADS = 8
#: Seconds that one attempt to connect may take (name look-up, TCP, TLS and the AMQP handshake).
CONNECT_TIMEOUT = 10.0
#: Seconds by which the clocks of a client and a server may differ.
DEFAULT_CLOCK_SKEW = 1.0
#: Seconds between two liveness messages of a server about its unacked calls.
LIVENESS_INTERVAL = 0.5
#: Seconds that a server waits for running handlers when it stops.
DEFAULT_DRAIN_TIMEOUT = 30.0
#: Seconds that a store keeps a task's result: a day.
DEFAULT_RESULT_EXPIRES = 86_400.0

_PORTS = {"amqp": 5672, "amqps": 5671}
_ESCAPE = "Write special characters of a password or a virtual host as %XX"
#: The schemes of other programs, by what they mean here; and those of other protocols.
_OTHER_SCHEMES = {
    "amqps": ("amqp+ssl", "amqp+tls", "amqps+ssl", "pyamqps", "amqp-ssl", "amqpssl", "amqp+amqps", "rabbitmqs", "rmqs"),
    "amqp": ("pyamqp", "librabbitmq", "kombu+amqp", "kombu", "rabbitmq", "rabbit", "rmq", "amqp+tcp", "amqp091", "tcp"),
}
_OTHER_PROTOCOLS = {
    "http": "RabbitMQ's management interface",
    "https": "RabbitMQ's management interface",
    "mqtt": "MQTT",
    "mqtts": "MQTT",
    "stomp": "STOMP",
    "ws": "a web socket",
    "wss": "a web socket",
    "rabbitmq-stream": "RabbitMQ's streams",
    "redis": "Redis (results= takes it, for the results of tasks)",
    "rediss": "Redis (results= takes it, for the results of tasks)",
    "rpc": "a result backend of Celery",
    "sqlite": "SQLite (results= takes it, for the results of tasks)",
}


@dataclass(frozen=True, slots=True)
class Address:
    """One broker's address, taken from a URL; its text never shows the password."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the address that a URL names: https://www.rabbitmq.com/docs/uri-spec.

        Args:
            url: ``amqp://user:password@host:port/vhost`` or ``amqps://…``; the defaults are ``guest``, ``guest``, 5672
                (5671 with TLS) and ``/``.

        Raises:
            ConfigurationError: It is not such a URL.
        """
        shown = repr(hide_password(url))
        try:
            parts = urlsplit(url)
        except ValueError:
            # Without the cause: it quotes parts of the URL, and the password may be one of them.
            raise ConfigurationError(f"{shown} is not an AMQP URL: its host can't be read. {_ESCAPE}") from None
        if parts.scheme not in _PORTS:
            raise ConfigurationError(f"{shown} is not an AMQP URL: {_scheme_advice(url, parts.scheme)}")
        if any("@" in behind for behind in (parts.path, parts.query, parts.fragment)):
            raise ConfigurationError(f"{shown} is not an AMQP URL: '@' stands behind the host. {_ESCAPE}")
        if not parts.hostname:
            raise ConfigurationError(f"{shown} is not an AMQP URL: it names no host")
        # With the password ahead of it, and no other '@' behind: this is the host and the port alone.
        place = parts.netloc.rpartition("@")[2]
        try:
            port = _PORTS[parts.scheme] if parts.port is None else parts.port
        except ValueError:
            port = -1
        if not 0 < port < 2**16:
            raise ConfigurationError(f"{shown} is not an AMQP URL: the port in {place!r} is no number from 1 to 65535")
        if parts.query or parts.fragment:
            raise ConfigurationError(f"{shown}: {_option_advice(parts.query)}")
        if parts.path.endswith("/") and parts.path.strip("/"):
            raise ConfigurationError(
                f"{shown}: the virtual host ends with '/'. Leave that out, or write %2F if it is a part of the name"
            )
        # RabbitMQ's URI rules: no path is the vhost "/", and a path is one percent-encoded name.
        vhost = unquote(parts.path[1:]) if len(parts.path) > 1 else "/"
        return cls(
            # %25 is the '%' before the zone of an IPv6 address: RFC 6874.
            host=parts.hostname.replace("%25", "%"),
            port=port,
            user="guest" if parts.username is None else unquote(parts.username),
            password="guest" if parts.password is None else unquote(parts.password),
            vhost=vhost,
            tls=parts.scheme == "amqps",
        )

    def __str__(self) -> str:
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{scheme}://{self.user}:***@{host}:{self.port}/{vhost}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


def _scheme_advice(url: str, scheme: str) -> str:
    """Return the advice for a scheme that is not AMQP's."""
    starts = f"it starts with amqp:// or amqps://, as {DEFAULT_URL} does"
    for right, others in _OTHER_SCHEMES.items():
        if scheme in others:
            return f"write {right}:// for {scheme}://"
    if scheme in _OTHER_PROTOCOLS:
        return f"{scheme}:// is {_OTHER_PROTOCOLS[scheme]}; {starts}"
    if "://" not in url:
        return f"{starts}. Write amqp:// before the host"
    return starts


def _option_advice(options: str) -> str:
    """Return the advice for the options of a URL, without their values, which may be secrets."""
    names = [name for each in options.split("&") if (name := each.partition("=")[0]).isidentifier()]
    if not names:
        return f"what stands behind '?' or '#' is not read. {_ESCAPE}"
    said = ", ".join(f"{name}=" for name in names)
    if "heartbeat" in names:
        return f"its options ({said}) are not read; heartbeat= is an argument, as in Client(url, heartbeat=10)"
    return f"its options ({said}) are not read; give them as arguments, where there is one of that name"


class Addresses(tuple[Address, ...]):
    """The addresses of one broker's nodes; a connection goes to any of them."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(map(str, self))


def broker_addresses(url: str | Sequence[str] | None = None) -> Addresses:
    """Return the broker's addresses: the argument, else ``AMQP_RPC_URL``, else ``AMQP_URL``, else `DEFAULT_URL`.

    Args:
        url: One URL, several with commas between them (a comma of a password is written %2C), or a sequence of them.

    Raises:
        ConfigurationError: One is not a URL.
    """
    urls = url or os.environ.get("AMQP_RPC_URL") or os.environ.get("AMQP_URL") or DEFAULT_URL
    each = urls.split(",") if isinstance(urls, str) else urls
    if not all(isinstance(one, str) for one in each):
        raise ConfigurationError(f"a broker's URL is text, such as {DEFAULT_URL}, not {type(each[0]).__name__}")
    return Addresses(Address.parse(one.strip()) for one in each)


def results_url(url: str | None = None) -> str | None:
    """Return the URL of the results' store: the argument, else ``AMQP_RPC_RESULTS``; None for no store."""
    if url is not None and not isinstance(url, str):
        raise ConfigurationError(f"results is a store's URL, such as sqlite:///results.db, not {type(url).__name__}")
    return (os.environ.get("AMQP_RPC_RESULTS") if url is None else url) or None


def result_seconds(expires: Seconds | None = None) -> float:
    """Return how long it keeps them: the argument, else ``AMQP_RPC_RESULT_EXPIRES``, else `DEFAULT_RESULT_EXPIRES`.

    Raises:
        ConfigurationError: It is not a number of seconds above 0.
    """
    if expires is None:
        text = os.environ.get("AMQP_RPC_RESULT_EXPIRES") or DEFAULT_RESULT_EXPIRES
        try:
            expires = float(text)
        except ValueError:
            raise ConfigurationError(f"AMQP_RPC_RESULT_EXPIRES is a number of seconds, not {text!r}") from None
    # Ten years: Redis has an upper bound.
    return positive("result_expires", expires, most=315_360_000.0)


def hide_password(url: str) -> str:
    """Return a URL, well formed or not, without its password."""
    before, at, host = url.rpartition("@")
    scheme, separator, credentials = before.partition("://")
    if not separator:
        scheme, credentials = "", before
    user, colon, _password = credentials.partition(":")
    return f"{scheme}{separator}{user}{':***' if colon else ''}@{host}" if at else url


def count(name: str, value: int, *, most: float = float("inf")) -> int:
    """Return a setting that is a whole number above 0, and at most ``most``; raise `ConfigurationError` for others."""
    number = whole(value)
    if number is None:
        raise ConfigurationError(f"{name} must be a whole number, not {value!r}")
    positive(name, number, most=most)
    return number


#: The longest ``expires=``, in seconds, so that its time is a number on the wire: thirty years.
LONGEST_EXPIRES = 1e9


def positive(name: str, value: Seconds, *, most: float = float("inf")) -> float:
    """Return a setting that is a number above 0, and at most ``most``; raise `ConfigurationError` for others.

    A `timedelta` is the number of its seconds.
    """
    number = seconds_of(value)
    if number is None or not 0 < number <= most:
        bound = "" if most == float("inf") else f" and at most {most:g}"
        raise ConfigurationError(f"{name} must be a number above 0{bound}, not {value!r}")
    return number
