"""Values to bytes and back, in msgpack, JSON or text; the only importer of msgpack. Decoding never runs code.

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
======  ============================  =========================================

In JSON the same values have the form that people write by hand: ISO 8601 text, the number's text, a list. Dataclasses,
enums and named tuples travel as maps, values and lists in both, and are rebuilt from the receiver's type hints.
Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal, get_args
from uuid import UUID

import msgpack
import msgspec

from amqp_rpc.errors import ConfigurationError, MessageTooLarge, Undecodable, Unencodable
from amqp_rpc.message.text import brief, text_of

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
TEXT: Final = "text/plain"

#: The types of a body that a client can be told to send.
ContentType = Literal["application/msgpack", "application/json", "text/plain"]

#: Content encodings that change no byte.
PLAIN: Final = frozenset({None, "", "utf-8", "UTF-8", "binary", "identity"})

_BIG_INT, _DATE, _TIMEDELTA, _DECIMAL, _UUID, _SET, _FROZENSET = range(1, 8)

#: Sets inside of sets that a body may have.
_DEEPEST_SETS = 8

#: Reads a whole body in C and builds nothing: an array that declares a billion elements, or is nested 100 000 deep,
#: fails here, before msgpack reserves memory for it.
_well_formed = msgspec.msgpack.Decoder(msgspec.Raw).decode


def base_type(content_type: str | None) -> str:
    """Return a content type without its parameters; none means text, as in every RabbitMQ tutorial."""
    return content_type.partition(";")[0].strip().lower() if content_type else TEXT


def check_content_type(content_type: str | None) -> None:
    """Raise `ConfigurationError` unless a content type is one that a client can send, or None."""
    if content_type is not None and content_type not in get_args(ContentType):
        raise ConfigurationError(f"content_type is one of {', '.join(get_args(ContentType))}, not {content_type!r}")


def encode_text_call(function: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, limit: int) -> bytes:
    """Return the body of a call, or a task, that goes as text: its one argument, a text or a number.

    Raises:
        Unencodable: There are no arguments, or several, or the one is of another type.
        MessageTooLarge: As `encode`.
    """
    match args:
        case [str() | int() | float() | Decimal() as value] if not kwargs and not isinstance(value, bool):
            return encode(value, TEXT, limit=limit)
    given = ", ".join([*(brief(each) for each in args), *(f"{name}={brief(each)}" for name, each in kwargs.items())])
    raise Unencodable(
        f"cannot send {function}({given}) as {TEXT}: that takes one positional argument, which is text or a number; "
        f"give content_type={JSON!r} for others, where the receiver reads it"
    )


def encode(value: object, content_type: str, *, limit: int) -> bytes:
    """Return the bytes of a value: None, numbers, text, bytes, lists, maps, and the types in this module's table.

    Raises:
        Unencodable: A part of the value has no form on the wire.
        MessageTooLarge: The body has more bytes than ``limit``.
    """
    try:
        if content_type == MSGPACK:
            body: bytes = msgpack.packb(value, default=_pack_other, datetime=True)
        elif content_type == JSON:
            body = _to_json(value).encode()
        else:
            body = str(value).encode()
    # The value is a user's, and its code may raise anything.
    except Exception as error:
        raise Unencodable(f"cannot send {brief(value)}: {text_of(error)}") from error
    if len(body) > limit:
        raise MessageTooLarge(f"the body has {len(body)} bytes, and the limit is {limit} (max_message_size)")
    return body


def decode(body: bytes, content_type: str, *, limit: int) -> Any:
    """Return the value of a body; the content type is one that `base_type` returns.

    Raises:
        Undecodable: The bytes don't have the content type, or it is an unknown one.
        MessageTooLarge: The body has more bytes than ``limit``.
    """
    if len(body) > limit:
        raise MessageTooLarge(f"the body has {len(body)} bytes, and the limit is {limit} (max_message_size)")
    try:
        if content_type == MSGPACK:
            _well_formed(body)
            return msgpack.unpackb(body, ext_hook=_unpack_extension, timestamp=3, strict_map_key=False)
        if content_type == JSON:
            return json.loads(body)
        if content_type == TEXT:
            return body.decode()
    # The body is another program's: an exception of a decoder must not reach the server's loop.
    except Exception as error:
        raise Undecodable(f"the body ({len(body)} bytes) is not {content_type}: {_reason(error)}") from error
    raise Undecodable(f"content type {content_type!r} is not known here; send {MSGPACK}, {JSON} or {TEXT}")


def _pack_other(value: Any) -> Any:  # noqa: PLR0911 - one type a line
    """Return the extension or the plain value for a type that msgpack does not know."""
    if isinstance(value, int):
        return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, datetime):
        raise TypeError(f"a datetime without a time zone is ambiguous: {value!r}; give it tzinfo")
    if isinstance(value, date):
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if isinstance(value, timedelta):
        return msgpack.ExtType(_TIMEDELTA, msgpack.packb((value.days, value.seconds, value.microseconds)))
    if isinstance(value, Decimal):
        return msgpack.ExtType(_DECIMAL, str(value).encode())
    if isinstance(value, UUID):
        return msgpack.ExtType(_UUID, value.bytes)
    if isinstance(value, set | frozenset):
        code = _SET if isinstance(value, set) else _FROZENSET
        return msgpack.ExtType(code, msgpack.packb(list(value), default=_pack_other, datetime=True))
    return _structure(value)


def _unpack_extension(code: int, data: bytes, sets_around: int = 0) -> Any:
    if code == _BIG_INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _DATE:
        return date.fromisoformat(data.decode())
    if code == _TIMEDELTA:
        return timedelta(*msgpack.unpackb(data))
    if code == _DECIMAL:
        return Decimal(data.decode())
    if code == _UUID:
        return UUID(bytes=data)
    if code in (_SET, _FROZENSET):
        # Each set inside a set is one more recursion in C, and one more copy of its elements.
        if sets_around >= _DEEPEST_SETS:
            raise ValueError(f"sets are nested more than {_DEEPEST_SETS} deep")
        _well_formed(data)
        hook = partial(_unpack_extension, sets_around=sets_around + 1)
        # Elements must be hashable, and a list inside a set can only have been a tuple.
        items = msgpack.unpackb(data, ext_hook=hook, timestamp=3, strict_map_key=False, use_list=False)
        return set(items) if code == _SET else frozenset(items)
    raise ValueError(f"extension type {code} is not known here")


def _plain(value: Any) -> Any:
    """Return the plain value for a type that JSON does not know."""
    if isinstance(value, datetime) and value.tzinfo is None:
        raise TypeError(f"a datetime without a time zone is ambiguous: {value!r}; give it tzinfo")
    if isinstance(value, date | timedelta | Decimal | UUID | bytes):
        return msgspec.to_builtins(value)
    if isinstance(value, set | frozenset):
        return list(value)
    return _structure(value)


def _structure(value: Any) -> Any:
    """Return the map or value of a dataclass, an enum's member or a msgspec Struct."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    raise TypeError(f"{type(value).__qualname__} has no form on the wire")


#: NaN and infinity are no JSON: readers in other languages would fail.
_to_json = json.JSONEncoder(default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _reason(error: Exception) -> str:
    return text_of(error) or type(error).__name__
