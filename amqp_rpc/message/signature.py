"""Signatures of messages: HMAC-SHA-256 with keys that clients and servers share, and each counts once.

Optional, and off without keys. The first key signs, and all of them verify: a new key is added behind the old one
everywhere, then put first everywhere, then the old one is removed. A file of keys is read again when it changes. An
answer, a retry and a dead letter are signed with the key of the message that they follow, so that a client needs its
own key alone.

The signed parts are in docs/wire-format.md. HMAC is RFC 2104: https://www.rfc-editor.org/rfc/rfc2104
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import struct
import time
from calendar import timegm
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from threading import Lock
from typing import Any, Final

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Message, Properties, read_milliseconds
from amqp_rpc.message.headers import DEADLINE, SENDER, SIGNATURE, only_carried
from amqp_rpc.message.text import bounded_logger, safe_repr
from amqp_rpc.message.timing import Repeats

logger: logging.Logger = bounded_logger(__name__)

_VERSION: Final = "v1"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_FORM = re.compile(r"v1:([A-Za-z0-9_-]{1,64}):([0-9a-f]{32}):([0-9a-f]{64})", re.ASCII)
#: Bytes of a key at least: as many as SHA-256 has (RFC 2104, section 3).
_SHORTEST_KEY = 32
#: Tables and lists in each other in a header; a stranger may nest more.
_DEEPEST = 20
#: Seconds between two looks at a file of keys.
_BETWEEN_LOOKS = 1.0
#: The signatures of a queue that are remembered at most: those with a deadline, and the last ones without.
_MOST_WITH_DEADLINE, _MOST_WITHOUT = 500_000, 100_000
#: Seconds after its deadline for which a message's signature is remembered: another server's clock may differ.
_SKEW = 60.0
#: The variable that names a file of keys.
VARIABLE: Final = "AMQP_RPC_KEYS"

#: A source of keys: the path of a file, or ids and keys.
KeySource = str | os.PathLike[str] | Mapping[str, str | bytes]


class NotProved(Exception):
    """A message has no signature, a wrong one, or one that came before."""

    #: True if it has none: its sender may not know that it needs one.
    unsigned = False


class Keys:
    """The keys of a client or a server; the first one signs. Any thread may use it.

    Args:
        keys: Ids and keys.
        path: The file that has them, to be read again when it changes; None without one.

    Raises:
        ConfigurationError: No key, a wrong id, the same id twice, or a key that is too short.
    """

    def __init__(self, keys: Iterable[tuple[str, bytes]], *, path: str | os.PathLike[str] | None = None) -> None:
        self._keys = _checked(keys)
        self._path = path
        self._version = None if path is None else _version(path)
        self._next_look = time.monotonic() + _BETWEEN_LOOKS
        self._troubles = Repeats()

    @safe_repr
    def __repr__(self) -> str:
        """Return the ids alone."""
        return f"<Keys {', '.join(self._keys)}>"

    def sign(self, message: Message, *, like: Properties | None = None) -> None:
        """Sign a message that is about to be published, with the first key, or with that of another message."""
        keys = self._current()
        name = None if like is None else key_of(like)
        if name is None or name not in keys:
            name = next(iter(keys))
        nonce = os.urandom(16).hex()
        properties = message.properties
        exchange = "" if message.exchange is None else message.exchange.name
        head = _head(properties, name, nonce, exchange, message.routing_key)
        signature = f"{_VERSION}:{name}:{nonce}:{_mac(keys[name], head, message.body).hex()}"
        properties.headers = {**(properties.headers or {}), SIGNATURE: signature}

    def check(self, properties: Properties, body: bytes, *, routing_key: str, exchange: str = "") -> str:
        """Return the nonce of a message's signature.

        Raises:
            NotProved: It is not signed, or not by one of these keys, or not as it is.
        """
        signature = (properties.headers or {}).get(SIGNATURE)
        if signature is None:
            error = NotProved("it is not signed")
            error.unsigned = True
            raise error
        form = _FORM.fullmatch(signature) if isinstance(signature, str) else None
        if form is None:
            raise NotProved("its signature has another form")
        name, nonce, mac = form.groups()
        key = self._current().get(name)
        if key is None:
            raise NotProved("it is signed with a key that is not known here")
        try:
            head = _head(properties, name, nonce, exchange, routing_key)
        except ValueError as error:
            raise NotProved(str(error)) from None
        if not hmac.compare_digest(_mac(key, head, body), bytes.fromhex(mac)):
            raise NotProved("its signature is wrong")
        return nonce

    def _current(self) -> dict[str, bytes]:
        """Return the keys as they are now, the one that signs first."""
        if self._path is not None and time.monotonic() >= self._next_look:
            self._look(self._path)
        return self._keys

    def _look(self, path: str | os.PathLike[str]) -> None:
        self._next_look = time.monotonic() + _BETWEEN_LOOKS
        try:
            version = _version(path)
            if version == self._version:
                return
            self._keys = _checked(_read(path))
            self._version = version
        except ConfigurationError as error:
            # It may be half written: the next look reads it again.
            if (times := self._troubles.again(str(error))) is not None:
                logger.error("keys: %s; those of before are used%s", error, times)  # noqa: TRY400 - the text has all
        else:
            logger.info("keys: read again: %s", ", ".join(self._keys))


class Gate:
    """Admits the messages of one queue that are signed, each once. Any thread may use it."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._seen = Seen()

    def admit(
        self, properties: Properties, body: bytes, *, routing_key: str, exchange: str = "", redelivered: bool
    ) -> None:
        """Check a message.

        Raises:
            NotProved: It is not signed, or not as it is; or it came before, and the broker does not deliver it again.
        """
        nonce = self._keys.check(properties, body, routing_key=routing_key, exchange=exchange)
        deadline = read_milliseconds((properties.headers or {}).get(DEADLINE))
        until = None if deadline is None else deadline / 1000 + _SKEW
        # A redelivery may have been here before.
        if not self._seen.add(nonce, until, time.time()) and not redelivered:
            raise NotProved("it came before")


