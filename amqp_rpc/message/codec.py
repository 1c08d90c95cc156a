"""Values to bytes and back, in msgpack, JSON, text or raw bytes; the only importer of msgpack.

Decoding never runs code.

msgpack bodies carry types that JSON has not as extensions (the number of each is part of the wire format):

======  ============================  =========================================
number  Python                        payload
======  ============================  =========================================
-1      ``datetime`` (aware)          msgpack's own timestamp; arrives in UTC
1       ``int`` beyond 64 bits        two's complement, big-endian
2       ``date``                      ``2026-01-31`` in ASCII
3       ``timedelta``                 days, seconds, microseconds as msgpack
4       ``Decimal``                   its text in ASCII
5       ``UUID``                      16 bytes
6       ``set``                       its elements as a msgpack array
7       ``frozenset``                 its elements as a msgpack array
8       ``time``                      ``09:30:00`` in ASCII
======  ============================  =========================================

In JSON the same values have the form that people write by hand: ISO 8601 text, the number's text, a list. The types of
`text.FORMS` travel as maps, lists, numbers and text in both, and are rebuilt from the receiver's type hints.

All that is encoded can be decoded. An array that is a key of a map, or an element of a set, arrives as a tuple, since
it can only have been a tuple. A map can't be a key: it is refused where it is sent. msgpack's own types need no check.
A value that might be such a key, such as a frozen dataclass or an enum, is decoded once before it is sent. So is a body
that may have an extension: one of msgpack's own class is written as it is, whatever its number.

The work for a body is bounded by its size, whoever wrote it. A value takes at most `MEMORY` bytes for each byte of the
limit. Text has a salted hash in Python; numbers, UUIDs, times and tuples have not, so a stranger can choose thousands
with one hash, and a map of n such keys takes n² steps. A map or a set of them is checked before it is built.

It is longer than other modules: each type is written and read here, side by side, with the bounds on both.
Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from threading import get_ident
from time import thread_time
from typing import Any, Final, Literal, get_args
from uuid import UUID

import msgpack
import msgspec

from amqp_rpc.errors import ConfigurationError, MessageTooLarge, Undecodable, Unencodable
from amqp_rpc.message.settings import DEFAULT_MAX_MESSAGE_SIZE
from amqp_rpc.message.text import brief, plain_form, text_of

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
TEXT: Final = "text/plain"
#: Bytes as they are. It is the default of some clients, and then says as little as no content type: the bytes may be
#: text.
OCTETS: Final = "application/octet-stream"

#: The types of a body that a client can be told to send.
ContentType = Literal["application/msgpack", "application/json", "text/plain", "application/octet-stream"]

#: The usual spellings of each content type, in small letters; ``application/…+json`` and ``text/…`` beside them.
_TYPES: Final[dict[str | None, str]] = {
    **dict.fromkeys((MSGPACK, "application/x-msgpack", "application/vnd.msgpack"), MSGPACK),
    **dict.fromkeys((JSON, "application/x-json", "text/json", "text/x-json"), JSON),
    **dict.fromkeys((TEXT, "plain/text", "text"), TEXT),
    # kombu sends bytes as application/data.
    **dict.fromkeys((None, "", OCTETS, "binary/octet-stream", "application/x-binary", "application/data"), OCTETS),
}

_PACKED: Final = frozenset({MSGPACK, JSON})

#: Content encodings that change no byte, in small letters.
_PLAIN: Final = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii", "7bit", "8bit", "binary", "identity", "none"})

_BIG_INT, _DATE, _TIMEDELTA, _DECIMAL, _UUID, _SET, _FROZENSET, _TIME = range(1, 9)
_UUID_SIZE: Final = 16

#: Sets inside of sets that a body may have, and tuples inside of a key.
_DEEPEST_SETS, _DEEPEST_KEY = 8, 64

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: The seconds from then to the first and the last datetime that UTC has.
_FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
_LAST = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)

#: Bytes of memory that a value takes for each byte of the limit of its body, at most; and how many are counted, by
#: estimates that are too low for the shortest texts. What a type hint makes of it is another copy. A limit below 64 KiB
#: counts as that, and none counts as the default, or as the size of the body.
MEMORY: Final = 40
_COUNTED = 24
_LEAST_LIMIT = 64 * 1024
#: Bytes that values take in CPython: a list or a map without its items, one item or key, an extension, and what begins
#: with none of the bytes below, for each byte.
_A_LIST, _A_MAP, _AN_ITEM, _AN_EXTENSION, _A_BYTE = 88, 240, 40, 104, 13
#: The first bytes of lists, maps and extensions, of the shortest texts, and of numbers that have an object each. Other
#: bytes of a body may look the same.
_HEAVY = bytes([*range(0x80, 0xA8), 0xC4, *range(0xC7, 0xCA), 0xD0, *range(0xD4, 0xD9), *range(0xDC, 0xFB)])
#: By the first byte of a value: the bytes of a text's length; the bytes of any other value, of a list or a map those
#: before its items. Extensions are in neither.
_WIDTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_SIZES: Final = {
    **dict.fromkeys([*range(0xA0), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)], 1),
    **{first: 1 + first - 0xA0 for first in range(0xA0, 0xC0)},
    **dict.fromkeys((0xCC, 0xD0), 2),
    **dict.fromkeys((0xCD, 0xD1, 0xDC, 0xDE), 3),
    **dict.fromkeys((0xCA, 0xCE, 0xD2, 0xDD, 0xDF), 5),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), 9),
}
#: How many values at the beginning of a body are read one by one, and one more for each so many bytes.
_FEW_VALUES, _LONG = 64, 1024
#: The first bytes of extensions.
_EXTENSIONS = bytes([*range(0xC7, 0xCA), *range(0xD4, 0xD9)])
#: A string of JSON; the keys that Python's encoder may have made of numbers, True, False and None.
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_made_key_in = re.compile(r'"(?:-?\d[^"]*|true|false|null)":').search

#: Bytes of a body that needs no look: all its keys together are few.
_SMALL = 1024
#: Bytes of a body that is quick to decode, at most: an event loop leaves larger ones to a thread.
LARGE: Final = 256 * 1024
#: The threads that read a larger one, and have switched the garbage collector off meanwhile.
_pausing: set[int] = set()
#: The largest map, or set, whose hashes need no look; and how many keys of a larger one may have another one's hash.
FEW_KEYS: Final = 16
#: Keys that are looked at together; seconds of a processor that all of them may take, and each of them.
_SLICE, _LONGEST_CHECK, _LONGEST_KEY = 2048, 0.1, 1e-5
#: The types whose hashes are salted.
_SALTED = frozenset({str, bytes})

#: Reads a whole body in C and builds nothing: an array that declares a billion elements, or is nested 100 000 deep,
#: fails here, before any memory is reserved for it.
_well_formed = msgspec.msgpack.Decoder(msgspec.Raw).decode


def base_type(content_type: str | None) -> str:
    """Return a content type without its parameters, in its usual spelling; none means that it was not said."""
    return _TYPES.get(content_type) or _other_type(content_type or "")


def _other_type(content_type: str) -> str:
    name = content_type.partition(";")[0].strip().lower()
    known = _TYPES.get(name)
    if known is not None:
        return known
    if name.startswith("text/"):
        return TEXT
    return JSON if name.endswith("+json") else MSGPACK if name.endswith("+msgpack") else name


def packed(content_type: str) -> bool:
    """Return whether bodies of a content type are values; the bodies of all others are text or bytes."""
    return content_type in _PACKED


def check_content_type(content_type: str | None) -> None:
    """Raise `ConfigurationError` unless a content type is one that a client can send, or None."""
    if content_type is not None and content_type not in get_args(ContentType):
        raise ConfigurationError(f"content_type is one of {', '.join(get_args(ContentType))}, not {content_type!r}")


def check_encoding(encoding: object) -> None:
    """Raise `Undecodable` unless a content encoding is known, and changes no byte."""
    if encoding is not None and (not isinstance(encoding, str) or encoding.strip().lower() not in _PLAIN):
        raise Undecodable(f"content encoding {encoding!r} is not known here; send none")


def encode(value: object, content_type: str, *, limit: int) -> bytes:
    """Return the bytes of a value: None, numbers, text, bytes, lists, maps, and the types in this module's table.

    As text, bytes are sent as they are, and other values as ``str(value)``.

    Raises:
        Unencodable: A part of the value has no form on the wire, or could not be read.
        MessageTooLarge: The body has more bytes than ``limit``.
    """
    try:
        if content_type == MSGPACK:
            body = _pack(value, limit)
        elif content_type == JSON:
            body = _json(value, limit)
        elif isinstance(value, bytes | bytearray | memoryview):
            body = bytes(value)
        elif content_type == OCTETS and not isinstance(value, str):
            raise TypeError(f"{OCTETS} is bytes or text")  # noqa: TRY301 - one place names the value
        else:
            body = str(value).encode()
    # The value is a user's, and its code may raise anything.
    except Exception as error:
        raise Unencodable(f"cannot send {brief(value)}: {text_of(error)}") from error
    if len(body) > limit:
        raise MessageTooLarge(f"the body has {len(body)} bytes, and the limit is {limit} (max_message_size)")
    return body


def decode(body: bytes, content_type: str, *, limit: int, raw: bool = False) -> Any:
    """Return the value of a body; the content type is one that `base_type` returns.

    Octets are text if they are UTF-8. With ``raw``, all bodies but values are bytes, whatever their type says.

    Raises:
        Undecodable: The bytes don't have the content type, or it is an unknown one.
        MessageTooLarge: The body has more bytes than ``limit``.
    """
    size = len(body)
    if size > limit:
        raise MessageTooLarge(f"the body has {size} bytes, and the limit is {limit} (max_message_size)")
    try:
        if content_type == MSGPACK:
            if size > _SMALL:
                return _unpack(body, limit) if size <= LARGE else _uncollected(_unpack, body, limit)
            _well_formed(body)
            return _read(body)
        if content_type == JSON:
            if size > _SMALL:
                _check_json(body, limit)
            return json.loads(body) if size <= LARGE else _uncollected(json.loads, body)
        if raw:
            return body
        if content_type == TEXT:
            return body.decode()
        if content_type == OCTETS:
            return _text_or_bytes(body)
    # The body is another program's: an exception of a decoder must not reach the server's loop.
    except Exception as error:
        raise Undecodable(f"the body ({len(body)} bytes) is not {content_type}: {_reason(error)}") from error
    raise Undecodable(f"content type {content_type!r} is not known here; send {MSGPACK}, {JSON} or {TEXT}")


def _text_or_bytes(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


_TOO_MANY: Final = "it has so many values that they take too much memory; send fewer of them, or as bytes"
_NAIVE: Final = "a datetime without a time zone is ambiguous: {!r}; give it tzinfo"


class _Doubtful(Exception):
    """The value may have a part that can't be read."""


