"""Settings: addresses, limits and defaults. Arguments come first, then the environment, then the defaults.

Every setting has one name: the keyword ``heartbeat=`` is the option ``--heartbeat`` and the variable
``AMQP_RPC_HEARTBEAT``. The URL is also read from ``AMQP_URL``, and the options of a connection from its query. Nothing
here opens a connection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack
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

#: The name of a user or a host; a host, with its port if it has one; and what stands behind ``?`` and ``#``.
_NAME = re.compile(r"[^:/?#]*")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:/?#]*)(:\d{1,5})?(?=[/?#]|$)")
_BEHIND_A_HOST = re.compile(r"[?#].*", re.DOTALL)
_SECRETS = re.compile(r"(?<==)[^&#]+|(?<=[?&])[^=&#]+(?=[&#]|$)|(?<=#).+", re.DOTALL)
#: Between two URLs; other commas belong to one.
_BETWEEN_URLS = re.compile(r",(?=\s*[A-Za-z][\w+.-]*://)")

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


File = str | os.PathLike[str]

#: The names in other libraries' URLs, and here.
_OTHER_NAMES = {
    "cacertfile": ("cafile", "ca_certs", "ca_cert", "ssl_ca_certs", "cacerts"),
    "certfile": ("ssl_certfile", "cert", "cert_file"),
    "keyfile": ("ssl_keyfile", "key", "key_file"),
    "verify": ("ssl_cert_reqs", "cert_reqs", "no_verify_ssl"),
    "server_name_indication": ("server_hostname", "server_name", "sni"),
    "minimum_version": ("ssl_version", "tls_version", "versions"),
    "auth_mechanism": ("login_method", "mechanism"),
}


class BrokerOptions(TypedDict, total=False):
    """Options of connections to a broker, for `Client` and `Server`; each overrides its namesake in the URL's query.

    They are also flags, variables (``AMQP_RPC_CACERTFILE``) and names in the URL's query, as in RabbitMQ's own clients:
    https://www.rabbitmq.com/docs/uri-query-parameters. Files are read again for each connection.
    """

    #: The certificates of the authorities that may have signed the broker's, in PEM; the system's unless given.
    cacertfile: File | None
    #: This program's certificate, with those that signed it, in PEM; none unless given.
    certfile: File | None
    #: Its key; in `certfile` unless given.
    keyfile: File | None
    #: A file with the key's password; none unless given.
    keyfile_password_file: File | None
    #: ``verify_peer``; ``verify_none`` checks no certificate, and logs a warning at each start.
    verify: str | None
    #: The name that the broker's certificate must have; the URL's host unless given.
    server_name_indication: str | None
    #: ``tlsv1.2`` or ``tlsv1.3``; Python's own minimum unless given, which is 1.2.
    minimum_version: str | None
    #: ``plain``: user name and password; ``external``: the user is the one that the certificate names.
    auth_mechanism: str | None
    #: A file with the user's password, instead of one in the URL.
    password_file: File | None
    #: ``sent``: each message has the name of its user, which RabbitMQ checks; ``none`` unless given.
    user_id: str | None


_NOT_TLS = ("auth_mechanism", "password_file", "user_id")
OPTIONS_IN_A_URL = tuple(BrokerOptions.__annotations__)
_FILES = ("cacertfile", "certfile", "keyfile", "keyfile_password_file", "password_file")


@dataclass(frozen=True, slots=True)
class TLS:
    """How connections are encrypted, and who is believed: `BrokerOptions`."""

    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    keyfile_password_file: str | None = None
    verify: str = "verify_peer"
    server_name_indication: str | None = None
    minimum_version: str | None = None
    #: An `ssl.SSLContext` of a user's own, in the place of all these but `server_name_indication`.
    ssl_context: Any = None

    @property
    def verifies(self) -> bool:
        """Whether the broker's certificate is checked."""
        if self.ssl_context is not None:
            return bool(self.ssl_context.check_hostname)
        return self.verify == "verify_peer"