class Seen:
    """The signatures that came: each until its message expires, and the last ones of those that never do."""

    def __init__(self, most: int = _MOST_WITH_DEADLINE, most_without: int = _MOST_WITHOUT) -> None:
        self._most, self._most_without = most, most_without
        #: By the second in which they may be forgotten. A message comes back with the same one, since it is signed.
        self._until: dict[int, set[bytes]] = {}
        self._count = 0
        self._without: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def add(self, nonce: str, until: float | None, now: float) -> bool:
        """Remember a signature until that Unix time, or as long as there is room; return whether it is new."""
        raw = bytes.fromhex(nonce)
        with self._lock:
            if until is None:
                if raw in self._without:
                    return False
                self._without[raw] = None
                if len(self._without) > self._most_without:
                    self._without.popitem(last=False)
                return True
            second = int(until)
            if (there := self._until.get(second)) is None:
                there = self._until[second] = set()
                for each in [each for each in self._until if each < now - 1 and each != second]:
                    self._count -= len(self._until.pop(each))
            if raw in there:
                return False
            there.add(raw)
            self._count += 1
            if self._count > self._most:
                self._count -= len(self._until.pop(min(self._until)))
            return True

    def __len__(self) -> int:
        return self._count + len(self._without)


def key_of(properties: Properties) -> str | None:
    """Return the id of the key with which a message says that it is signed."""
    signature = (properties.headers or {}).get(SIGNATURE)
    form = _FORM.fullmatch(signature) if isinstance(signature, str) else None
    return None if form is None else form[1]


def keys_of(source: KeySource | None) -> Keys | None:
    """Return the keys that a user gives, or those of the file that the variable names; None without any.

    A file has a line for each key, its id and the key as text; lines that begin with ``#`` are comments.

    Raises:
        ConfigurationError: There is no such file, no key in it, or one that is too short.
    """
    if source is None:
        source = os.environ.get(VARIABLE) or None
    if source is None:
        return None
    if isinstance(source, Mapping):
        return Keys((name, key.encode() if isinstance(key, str) else bytes(key)) for name, key in source.items())
    if not isinstance(source, str | os.PathLike):
        raise ConfigurationError(f"keys= is the path of a file, or a mapping of ids to keys, not {type(source)!r}")
    return Keys(_read(source), path=source)