#: Packers that no thread uses now: to make one takes longer than to pack a usual body.
_packers: list[msgpack.Packer] = []


def _to_msgpack(value: object) -> bytes:
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer(default=_pack_other)
    body: bytes = packer.pack(value)
    # One that has raised is dropped, and so is one whose buffer has grown.
    if len(body) <= _LEAST_LIMIT:
        _packers.append(packer)
    return body


def _pack(value: object, limit: int) -> bytes:
    read: Callable[[bytes, int], Any] = _unpack
    try:
        body = _to_msgpack(value)
        # An extension may be a user's own object of msgpack's class, which is written as it is.
        if len(body) <= _SMALL:
            if len(body.translate(None, _EXTENSIONS)) == len(body):
                return body
        elif len(body) > limit:
            return body
        elif not _is_heavy(body, limit):
            # Byte by byte: a pattern takes longer than to read the body.
            if not any(first in body for first in _EXTENSIONS):
                return body
            read = _check
    except _Doubtful:
        body = msgpack.packb(value, default=_pack_doubtful)
        read = _unpack_unique
    try:
        read(body, limit)
    except Exception as error:
        raise TypeError(_unreadable(_reason(error))) from error
    return body


def _unreadable(reason: str) -> str:
    if "hashable" in reason:
        return "a key of a map and an element of a set can be no map, and so no dataclass; send its fields as a tuple"
    return f"it could not be read: {reason}"


