"""AMQP's frames of messages, written: the bytes of publish and ack. Pure; `deliveries` reads, all else is pika's.

Reading and writing a message through pika costs more than all the rest of a call. These few frames are simple, and a
test compares them with pika's, byte for byte. What is not known here is left to pika: a writer returns None.
Source: AMQP 0-9-1, sections 2.3.5, 4.2.3, 4.2.5 and 4.2.6, https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from amqp_rpc.errors import MessageTooLarge
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.topology import delayed_key, highest_level

METHOD, HEADER, BODY = 1, 2, 3
_END = b"\xce"
#: Octets around a payload: type, channel and size before it, the end mark after it.
OVERHEAD = 8
#: Octets of a header frame before its properties: class, weight, body size and flags.
_BEFORE_PROPERTIES = 14

_BASIC = 60

#: The properties in the order of the wire, and the bit of each in the flags.
CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE, PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP = 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 6
TYPE, USER_ID, APP_ID, CLUSTER_ID, MORE = 1 << 5, 1 << 4, 1 << 3, 1 << 2, 1

_frame = struct.Struct(">BHL").pack
_method_frame = struct.Struct(">BHLHH").pack
_ack_frame = struct.Struct(">BHLHHQB").pack
_content = struct.Struct(">BHLHHQH").pack
_long_long = struct.Struct(">Q").pack
_int_value = struct.Struct(">ci").pack
_long_value = struct.Struct(">cq").pack
_size = struct.Struct(">L").pack


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return the frame that acknowledges a delivery, or all up to it."""
    return _ack_frame(METHOD, channel, 13, _BASIC, 80, tag, multiple) + _END


