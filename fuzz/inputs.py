"""Bodies, properties and frames, made of choices: well formed in most places, and odd in some."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack

from amqp_rpc.message.envelope import Properties
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
    "nope", "", None, b"\xff",
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


def _short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _table(draw: Draw, depth: int = 0) -> bytes:
    out = b""
    for _ in range(draw.number(3)):
        kind = draw.one(b"SStIlIlTFADdfbBuUiLVxsZ\x00")
        match chr(kind):
            case "S":
                text = draw.octets(draw.number(5))
                value = struct.pack(">I", len(text)) + text
            case "F":
                value = _table(draw, depth + 1) if depth <= _DEEPEST else bytes(4)
            case "A":
                value = bytes(4)
            case "t":
                value = draw.octets(1)
            case "I":
                value = draw.octets(4)
            case "l" | "T" | "d":
                value = draw.octets(8)
            case "D":
                value = draw.octets(5)
            case _:
                value = draw.octets(draw.number(8))
        out += _short(draw.one((b"alive", b"deadline", b"\xff", b"a" * 200, b"x-death"))) + bytes([kind]) + value
    return struct.pack(">I", len(out)) + out


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame of AMQP 0-9-1 (section 2.3.5 of its specification)."""
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + b"\xce"


def content_header(draw: Draw, channel: int, size: int) -> bytes:
    """Return a content header's frame with any properties."""
    flags = draw.number(65535)
    if draw.chance(90):
        flags &= 0xFFFC
    values = b""
    for bit in range(15, 1, -1):
        if flags >> bit & 1:
            if bit == 13:  # noqa: PLR2004 - the headers' bit
                values += _table(draw)
            elif bit in (12, 11):  # delivery mode and priority: one octet
                values += draw.octets(1).ljust(1, b"\0")
            elif bit == 6:  # noqa: PLR2004 - the timestamp's bit
                values += draw.octets(8).ljust(8, b"\0")
            else:
                values += _short(draw.one((b"", b"abc", b"\xff\xfe", b"x" * 255)))
    return frame(2, channel, struct.pack(">HHQH", 60, 0, size, flags) + values)


def delivery(draw: Draw) -> bytes:
    """Return a delivery: its method, its header and its body, whose size may not be the one that it says."""
    channel, size = draw.one((1, 1, 1, 2, 3)), draw.one((0, 1, 5, 100))
    content = draw.octets(size)
    tag = _short(draw.one((b"ctag", b"ctag", b"addr", b"nope")))
    names = _short(draw.one((b"", b"amqp_rpc.events", b"\xff"))) + _short(draw.one((b"q", b"\xff", b"r" * 255)))
    method = struct.pack(">HH", 60, 60) + tag + draw.octets(8).ljust(8, b"\0") + bytes([draw.number(3)]) + names
    said = draw.one((len(content), len(content), len(content), 2**64 - 1, len(content) + 3, max(0, len(content) - 1)))
    parts = [frame(1, channel, method), content_header(draw, channel, said)]
    while content:
        cut = 1 + draw.number(len(content) - 1)
        parts.append(frame(3, channel, content[:cut]))
        content = content[cut:]
    if draw.chance(10):
        parts.reverse()
    return b"".join(parts)


def _other_frame(draw: Draw) -> bytes:
    match draw.number(5):
        case 0:
            return frame(8, 0, b"")
        case 1:
            confirm = struct.pack(">HHQB", 60, draw.one((80, 120)), draw.number(2**63), draw.number(255))
            return frame(1, draw.one((1, 2)), confirm)
        case 2:
            return frame(draw.number(255), draw.number(65535), draw.octets(draw.number(20)))
        case 3:
            return b"AMQP\0\0\x09\1"
        case 4:
            return draw.octets(draw.number(30))
    return struct.pack(">BHL", draw.one((1, 2, 3)), 1, draw.number(2**32 - 1))


def frames(draw: Draw) -> tuple[bytes, bool]:
    """Return what a peer may send, and whether it is deliveries and nothing else."""
    clean = not draw.chance(50)
    parts = [delivery(draw) if clean or draw.chance(70) else _other_frame(draw) for _ in range(1 + draw.number(3))]
    data = b"".join(parts)
    if not clean and draw.chance(70):
        data = mutated(draw, data)
    return data, clean