def _extension(value: Any, *, verified: bool = False, in_set: bool = False) -> Any:
    """Return the extension or the plain value for a type that msgpack does not know.

    Raises:
        _Doubtful: It may be unreadable where it stands, and the body is not ``verified``: decoded before it is sent.
    """
    if isinstance(value, datetime):
        return _timestamp(value)
    if isinstance(value, set | frozenset):
        if in_set and not verified:
            raise _Doubtful
        elements = msgpack.packb(list(value), default=_pack_doubtful if verified else _pack_element)
        return msgpack.ExtType(_SET if isinstance(value, set) else _FROZENSET, elements)
    scalar = _scalar(value)
    if scalar is not None:
        return scalar
    # Only what has a hash can be a key or an element, where a map can't be read, and text may be there beside it.
    if not verified and type(value).__hash__ is not None:
        raise _Doubtful
    plain = plain_form(value)
    if isinstance(plain, dict | list | tuple):
        return plain
    # msgpack asks for the plain value once, so it has to know the type of this one.
    known = plain is None or isinstance(plain, str | bytes | float)
    known = known or (isinstance(plain, int) and -(2**63) <= plain < 2**64)
    return plain if known else _extension(plain, verified=verified, in_set=in_set)


def _scalar(value: Any) -> msgpack.ExtType | None:  # noqa: PLR0911 - one type a line
    if isinstance(value, int):
        return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, date):
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if isinstance(value, timedelta):
        return msgpack.ExtType(_TIMEDELTA, msgpack.packb((value.days, value.seconds, value.microseconds)))
    if isinstance(value, Decimal):
        return msgpack.ExtType(_DECIMAL, str(value).encode())
    if isinstance(value, UUID):
        return msgpack.ExtType(_UUID, value.bytes)
    if isinstance(value, time):
        return msgpack.ExtType(_TIME, _time_text(value).encode())
    return None