def read_file(name: str, path: str) -> bytes:
    """Return the bytes of a file that a setting names; raise `ConfigurationError` if it can't be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path of a user's, as text
            return file.read()
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{name}={path!r} can't be read: {why}") from None


def first_line(name: str, path: str) -> str:
    """Return the password in a file, without the end of its line: editors and `echo` add one."""
    try:
        lines = read_file(name, path).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}={path!r} is not text in UTF-8") from None
    if len(lines) != 1 or not lines[0]:
        raise ConfigurationError(f"{name}={path!r} has {len(lines)} lines, and should have one, the password")
    return lines[0]


@dataclass(frozen=True, slots=True)
class Address:
    """One broker's address, taken from a URL; its text never shows the password."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    #: None without TLS.
    tls: TLS | None = None
    auth_mechanism: str = "plain"
    password_file: str | None = None
    user_id: str = "none"

    @classmethod
    def parse(cls, url: str, given: Mapping[str, Any] | None = None) -> Address:
        """Return the address that a URL names: https://www.rabbitmq.com/docs/uri-spec.

        Args:
            url: ``amqp://user:password@host:port/vhost`` or ``amqps://…``; the defaults are ``guest``, ``guest``, 5672
                (5671 with TLS) and ``/``. The password of another user than ``guest`` is empty unless given. Behind
                ``?`` it may have `BrokerOptions`.
            given: `BrokerOptions` that override those of the URL; and ``ssl_context``.

        Raises:
            ConfigurationError: It is not such a URL, or an option is wrong.
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
        place = parts.netloc.rpartition("@")[2] if "@" in parts.netloc else hide_password(parts.netloc)
        try:
            port = _PORTS[parts.scheme] if parts.port is None else parts.port
        except ValueError:
            port = -1
        if not 0 < port < 2**16:
            hint = "" if "@" in parts.netloc else ". Behind a password stands @ and the host"
            raise ConfigurationError(
                f"{shown} is not an AMQP URL: the port in {place!r} is no number from 1 to 65535{hint}"
            )
        in_url = [each.partition("=") for each in parts.query.split("&") if each]
        if parts.fragment or any(name not in OPTIONS_IN_A_URL for name, _, _ in in_url):
            raise ConfigurationError(f"{shown}: {_option_advice(parts.query)}")
        if parts.path.endswith("/") and parts.path.strip("/"):
            raise ConfigurationError(
                f"{shown}: the virtual host ends with '/'. Leave that out, or write %2F if it is a part of the name"
            )
        # RabbitMQ's URI rules: no path is the vhost "/", and a path is one percent-encoded name.
        vhost = unquote(parts.path[1:]) if len(parts.path) > 1 else "/"
        options = _Options(shown, [(name, unquote(value)) for name, _, value in in_url], given or {})
        if options.found.get("password_file") and parts.password is not None:
            raise ConfigurationError(f"{shown}: the password is in the URL and in password_file=; leave one out")
        return cls(
            # %25 is the '%' before the zone of an IPv6 address: RFC 6874.
            host=parts.hostname.replace("%25", "%"),
            port=port,
            user="guest" if parts.username is None else unquote(parts.username),
            # Nobody else's is guessed.
            password=_default_password(parts.username) if parts.password is None else unquote(parts.password),
            vhost=vhost,
            tls=options.tls(encrypted=parts.scheme == "amqps"),
            auth_mechanism=options.found.get("auth_mechanism", "plain"),
            password_file=options.found.get("password_file"),
            user_id=options.found.get("user_id", "none"),
        )

    def current_password(self) -> str:
        """Return the password: that of the file as it is now, if there is one.

        Raises:
            ConfigurationError: It can't be read.
        """
        return self.password if self.password_file is None else first_line("password_file", self.password_file)

    def __str__(self) -> str:
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{scheme}://{self.user}:***@{host}:{self.port}/{vhost}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


def _default_password(user: str | None) -> str:
    return "guest" if user in (None, "guest") else ""


class _Options:
    """The options of one URL: those that are given, else those of its query, else those of the environment."""

    def __init__(self, shown: str, in_url: Sequence[tuple[str, str]], given: Mapping[str, Any]) -> None:
        self._shown = shown
        names = [name for name, _ in in_url]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigurationError(f"{shown}: {twice[0]}= is there twice")
        said = {name: value for name, value in given.items() if value is not None}
        if "ssl_context" in said:
            beside = [
                each for each in (*said, *names) if each not in ("ssl_context", "server_name_indication", *_NOT_TLS)
            ]
            if beside:
                raise ConfigurationError(
                    f"{shown}: {beside[0]}= is a matter of ssl_context=, which is given: leave one out"
                )
        variables = _NOT_TLS if "ssl_context" in said else OPTIONS_IN_A_URL
        by_variable = {name: value for name in variables if (value := os.environ.get(f"AMQP_RPC_{name.upper()}"))}
        #: The values, checked.
        self.found: dict[str, Any] = {
            name: self._checked(name, value) for name, value in {**by_variable, **dict(in_url), **said}.items()
        }
        #: Those that no variable has given.
        self._explicit = {*names, *said}

    def tls(self, *, encrypted: bool) -> TLS | None:
        """Return how the connection is encrypted; None if it is not."""
        options = {name: value for name, value in self.found.items() if name not in _NOT_TLS}
        external = self.found.get("auth_mechanism") == "external"
        if external and not (encrypted and {"certfile", "ssl_context"} & options.keys()):
            raise ConfigurationError(
                f"{self._shown}: auth_mechanism=external needs amqps://, certfile= and keyfile=: the certificate names "
                "the user"
            )
        if not encrypted:
            if options:
                name = next(iter(options))
                source = f"{name}=" if name in self._explicit else f"AMQP_RPC_{name.upper()}"
                raise ConfigurationError(f"{self._shown}: {source} is for TLS: write amqps:// for amqp://")
            return None
        for name in ("keyfile", "keyfile_password_file"):
            if name in options and "certfile" not in options:
                raise ConfigurationError(f"{self._shown}: {name}= needs certfile=, the certificate that it is for")
        return TLS(**options)

    def _checked(self, name: str, value: Any) -> Any:
        if name == "ssl_context":
            return value
        if name in _FILES and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value:
            raise ConfigurationError(
                f"{self._shown}: {name}={value!r} is not {_VALUES.get(name, 'the name of a file')}"
            )
        if name in _WORDS:
            if value.lower() not in _WORDS[name]:
                raise ConfigurationError(f"{self._shown}: {name}={value!r} is not {_VALUES[name]}")
            value = value.lower()
        return value


_WORDS = {
    "verify": ("verify_peer", "verify_none"),
    "minimum_version": ("tlsv1.2", "tlsv1.3"),
    "auth_mechanism": ("plain", "external"),
    "user_id": ("sent", "none"),
}
_VALUES = {name: " or ".join(words) for name, words in _WORDS.items()} | {"server_name_indication": "a host's name"}


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
    names = [name for each in options.split("&") if "=" in each and (name := each.partition("=")[0]).isidentifier()]
    names = [name for name in names if name not in OPTIONS_IN_A_URL]
    for right, others in _OTHER_NAMES.items():
        for name in names:
            if name in others:
                return f"write {right}= for {name}="
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

    def named(self) -> frozenset[str]:
        """Return the users whose names are in the messages that are sent there."""
        return frozenset(each.user for each in self if each.user_id == "sent")

    def unverified(self) -> str | None:
        """Return a warning if the certificate of one is not checked; else None."""
        doubtful = [each for each in self if each.tls is not None and not each.tls.verifies]
        if not doubtful:
            return None
        how = "verify=verify_none" if doubtful[0].tls and doubtful[0].tls.ssl_context is None else "ssl_context"
        return f"anyone may be the broker at {', '.join(map(str, doubtful))}: its certificate is not checked ({how})"


def broker_addresses(
    url: str | Sequence[str] | None = None, *, ssl_context: object = None, **options: Unpack[BrokerOptions]
) -> Addresses:
    """Return the broker's addresses: the argument, else ``AMQP_RPC_URL``, else ``AMQP_URL``, else `DEFAULT_URL`.

    Args:
        url: One URL, several with commas between them, or a sequence of them.
        ssl_context: An `ssl.SSLContext` for all of them.
        options: For all of them.

    Raises:
        ConfigurationError: One is not a URL, or an option is wrong.
    """
    for name in options:
        if name not in BrokerOptions.__annotations__:
            raise TypeError(f"got an unexpected keyword argument {name!r}")
    urls = url or os.environ.get("AMQP_RPC_URL") or os.environ.get("AMQP_URL") or DEFAULT_URL
    each = _BETWEEN_URLS.split(urls) if isinstance(urls, str) else urls
    if not all(isinstance(one, str) for one in each):
        raise ConfigurationError(f"a broker's URL is text, such as {DEFAULT_URL}, not {type(each[0]).__name__}")
    return Addresses(Address.parse(one.strip(), {"ssl_context": ssl_context, **options}) for one in each)


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
    """Return a URL, well formed or not, without its password, and without the values behind ``?`` and ``#``."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    before, at, place = rest.rpartition("@")
    if at:
        user = _NAME.match(before)[0]  # type: ignore[index] # it matches any text
        shown = f"{user}{':***' if user != before else ''}@{place}"
    elif _HOST_AND_PORT.match(place):
        shown = place
    else:
        # Without a host: what stands behind the name is no port.
        shown = f"{_NAME.match(place)[0]}:***"  # type: ignore[index] # as above
    return f"{scheme}{separator}{_BEHIND_A_HOST.sub(lambda behind: _SECRETS.sub('***', behind[0]), shown)}"


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