def _checked(keys: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, key in keys:
        if not isinstance(name, str) or not _ID.fullmatch(name):
            raise ConfigurationError(f"a key's id is up to 64 letters, digits, - and _, not {name!r}")
        if name in found:
            raise ConfigurationError(f"there are two keys with the id {name!r}")
        if len(key) < _SHORTEST_KEY:
            raise ConfigurationError(
                f"key {name!r} has {len(key)} bytes, and needs {_SHORTEST_KEY} or more: `openssl rand -hex 32`"
            )
        found[name] = key
    if not found:
        raise ConfigurationError("there is no key in keys=")
    return found


def _read(path: str | os.PathLike[str]) -> list[tuple[str, bytes]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the keys of {os.fspath(path)!r} can't be read: {error}") from None
    found = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for number, words in enumerate(found, 1):
        if len(words) != 2:  # noqa: PLR2004 - an id and a key
            raise ConfigurationError(f"key number {number} of {os.fspath(path)!r} is no id and key, with a space")
    return [(name, key.encode()) for name, key in found]


def _version(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Return the time, the size and the number of a file: one of them changes when it is written."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the keys of {os.fspath(path)!r} can't be read: {error}") from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _mac(key: bytes, head: bytes, body: bytes) -> bytes:
    # In two steps: a large body is not copied.
    digest = hmac.new(key, head, hashlib.sha256)
    digest.update(body)
    return digest.digest()


def _head(properties: Properties, name: str, nonce: str, exchange: str, routing_key: str) -> bytes:
    """Return the bytes that are signed before the body: each part with its length, so that no two can be confused.

    Raises:
        ValueError: A header has too many tables in each other.
    """
    parts = [
        _VERSION,
        name,
        nonce,
        exchange,
        routing_key,
        properties.type,
        properties.content_type,
        properties.content_encoding,
        properties.message_id,
        properties.correlation_id,
        properties.reply_to,
        properties.app_id,
        None if properties.timestamp is None else str(int(properties.timestamp)),
    ]
    return b"".join((*map(_part, parts), _part(_table(properties.headers or {}, 0))))


def _part(part: str | bytes | None) -> bytes:
    if part is None:
        return b"-,"
    raw = part.encode(errors="surrogatepass") if isinstance(part, str) else part
    return b"%d:%b," % (len(raw), raw)


def _table(table: Mapping[Any, Any], depth: int) -> bytes:
    """Return a table, or the headers of a message, in the order of their names.

    Of headers those alone that the broker only carries, and servers only copy.
    """
    if not depth:
        table = {name: value for name, value in only_carried(table).items() if name not in (SIGNATURE, SENDER)}
    return b"".join(_part(str(name)) + _part(_value(table[name], depth)) for name in sorted(table, key=str))


def _value(value: object, depth: int) -> bytes:  # noqa: C901, PLR0911 - one type a line
    """Return the value of a header: the letter of its type, and what it is.

    The types are those of AMQP's tables, but for the sizes of numbers: https://www.rabbitmq.com/amqp-0-9-1-errata
    """
    if depth > _DEEPEST:
        raise ValueError("its headers have too many tables in each other")
    match value:
        case str():
            return b"S" + value.encode(errors="surrogatepass")
        case bool():
            return b"t1" if value else b"t0"
        case int():
            return b"I%d" % int(value)
        case float():
            return b"d" + struct.pack(">d", value)
        case bytes() | bytearray():
            return b"x" + bytes(value)
        case None:
            return b"V"
        case datetime():
            return b"T%d" % timegm(value.utctimetuple())
        case Decimal():
            return b"D" + str(value.normalize()).encode()
        case list():
            return b"A" + b"".join(_part(_value(each, depth + 1)) for each in value)
        case Mapping():
            return b"F" + _table(value, depth + 1)
    # AMQP has no such type: it can't be published.
    return b"?"
