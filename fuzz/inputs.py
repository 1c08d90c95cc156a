"""Bodies, properties and whole messages, made of choices: well formed in most places, and odd in some."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack

from amqp_rpc.errors import FunctionNotFound, InvalidArguments
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.failures import describe_raised, describe_verdict
from fuzz.draw import Draw

#: Texts that a careless reader of numbers, times or terminals stumbles over.
TEXTS = (
    "", "a", "x", "id", "NaN", "sNaN", "-Infinity", "1E+999999999", "1e400", "0" * 50, "9" * 5000, "\0", "2026-01-31",
    "9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00+14:00", "P1D", "-P9999999999D", "\u202e", "x" * 300,
    "red", "1_0", " 5 ", "0x10", "true", "a\r\nb\x1b[31m", "\u0663",
)  # fmt: skip
#: The names of the functions that `fuzz.targets` serves, one for each kind of hint; and others.
FUNCTIONS = (
    "integer", "number", "text", "octets", "flag", "decimal", "date", "moment", "span", "identity", "integers",
    "numbers", "names", "table", "order", "colour", "pair", "maybe", "either", "anything", "twice", "coroutine",
    "raises", "nope", "", None, b"\xff",
)  # fmt: skip
_HEADERS = (
    "deadline", "attempt", "idempotent", "crashes", "alive", "chunk", "tick", "schedule", "history", "reason", "queue",
    "died", "traceback", "error", "x-death", "x-delivery-count", "amqp_rpc.topic", "CC", "BCC", "zzz",
)  # fmt: skip
_DEEPEST = 6
#: Two to the power of 61, less 1: Python's hashes of integers are the rest after a division by it.
_MODULUS = 2**61 - 1


def _extension(code: int, data: bytes) -> bytes:
    return b"\xc9" + struct.pack(">Ib", len(data), code) + data


def _array(items: list[bytes]) -> bytes:
    return b"\xdd" + struct.pack(">I", len(items)) + b"".join(items)


def _text(text: bytes) -> bytes:
    return b"\xdb" + struct.pack(">I", len(text)) + text


def packed(draw: Draw, depth: int = 0) -> bytes:  # noqa: C901, PLR0911, PLR0912 - one kind of value a line
    """Return a value in MessagePack, some of them of our extension types, some broken."""
    match draw.number(15 if depth > _DEEPEST else 22):
        case 0:
            return b"\xc0"
        case 1:
            return draw.one((b"\xc2", b"\xc3"))
        case 2 | 3:
            return struct.pack("B", draw.number(127))
        case 4:
            return b"\xd3" + draw.octets(8)
        case 5:
            return b"\xcb" + struct.pack(">d", draw.one((draw.double(), float("nan"), float("inf"), -0.0, 1e308)))
        case 6:
            return _text(draw.one(TEXTS).encode())
        case 7:
            return _text(draw.octets(draw.number(20)))
        case 8:
            data = draw.octets(draw.number(40))
            return b"\xc6" + struct.pack(">I", len(data)) + data
        case 9:
            return _extension(1, draw.octets(draw.one((0, 1, 8, 9, 16, 300, 2000))))
        case 10:
            return _extension(draw.one((2, 4)), draw.one(TEXTS).encode())
        case 11:
            return _extension(3, msgpack.packb([draw.one((0, 10**9, -(10**12), 2**62, 1.5, "x", None))] * 3))
        case 12:
            return _extension(5, draw.octets(draw.one((16, 16, 0, 15, 17))))
        case 13:
            return _extension(-1, draw.octets(draw.one((4, 8, 12, 0, 3, 13))))
        case 14:
            return _extension(draw.number(255) - 128, draw.octets(draw.number(12)))
        case 15:
            return b"\xd7\xff" + draw.octets(8)
        case 16:
            # Numbers whose hashes are all alike.
            same = [_extension(1, (k * _MODULUS << 8).to_bytes(12, "big")) for k in range(1, 2 + draw.number(200))]
            return _extension(draw.one((6, 7)), _array(same))
        case 17 | 18:
            return _extension(draw.one((6, 7)), packed(draw, depth + 1))
        case 19 | 20 | 21:
            return _array([packed(draw, depth + 1) for _ in range(draw.number(4))])
    count = draw.number(4)
    return b"\xdf" + struct.pack(">I", count) + b"".join(packed(draw, depth + 1) for _ in range(2 * count))


def written(draw: Draw, depth: int = 0) -> str:
    """Return a value in JSON, some of it beyond the standard."""
    match draw.number(3 if depth > _DEEPEST else 9):
        case 0:
            return draw.one(("null", "true", "NaN", "-Infinity", "1e999", "-0", "1E400", "9" * 4301, "0.1e-500"))
        case 1:
            return json.dumps(draw.one(TEXTS))
        case 2:
            return draw.one(('"\\ud800"', '"\\u0000"', '"\\udfff\\ud800"'))
        case 3:
            return str(int.from_bytes(draw.octets(9), "big", signed=True))
        case 4 | 5 | 6:
            return f"[{','.join(written(draw, depth + 1) for _ in range(draw.number(3)))}]"
    names = (json.dumps(draw.one(("a", "b", "id", "x", "what", "parts", "when"))) for _ in range(draw.number(3)))
    return "{" + ",".join(f"{name}:{written(draw, depth + 1)}" for name in names) + "}"


def packed_call(draw: Draw) -> bytes:
    """Return the positional and the named arguments of a call, in MessagePack."""
    positional = b"\x91" + packed(draw, 1) if draw.chance(80) else _array([packed(draw, 1), packed(draw, 1)])
    if draw.chance(70):
        return b"\x92" + positional + b"\x80"
    return b"\x92" + positional + b"\x81" + draw.one((b"\xa1x", b"\xa1y", b"\x05")) + packed(draw, 2)


def body(draw: Draw) -> bytes:
    """Return a body: a call, a chunk of calls, a value, in MessagePack or JSON; a third of them are mutated."""
    if draw.chance(30):
        made = draw.one(GOOD[draw.one(_GOOD_NAMES)])
        return mutated(draw, made) if draw.chance(50) else made
    match draw.number(7):
        case 0 | 1 | 2 | 3:
            made = packed_call(draw)
        case 4:
            made = _array([packed_call(draw) for _ in range(draw.number(3))])
        case 5:
            made = packed(draw)
        case 6:
            made = f"[[{written(draw)}],{{}}]".encode()
        case _:
            made = written(draw).encode()
    return mutated(draw, made) if draw.chance(30) else made


def mutated(draw: Draw, data: bytes) -> bytes:
    """Return the bytes with some of them changed, removed, added or repeated."""
    new = bytearray(data)
    for _ in range(1 + draw.number(4)):
        if not new:
            break
        at = draw.number(len(new) - 1)
        match draw.number(3):
            case 0:
                new[at] = draw.number(255)
            case 1:
                del new[at : at + 1 + draw.number(4)]
            case 2:
                new[at:at] = draw.octets(1 + draw.number(4))
            case _:
                new[at:at] = new[at : at + 1 + draw.number(28)]
    return bytes(new)


def _header(draw: Draw) -> Any:
    return draw.one(
        (
            None, True, 0, 1, 5, -1, 2**31, 2**62, -(2**63), 1.5, float("nan"), float("inf"), "1", "no", "", b"\xff",
            {}, {"a": {"b": 1}}, [], [1, "x"], Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, tzinfo=UTC), "x" * 300, "a\nb\x1b[31m",
        )
    )  # fmt: skip


def properties(draw: Draw) -> Properties:
    """Return the properties of a message, with headers of ours of all types."""
    headers: dict[str, Any] | None = {draw.one(_HEADERS): _header(draw) for _ in range(draw.number(5))}
    assert headers is not None
    if draw.chance(20):
        headers["chunk"] = True
    if draw.chance(20):
        headers["history"] = draw.one(
            (written(draw), "[" * 2000, '[{"died":1e400,"reason":[],"attempt":NaN}]', '[{"died":99999999999999999999}]')
        )
    any_of: Any = draw.one
    return Properties(
        content_type=any_of(
            ("application/msgpack", None, "application/msgpack", "application/json", "text/plain",
             "application/JSON; x=y", "application/octet-stream", "x/y", "", b"\xff")
        ),
        content_encoding=any_of((None, None, None, "utf-8", "gzip", b"\xfe")),
        headers=headers if draw.chance(75) else None,
        delivery_mode=any_of((None, 1, 2, 77)),
        priority=any_of((None, 0, 255)),
        correlation_id=any_of((None, "c", b"\xff", "x" * 255)),
        reply_to=any_of((None, "r", "rpc_queue", "amq.rabbitmq.reply-to.x", b"\xff", "")),
        expiration=any_of((None, "1", "x")),
        message_id=any_of((None, "m", b"\xfe", "m" * 255, "a\nb")),
        timestamp=any_of((None, 0, 2**63, -5, 10**12)),
        type=any_of(FUNCTIONS),
        app_id=any_of((None, "a", "amqp_rpc")),
    )  # fmt: skip


# Right messages that are changed in a few places: they get past the first check.


def _encoded(*values: Any) -> tuple[bytes, ...]:
    return tuple(codec.encode(value, MSGPACK, limit=1 << 20) for value in values)


#: Values that fit the hint of each function of `fuzz.targets`, as they are sent.
GOOD: Mapping[str, tuple[bytes, ...]] = {
    "integer": _encoded(0, -1, 2**63, 10**30),
    "number": _encoded(1, 0.5, float("inf")),
    "text": _encoded("", "a", "é" * 20),
    "octets": _encoded(b"", b"\xff" * 20),
    "flag": _encoded(True, False),
    "decimal": _encoded(Decimal("1.50"), Decimal("NaN")),
    "date": _encoded(date(2026, 1, 31)),
    "moment": _encoded(datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)),
    "span": _encoded(timedelta(days=-1, microseconds=1)),
    "identity": _encoded(UUID(int=7)),
    "integers": _encoded({1, 2**40}, set()),
    "numbers": _encoded([], [1.5, 2]),
    "names": _encoded(frozenset({"a", "b"})),
    "table": _encoded({"a": 1}, {"a": 1, "b": "x"}),
    "order": _encoded(
        {"id": 1}, {"id": 1, "what": "y", "when": datetime(2026, 1, 1, tzinfo=UTC), "parts": [{"id": 2}]}
    ),
    "colour": _encoded("red", "2"),
    "pair": _encoded((1, "a")),
    "maybe": _encoded(None, 5),
    "either": _encoded(5, "5"),
    "anything": _encoded([{"a": [1, b"x", {2}]}], None),
    "twice": _encoded(2, 2**62),
    "coroutine": _encoded(3),
    "raises": _encoded(0, 1, 2, 3, 4, 5, 6),
}
_GOOD_NAMES = tuple(GOOD)
_ARRAY_OF_2, _NO_NAMED = b"\x92", b"\x80"


def request(draw: Draw, *, chunks: bool = False) -> tuple[Properties, bytes]:
    """Return the properties and the body of a call or a task: a right one, changed in a few places, or any."""
    if draw.chance(25):
        return properties(draw), body(draw)
    name = draw.one(_GOOD_NAMES)
    called = _ARRAY_OF_2 + b"\x91" + draw.one(GOOD[name]) + _NO_NAMED
    headers: dict[str, Any] = {"deadline": "99999999999999", "alive": True, "attempt": 1 + draw.number(2)}
    if chunks and draw.chance(15):
        headers["chunk"] = True
        called = _array([called] * draw.number(3))
    found = Properties(
        content_type=MSGPACK,
        headers=headers,
        correlation_id="c",
        reply_to="amq.gen-x",
        message_id="m",
        timestamp=10**9,
        type=name,
        app_id="amqp_rpc",
    )
    return _changed(draw, found), mutated(draw, called) if draw.chance(35) else called


def _changed(draw: Draw, found: Properties) -> Properties:
    """Return properties with some of them, and some of their headers, replaced."""
    if draw.chance(40):
        others = properties(draw)
        for name in draw.some(Properties.__slots__, 3):
            if name != "headers":
                setattr(found, name, getattr(others, name))
        if draw.chance(50):
            found.headers = {**(found.headers or {}), **(others.headers or {})}
    return found


def event(draw: Draw) -> tuple[Properties, bytes]:
    """Return the properties and the body of an event."""
    if draw.chance(25):
        return properties(draw), body(draw)
    payload = draw.one((*GOOD["order"], *GOOD["either"], *GOOD["anything"]))
    headers = {"tenant": "a", "attempt": 1 + draw.number(1)}
    found = Properties(content_type=MSGPACK, headers=headers, message_id="m", timestamp=10**9, type="event")
    return _changed(draw, found), mutated(draw, payload) if draw.chance(35) else payload


_DIED: dict[str, Any] = {
    "reason": "ValueError: no", "died": 1_760_000_000_000, "queue": "q", "traceback": "Traceback:\n  x\n", "attempt": 3,
    "crashes": 1, "error": "no", "history": '[{"died": 1759000000000, "reason": "x", "attempt": 1}]',
}  # fmt: skip


def letter(draw: Draw) -> tuple[Properties, bytes]:
    """Return the properties and the body of a dead letter."""
    found, body_ = request(draw)
    if draw.chance(80):
        died = dict(_DIED)
        for name in draw.some(tuple(_DIED), 2):
            if draw.chance(60):
                del died[name]
            else:
                died[name] = _header(draw)
        found.headers = {**(found.headers or {}), **died}
    return found, body_


def _raised() -> dict[str, Any]:
    error = OSError(2, "no such file", "a\nb")
    error.__cause__ = LookupError("x")
    error.add_note("a note")
    return describe_raised(ExceptionGroup("two", [error, ValueError(1, {2})]), traceback="Traceback:\n  x\n")


_ERRORS = _encoded(
    _raised(),
    describe_verdict(FunctionNotFound("no such function")),
    describe_verdict(InvalidArguments("no"), ran=True, earlier=True),
    describe_raised(KeyError("k"), traceback=None) | {"type": "shop.Closed"},
)


def reply(draw: Draw, name: str) -> tuple[Properties, bytes, bool]:
    """Return the properties and the body of a reply of a function, and whether it is one to a chunk of calls."""
    if draw.chance(20):
        found = Properties(
            content_type=draw.one((MSGPACK, JSON, TEXT, None)),
            type=draw.one(("result", "error", "results", "alive", None, "x")),
        )
        return found, body(draw), draw.chance(30)
    good = draw.one(GOOD.get(name) or GOOD["anything"])
    kind = draw.one(("result", "error", "results"))
    if kind == "results":
        ends = (b"\x92\xc3" + good, *(b"\x92\xc2" + error for error in _ERRORS))
        good = _array([draw.one(ends) for _ in range(draw.number(3))])
    elif kind == "error":
        good = draw.one(_ERRORS)
    found = Properties(content_type=MSGPACK, headers={"alive": True}, correlation_id="c", type=kind, app_id="amqp_rpc")
    return _changed(draw, found), mutated(draw, good) if draw.chance(50) else good, kind == "results"


def record(draw: Draw) -> bytes:
    """Return a record of a task, as a store keeps it."""
    values = [
        b"\xa1m", b"\xa1f", draw.one(_encoded("STARTED", "RETRY", "SUCCESS", "FAILURE", "PENDING", "x")), b"\xa1f",
        b"\xa1q", b"\x01", _NUMBER, draw.one((_NUMBER, b"\xc0")), b"\xc0", draw.one((b"\xc0", b"\xa1e")),
        draw.one(_encoded("result", "error", None)), draw.one(_encoded(MSGPACK, None)),
        draw.one((b"\xc4\x01\x01", b"\xc0")),
    ]  # fmt: skip
    if draw.chance(40):
        values[draw.number(len(values) - 1)] = packed(draw)
    made = b"\x9d" + b"".join(values)
    return mutated(draw, made) if draw.chance(20) else made


_NUMBER = b"\xcb" + struct.pack(">d", 1.76e9)


#: Now, for the tokens of schedules: the same input reads the same tomorrow.
NOW = 1_760_000_600_000


def token(draw: Draw) -> bytes:
    """Return the body of a token of schedules."""
    names = draw.some(("fuzz: every 60 s", "fuzz: cron", "other", "\u202e", "x" * 300), 3)
    moments = (
        f"{NOW - 60_000}", f"{NOW - 400_000}", f"{NOW}", f"{NOW + 100}", "0", "-1", "1e400", "NaN", '"5"', "null", "[]",
        "99999999999999", f"{NOW}.5",
    )  # fmt: skip
    dealt = ",".join(f"{json.dumps(name)}:{draw.one(moments)}" for name in names)
    made = f'{{"dealt":{{{dealt}}}}}'.encode()
    return mutated(draw, made) if draw.chance(20) else made


def bindings(draw: Draw) -> bytes:
    """Return the record of a queue's bindings."""
    each = [
        f'{{"exchange":{_of(draw, ("amqp_rpc.events", "e", "", "x" * 256))},'
        f'"key":{_of(draw, ("a.#", "*", "a.b", "", "a" * 256))},"arguments":{_arguments(draw)}}}'
        for _ in range(draw.number(3))
    ]
    made = f"[{','.join(each)}]".encode()
    return mutated(draw, made) if draw.chance(20) else made


def _of(draw: Draw, texts: tuple[str, ...]) -> str:
    return written(draw) if draw.chance(20) else json.dumps(draw.one(texts))


def _arguments(draw: Draw) -> str:
    return written(draw) if draw.chance(20) else draw.one(("{}", "{}", '{"x-match":"all","a":1}', "null"))


def names(draw: Draw) -> bytes:
    """Return a list of ids in MessagePack, as receipts and liveness messages have them."""
    each = [_text(draw.one(("m", "token-0-x", "-", "t-ffff-\u0663", *TEXTS)).encode()) for _ in range(draw.number(4))]
    made = _array(each)
    return mutated(draw, made) if draw.chance(30) else made