class Publisher:
    """Writes messages for one channel to queues, at once or through the levels of delay.

    Args:
        channel: Its number.
        frame_max: Bytes of a frame at most, as agreed with the broker.
    """

    #: Queues whose frames are remembered.
    _MOST_REMEMBERED = 1000

    def __init__(self, channel: int, frame_max: int) -> None:
        self._channel = channel
        self._most = frame_max - OVERHEAD
        self._methods: dict[tuple[str, bool], bytes] = {}
        self._event_methods: dict[tuple[str, str, bool], bytes] = {}

    def publish(self, message: Message, *, mandatory: bool) -> Sequence[bytes | memoryview] | None:
        """Return a message's frames in pieces; None where it has something that only pika writes.

        Raises:
            MessageTooLarge: As `check`.
        """
        properties = write_properties(message.properties)
        if properties is None:
            return None
        if message.delay:
            # Each delay has a key of its own: remembering them would push out those that come again.
            method = self._method(*address(message), mandatory=mandatory)
        elif message.exchange is not None:
            method = self._event_method(message.exchange.name, message.routing_key, mandatory=mandatory)
        else:
            method = self._methods.get((message.routing_key, mandatory)) or self._remember(
                message.routing_key, mandatory=mandatory
            )
        flags, values = properties
        self.check(len(values))
        body = message.body
        size = len(body)
        header = _content(HEADER, self._channel, _BEFORE_PROPERTIES + len(values), _BASIC, 0, size, flags) + values
        if not size:
            return (b"".join((method, header, _END)),)
        if size <= self._most:
            return (b"".join((method, header, _END, _frame(BODY, self._channel, size), body, _END)),)
        pieces: list[bytes | memoryview] = [method, header, _END]
        view = memoryview(body)
        for start in range(0, size, self._most):
            piece = view[start : start + self._most]
            pieces += (_frame(BODY, self._channel, len(piece)), piece, _END)
        return pieces

    def check(self, size: int) -> None:
        """Refuse properties that fill more than one frame: the broker would close the connection (501).

        Raises:
            MessageTooLarge: They do.
        """
        if size + _BEFORE_PROPERTIES > self._most:
            raise MessageTooLarge(
                f"a message's properties make {size} bytes, and a frame of this connection takes "
                f"{self._most - _BEFORE_PROPERTIES} of them; its headers must be smaller"
            )

    def _remember(self, queue: str, *, mandatory: bool) -> bytes:
        if len(self._methods) >= self._MOST_REMEMBERED:
            self._methods.clear()
        frame = self._methods[queue, mandatory] = self._method("", queue, mandatory=mandatory)
        return frame

    def _event_method(self, exchange: str, topic: str, *, mandatory: bool) -> bytes:
        method = self._event_methods.get((exchange, topic, mandatory))
        if method is None:
            if len(self._event_methods) >= self._MOST_REMEMBERED:
                self._event_methods.clear()
            method = self._event_methods[exchange, topic, mandatory] = self._method(
                exchange, topic, mandatory=mandatory
            )
        return method

    def _method(self, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
        name, key = exchange.encode(), routing_key.encode()
        method = _method_frame(METHOD, self._channel, 9 + len(name) + len(key), _BASIC, 40)
        return b"".join(
            (method, b"\0\0", bytes((len(name),)), name, bytes((len(key),)), key, bytes((mandatory,)), _END)
        )


def address(message: Message) -> tuple[str, str]:
    """Return the exchange and the routing key by which a message comes to its queue, or its queues, when it is due."""
    if not message.delay:
        return "" if message.exchange is None else message.exchange.name, message.routing_key
    return topology.delay(highest_level(message.delay)), delayed_key(message.delay, message.routing_key)


def write_properties(properties: Properties) -> tuple[int, bytes] | None:  # noqa: C901, PLR0912 - one field a line
    """Return the flags and the values of a message's properties; None for what only pika writes."""
    flags = 0
    pieces: list[bytes] = []
    try:
        if (text := properties.content_type) is not None:
            flags |= CONTENT_TYPE
            pieces.append(_known.get(text) or _remembered(text))
        if (text := properties.content_encoding) is not None:
            flags |= CONTENT_ENCODING
            pieces.append(_short(text))
        if properties.headers is not None:
            flags |= HEADERS
            pieces.append(_table(properties.headers))
        if properties.delivery_mode is not None:
            flags |= DELIVERY_MODE
            pieces.append(bytes((properties.delivery_mode,)))
        if properties.priority is not None:
            flags |= PRIORITY
            pieces.append(bytes((properties.priority,)))
        if (text := properties.correlation_id) is not None:
            flags |= CORRELATION_ID
            pieces.append(_short(text))
        if (text := properties.reply_to) is not None:
            flags |= REPLY_TO
            pieces.append(_known.get(text) or _remembered(text))
        if (text := properties.expiration) is not None:
            flags |= EXPIRATION
            pieces.append(_short(text))
        if (text := properties.message_id) is not None:
            flags |= MESSAGE_ID
            pieces.append(_short(text))
        if properties.timestamp is not None:
            flags |= TIMESTAMP
            pieces.append(_long_long(properties.timestamp))
        if (text := properties.type) is not None:
            flags |= TYPE
            pieces.append(_known.get(text) or _remembered(text))
        if (text := properties.app_id) is not None:
            flags |= APP_ID
            pieces.append(_known.get(text) or _remembered(text))
    # Text that is too long, another type than the usual ones, a number out of range: pika knows, or says what is wrong.
    except (ValueError, TypeError, AttributeError, struct.error):
        return None
    return flags, b"".join(pieces)


def _short(text: str) -> bytes:
    encoded = text.encode()
    # More than 255 bytes raises ValueError.
    return bytes((len(encoded),)) + encoded


#: Texts that come again and again (the names of functions, reply queues, content types, headers), as they are written.
_known: dict[str, bytes] = {}
_MOST_KNOWN = 1000


def _remembered(text: str) -> bytes:
    written = _short(text)
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[text] = written
    return written


def _table(headers: dict[str, Any]) -> bytes:
    pieces: list[bytes] = []
    for name, value in headers.items():
        pieces.append(_known.get(name) or _remembered(name))
        kind = type(value)
        if kind is str:
            encoded = value.encode()
            pieces += (b"S", _size(len(encoded)), encoded)
        elif kind is bool:
            pieces.append(b"t\1" if value else b"t\0")
        elif kind is int:
            pieces.append(_int_value(b"I", value) if -(2**31) <= value < 2**31 else _long_value(b"l", value))
        else:
            raise TypeError(kind)
    table = b"".join(pieces)
    return _size(len(table)) + table
