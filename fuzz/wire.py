"""Frames as a broker sends them, and as none does: deliveries with any properties, and a session with one fault."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pika.frame
from pika import spec

from fuzz.draw import Draw
from fuzz.inputs import mutated

_DEEPEST = 6


def _short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _table(draw: Draw, depth: int = 0) -> bytes:
    out = b""
    for _ in range(draw.number(3)):
        kind = draw.one(b"SStIl") if draw.chance(60) else draw.one(b"TFADdfbBuUiLVxsZ\x00")
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
    if draw.chance(70):
        # Without a user's id and a cluster's, which only pika reads.
        flags &= 0xFFEB
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


def delivery(draw: Draw, tags: tuple[bytes, ...] = (b"ctag", b"ctag", b"addr", b"nope")) -> bytes:
    """Return a delivery: its method, its header and its body, whose size may not be the one that it says."""
    channel, size = draw.one((1, 1, 1, 2, 3)), draw.one((0, 1, 5, 100))
    content = draw.octets(size)
    tag = _short(draw.one(tags))
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
    """Return the bytes of a peer, and whether they are deliveries and nothing else."""
    clean = not draw.chance(50)
    parts = [delivery(draw) if clean or draw.chance(70) else _other_frame(draw) for _ in range(1 + draw.number(3))]
    data = b"".join(parts)
    if not clean and draw.chance(70):
        data = mutated(draw, data)
    return data, clean


#: The first frames of a broker, up to the consumer's; each comes once the client has asked.
_SERVER = {"product": "RabbitMQ", "version": "4.3.1", "capabilities": {"publisher_confirms": True, "basic.nack": True}}
_START = (
    (0, spec.Connection.Start(0, 9, _SERVER, b"PLAIN AMQPLAIN", b"en_US")),
    (0, spec.Connection.Tune(2047, 131_072, 60)),
    (0, spec.Connection.OpenOk()),
    (1, spec.Channel.OpenOk()),
    (1, spec.Confirm.SelectOk()),
    (1, spec.Queue.DeclareOk("q", 3, 1)),
)
#: Later frames, in any order.
_LATER = (
    (1, spec.Basic.Ack(1, False)), (1, spec.Basic.Nack(1, True, False)), (1, spec.Basic.Cancel("ctag", True)),
    (1, spec.Channel.Close(404, "NOT_FOUND - no queue 'q'", 60, 20)), (1, spec.Channel.CloseOk()),
    (1, spec.Channel.Flow(False)), (1, spec.Queue.DeclareOk("q", 0, 0)), (1, spec.Channel.OpenOk()),
    (0, spec.Connection.Close(320, "CONNECTION_FORCED", 0, 0)), (0, spec.Connection.CloseOk()),
    (0, spec.Connection.Blocked("memory")), (0, spec.Connection.Unblocked()), (0, spec.Connection.Tune(0, 0, 0)),
    (0, spec.Connection.Close(530, "NOT_ALLOWED - vhost x not found", 10, 40)), (2, spec.Basic.ConsumeOk("nope")),
    (0, spec.Connection.OpenOk()), (1, spec.Basic.Qos(0, 1, False)), (9, spec.Channel.OpenOk()),
)  # fmt: skip


def _written(channel: int, method: Any) -> bytes:
    return bytes(pika.frame.Method(channel, method).marshal())


_START_FRAMES = tuple(_written(*each) for each in _START)
_LATER_FRAMES = tuple(_written(*each) for each in _LATER)
_RETURNED = _written(1, spec.Basic.Return(312, "NO_ROUTE", "", "q"))


def session(draw: Draw, tag: Callable[[], str | None]) -> list[Callable[[], bytes]]:
    """Return the frames of a broker, one after another; one of them may be mutated, missing, repeated or another.

    Args:
        draw: The choices.
        tag: Returns the tag of the client's consumer, once it has one.
    """

    def consumed() -> bytes:
        return _written(1, spec.Basic.ConsumeOk(tag() or "none"))

    def delivered() -> bytes:
        return delivery(draw, ((tag() or "none").encode(),) * 3 + (b"nope",))

    def later() -> bytes:
        return draw.one(_LATER_FRAMES)

    def returned() -> bytes:
        return _RETURNED + content_header(draw, 1, 0)

    frames: list[Callable[[], bytes]] = [*((lambda each=each: each) for each in _START_FRAMES), consumed]
    frames += [draw.one((delivered, delivered, later, returned)) for _ in range(draw.number(5))]
    if not draw.chance(60):
        return frames
    at = draw.number(len(frames) - 1)
    right = frames[at]
    match draw.number(4):
        case 0:
            del frames[at]
        case 1:
            frames.insert(at, right)
        case 2:
            frames[at] = later
        case 3:
            frames.insert(at, lambda: _other_frame(draw))
        case _:
            frames[at] = lambda: mutated(draw, right())
    return frames