_pack_other = _extension
_pack_doubtful = partial(_extension, verified=True)
_pack_element = partial(_extension, in_set=True)


def _timestamp(value: datetime) -> msgpack.Timestamp:
    if value.tzinfo is None:
        raise TypeError(_NAIVE.format(value))
    since = value - _EPOCH
    seconds = since.days * 86400 + since.seconds
    if not _FIRST <= seconds <= _LAST:
        raise TypeError(f"{value!r} is out of the years 1 to 9999 in UTC, which has no such datetime")
    return msgpack.Timestamp(seconds, since.microseconds * 1000)


def _time_text(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise TypeError(f"the offset of {value!r} depends on the date; send a datetime, or the zone's name beside it")
    return value.isoformat()


def _unpack_extension(code: int, data: Any, read_set: Callable[[Any], set[Any]] | None = None) -> Any:  # noqa: PLR0911 - one type a line
    if code == _BIG_INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _DATE:
        return date.fromisoformat(str(data, "ascii"))
    if code == _TIMEDELTA:
        return timedelta(*_three_integers(data))
    if code == _DECIMAL:
        return Decimal(str(data, "ascii"))
    if code == _UUID:
        return UUID(bytes=bytes(data))
    if code in (_SET, _FROZENSET):
        elements = (read_set or _Reader(len(data), len(data)).elements)(data)
        return elements if code == _SET else frozenset(elements)
    if code == _TIME:
        return time.fromisoformat(str(data, "ascii"))
    raise ValueError(f"extension type {code} is not known here")


_three_integers = msgspec.msgpack.Decoder(tuple[int, int, int]).decode
_read = msgspec.msgpack.Decoder(ext_hook=_unpack_extension).decode


def _check_extension(code: int, data: Any) -> Any:
    """Do as `_unpack_extension`, in less time: what surely is an extension's payload is not read."""
    if code == _BIG_INT or (code == _UUID and len(data) == _UUID_SIZE):
        return None
    if code in (_SET, _FROZENSET):
        elements = _check(data)
        if type(elements) is list and not {list, dict} & set(map(type, elements)):
            return None
    return _unpack_extension(code, data)


_checker = msgspec.msgpack.Decoder(ext_hook=_check_extension).decode


def _check(body: Any, _limit: int = 0) -> Any:
    return _checker(body) if len(body) <= LARGE else _uncollected(_checker, body)


def _uncollected(read: Callable[..., Any], *args: Any) -> Any:
    """Read a large body without the garbage collector, which would look at all new values again and again."""
    # Off by the program's choice, or by another thread's, which ends it: a thread ends only what it has begun.
    if not gc.isenabled():
        return read(*args)
    thread = get_ident()
    _pausing.add(thread)
    gc.disable()
    try:
        return read(*args)
    finally:
        gc.enable()
        _pausing.discard(thread)


def _forked() -> None:
    if _pausing:
        _pausing.clear()
        gc.enable()


# Windows has no forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _unpack(body: bytes, limit: int) -> Any:
    _well_formed(body)
    # Only a map of 16 keys or more begins with these; other bytes may look the same.
    if len(body) > _SMALL and (b"\xde" in body or b"\xdf" in body or _is_heavy(body, limit)):
        return _Reader(len(body), limit).value(body)
    return _read(body)


def _unpack_unique(body: bytes, limit: int) -> Any:
    return _Reader(len(body), limit, unique=True).value(body)


def _is_heavy(body: bytes, limit: int) -> bool:
    """Return whether a body may have more values than its memory allows: those that begin with such bytes are fewer."""
    most = _memory(len(body), limit)
    if len(body) * (_A_MAP + _A_BYTE) <= most:
        return False
    values, end = _long_texts(body)
    rest = body[end:]
    heavy = values + len(rest) - len(rest.translate(None, _HEAVY))
    return heavy * _A_MAP + len(body) * _A_BYTE > most


def _long_texts(body: bytes) -> tuple[int, int]:
    """Return how many values there are from the beginning of a well-formed body, and how far they reach.

    It goes on while they are long, and up to the first extension, whose payload may be a set. A long text is one value,
    whatever its bytes look like; to search a picture for bytes of lists took ten times as long as to read it.
    """
    end = values = 0
    while end < len(body) and values < _FEW_VALUES + end // _LONG:
        first = body[end]
        if (width := _WIDTHS.get(first)) is not None:
            end += 1 + width + int.from_bytes(body[end + 1 : end + 1 + width], "big")
        elif (size := _SIZES.get(first)) is not None:
            end += size
        else:
            break
        values += 1
    return values, end


def _memory(size: int, limit: int) -> int:
    """Return the most bytes that the value of a body of that size may take."""
    return _COUNTED * min(max(limit, _LEAST_LIMIT), max(size, DEFAULT_MAX_MESSAGE_SIZE))


class _Reader:
    """Reads a well-formed body; counts the memory of its values, and checks the hashes of keys before a map is made.

    With ``unique``, keys of a map, and elements of a set, that become one on their way are an error.
    """

    __slots__ = ("_left", "_sets", "_unique")

    def __init__(self, size: int, limit: int, *, unique: bool = False) -> None:
        self._left = _memory(size, limit)
        self._unique = unique
        #: The sets around what is read now.
        self._sets = 0

    def value(self, body: Any) -> Any:
        """Return the value of a body, or the list of a set's elements."""
        # One list is made before it is counted, so its length has a limit.
        most = max(1, self._left // _AN_ITEM)
        return msgpack.unpackb(
            body,
            list_hook=self._list,
            object_pairs_hook=self._map,
            ext_hook=self._extension,
            timestamp=3,
            strict_map_key=False,
            max_array_len=most,
            max_map_len=most,
        )

    def elements(self, body: Any) -> set[Any]:
        """Return the elements of a set."""
        # Each set inside a set is one more recursion in C, and one more copy of its elements.
        if self._sets >= _DEEPEST_SETS:
            raise ValueError(f"sets are nested more than {_DEEPEST_SETS} deep")
        self._sets += 1
        _well_formed(body)
        elements = self.value(body)
        self._sets -= 1
        if not isinstance(elements, list):
            raise TypeError(f"a set is an array of its elements, not {type(elements).__name__}")
        self._spend(_A_MAP)
        if len(elements) > FEW_KEYS:
            check_hashes(elements)
        found = set(map(_key, elements))
        self._check_unique(len(elements), len(found))
        return found

    def _spend(self, memory: int) -> None:
        self._left -= memory
        if self._left < 0:
            raise ValueError(_TOO_MANY)

    def _extension(self, code: int, data: Any) -> Any:
        self._spend(_AN_EXTENSION)
        return _unpack_extension(code, data, self.elements)

    def _list(self, items: list[Any]) -> list[Any]:
        self._spend(_A_LIST + _AN_ITEM * len(items))
        return items

    def _map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self._spend(_A_MAP + 2 * _AN_ITEM * max(0, len(pairs) - 3))
        if len(pairs) > FEW_KEYS:
            check_hashes([key for key, _ in pairs])
        try:
            found = dict(pairs)
        except TypeError:
            found = {_key(key): item for key, item in pairs}
        self._check_unique(len(pairs), len(found))
        return found

    def _check_unique(self, sent: int, arrived: int) -> None:
        if self._unique and arrived < sent:
            raise ValueError("two keys of a map, or elements of a set, are one once they have arrived")


def _key(value: Any, around: int = 0) -> Any:
    """Return a key of a map, or an element of a set: an array there was a tuple."""
    if type(value) is not list:
        return value
    if around >= _DEEPEST_KEY:
        raise ValueError(f"a key of a map, or an element of a set, is nested more than {_DEEPEST_KEY} deep")
    return tuple([_key(each, around + 1) for each in value])


def check_hashes(keys: Sequence[Any]) -> None:
    """Raise `ValueError` for keys of a map, or elements of a set, whose hashes would keep it from being made soon."""
    kinds = set(map(type, keys))
    if kinds <= _SALTED:
        return
    hashes = list(map(hash, map(_key, keys) if list in kinds else keys))
    made: Any
    for made in set(), {}:
        # Different hashes may be chosen to meet on their way through a table. No processor needs so long for others.
        until = thread_time() + _LONGEST_CHECK + _LONGEST_KEY * len(keys)
        for start in range(0, len(hashes), _SLICE):
            part = hashes[start : start + _SLICE]
            made.update(part if isinstance(made, set) else zip(part, part, strict=True))
            if thread_time() > until:
                raise ValueError("the keys of a map, or the elements of a set, take too long: their hashes collide")
        shared = len(keys) - len(made)
        if shared > FEW_KEYS:
            raise ValueError(f"{shared} of {len(keys)} keys of a map, or elements of a set, have the hashes of others")
        if len(keys) <= _SLICE:
            return


def _check_json(body: bytes, limit: int) -> None:
    """Raise `ValueError` if the values of a body in JSON take more memory than they may."""
    most = _memory(len(body), limit)
    if len(body) * (_A_MAP // 2) <= most or _json_memory(body) <= most:
        return
    # Without the text, which may have these marks too.
    if _json_memory(_JSON_STRING.sub(b"", body)) + 4 * len(body) > most:
        raise ValueError(_TOO_MANY)


def _json_memory(body: bytes) -> int:
    # A text with one character of an unusual script takes four bytes for each character.
    lists, maps = body.count(b"["), body.count(b"{")
    return 4 * len(body) + _AN_ITEM * body.count(b",") + _A_LIST * lists + _A_MAP * maps


def _json(value: object, limit: int) -> bytes:
    text = _to_json(value)
    # A key that is no text becomes text, and may be that of another key then.
    if _made_key_in(text) is not None:
        json.loads(text, object_pairs_hook=_unique_keys)
    body = text.encode()
    if len(body) <= limit:
        _check_json(body, limit)
    return body


def _unique_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("two keys of a map are one as text")


def _plain(value: Any) -> Any:
    """Return the plain value for a type that JSON does not know."""
    if isinstance(value, datetime) and value.tzinfo is None:
        raise TypeError(_NAIVE.format(value))
    if isinstance(value, time):
        return _time_text(value)
    if isinstance(value, date | timedelta | Decimal | UUID | bytes | bytearray | memoryview):
        return msgspec.to_builtins(value)
    if isinstance(value, set | frozenset):
        return list(value)
    return plain_form(value, in_json=True)


#: NaN and infinity are no JSON: readers in other languages would fail.
_to_json = json.JSONEncoder(default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _reason(error: Exception) -> str:
    return text_of(error) or type(error).__name__
