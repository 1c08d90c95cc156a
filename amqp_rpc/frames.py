"""AMQP's frames of messages, written and read: the bytes of publish, deliver and ack. Pure; everything else is pika's.

Reading and writing a message through pika costs more than all the rest of a call. These few frames are simple, and a
test compares them with pika's, byte for byte. What is not known here is left to pika: a writer returns None, a reader
hands the frames on, and nothing else happens.
Source: AMQP 0-9-1, sections 2.3.5, 4.2.3, 4.2.5 and 4.2.6, https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from amqp_rpc.envelope import Message, Properties

_METHOD, _HEADER, _BODY = 1, 2, 3
_END = b"\xce"
#: Octets around a payload: type, channel and size before it, the end mark after it.
OVERHEAD = 8

_BASIC = 60
_DELIVER = b"\x00\x3c\x00\x3c"
_LONGEST_SHORT = 255

#: The properties in the order of the wire, and the bit of each in the flags.
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP = 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 6
_TYPE, _USER_ID, _APP_ID, _CLUSTER_ID, _MORE = 1 << 5, 1 << 4, 1 << 3, 1 << 2, 1
#: Those whose value is no short text, and those that `Properties` has no place for.
_UNKNOWN = _PRIORITY | _USER_ID | _CLUSTER_ID | _MORE | 2

_frame = struct.Struct(">BHL").pack
_method_frame = struct.Struct(">BHLHH").pack
_ack_frame = struct.Struct(">BHLHHQB").pack
_content = struct.Struct(">BHLHHQH").pack
_long_long = struct.Struct(">Q").pack
_int_value = struct.Struct(">ci").pack
_long_value = struct.Struct(">cq").pack
_size = struct.Struct(">L").pack
_read_deliver = struct.Struct(">QB").unpack_from
_read_content = struct.Struct(">HHQH").unpack_from
_read_size = struct.Struct(">L").unpack_from
_read_int = struct.Struct(">i").unpack_from
_read_long = struct.Struct(">q").unpack_from
_read_long_long = struct.Struct(">Q").unpack_from


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return the frame that acknowledges a delivery, or all up to it."""
    return _ack_frame(_METHOD, channel, 13, _BASIC, 80, tag, multiple) + _END


class Publisher:
    """Writes messages for one channel to queues, through the default exchange.

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

    def publish(self, message: Message, *, mandatory: bool) -> Sequence[bytes | memoryview] | None:
        """Return a message's frames in pieces; None where it has something that only pika writes."""
        properties = write_properties(message.properties)
        if properties is None:
            return None
        method = self._methods.get((message.queue, mandatory)) or self._method(message.queue, mandatory)
        flags, values = properties
        body = message.body
        size = len(body)
        header = _content(_HEADER, self._channel, 14 + len(values), _BASIC, 0, size, flags) + values
        if not size:
            return (b"".join((method, header, _END)),)
        if size <= self._most:
            return (b"".join((method, header, _END, _frame(_BODY, self._channel, size), body, _END)),)
        pieces: list[bytes | memoryview] = [method, header, _END]
        view = memoryview(body)
        for start in range(0, size, self._most):
            piece = view[start : start + self._most]
            pieces += (_frame(_BODY, self._channel, len(piece)), piece, _END)
        return pieces

    def _method(self, queue: str, mandatory: bool) -> bytes:
        key = queue.encode()
        method = _method_frame(_METHOD, self._channel, 9 + len(key), _BASIC, 40)
        frame = method + b"\0\0\0" + bytes([len(key)]) + key + bytes([mandatory]) + _END
        if len(self._methods) >= self._MOST_REMEMBERED:
            self._methods.clear()
        self._methods[queue, mandatory] = frame
        return frame


def write_properties(properties: Properties) -> tuple[int, bytes] | None:  # noqa: C901 - one field a line
    """Return the flags and the values of a message's properties; None for what only pika writes."""
    flags = 0
    pieces: list[bytes] = []
    try:
        if (text := properties.content_type) is not None:
            flags |= _CONTENT_TYPE
            pieces.append(_short(text))
        if (text := properties.content_encoding) is not None:
            flags |= _CONTENT_ENCODING
            pieces.append(_short(text))
        if properties.headers is not None:
            flags |= _HEADERS
            pieces.append(_table(properties.headers))
        if properties.delivery_mode is not None:
            flags |= _DELIVERY_MODE
            pieces.append(bytes((properties.delivery_mode,)))
        if (text := properties.correlation_id) is not None:
            flags |= _CORRELATION_ID
            pieces.append(_short(text))
        if (text := properties.reply_to) is not None:
            flags |= _REPLY_TO
            pieces.append(_short(text))
        if (text := properties.expiration) is not None:
            flags |= _EXPIRATION
            pieces.append(_short(text))
        if (text := properties.message_id) is not None:
            flags |= _MESSAGE_ID
            pieces.append(_short(text))
        if properties.timestamp is not None:
            flags |= _TIMESTAMP
            pieces.append(_long_long(properties.timestamp))
        if (text := properties.type) is not None:
            flags |= _TYPE
            pieces.append(_short(text))
        if (text := properties.app_id) is not None:
            flags |= _APP_ID
            pieces.append(_short(text))
    # Text that is too long, another type than the usual ones, a number out of range: pika knows, or says what is wrong.
    except (ValueError, TypeError, AttributeError, struct.error):
        return None
    return flags, b"".join(pieces)


def _short(text: str) -> bytes:
    encoded = text.encode()
    # More than 255 bytes raises ValueError.
    return bytes((len(encoded),)) + encoded


def _table(headers: dict[str, Any]) -> bytes:
    pieces: list[bytes] = []
    for name, value in headers.items():
        pieces.append(_short(name))
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


def read_properties(data: bytes, position: int, flags: int) -> Properties | None:  # noqa: C901, PLR0912 - one field a line
    """Return the properties that begin at a position; None for what only pika reads."""
    if flags & _UNKNOWN:
        return None
    found = Properties()
    try:
        if flags & _CONTENT_TYPE:
            start = position + 1
            position = start + data[position]
            found.content_type = data[start:position].decode()
        if flags & _CONTENT_ENCODING:
            start = position + 1
            position = start + data[position]
            found.content_encoding = data[start:position].decode()
        if flags & _HEADERS:
            start = position + 4
            position = start + _read_size(data, position)[0]
            found.headers = _read_table(data, start, position)
        if flags & _DELIVERY_MODE:
            found.delivery_mode = data[position]
            position += 1
        if flags & _CORRELATION_ID:
            start = position + 1
            position = start + data[position]
            found.correlation_id = data[start:position].decode()
        if flags & _REPLY_TO:
            start = position + 1
            position = start + data[position]
            found.reply_to = data[start:position].decode()
        if flags & _EXPIRATION:
            start = position + 1
            position = start + data[position]
            found.expiration = data[start:position].decode()
        if flags & _MESSAGE_ID:
            start = position + 1
            position = start + data[position]
            found.message_id = data[start:position].decode()
        if flags & _TIMESTAMP:
            found.timestamp = _read_long_long(data, position)[0]
            position += 8
        if flags & _TYPE:
            start = position + 1
            position = start + data[position]
            found.type = data[start:position].decode()
        if flags & _APP_ID:
            start = position + 1
            position = start + data[position]
            found.app_id = data[start:position].decode()
    # Bytes that are no UTF-8, a type of value that is rare, a table that is longer than the frame.
    except (ValueError, IndexError, struct.error):
        return None
    return found


def _read_table(data: bytes, position: int, end: int) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    while position < end:
        start = position + 1
        position = start + data[position]
        name = data[start:position].decode()
        kind = data[position]
        position += 1
        if kind == ord("S"):
            start = position + 4
            position = start + _read_size(data, position)[0]
            headers[name] = data[start:position].decode()
        elif kind == ord("t"):
            headers[name] = data[position] != 0
            position += 1
        elif kind == ord("I"):
            headers[name] = _read_int(data, position)[0]
            position += 4
        elif kind == ord("l"):
            headers[name] = _read_long(data, position)[0]
            position += 8
        else:
            raise ValueError(kind)
    return headers


#: Takes a delivery: its tag, whether it was delivered before, its properties and its body.
Consumer = Callable[[int, bool, Properties, bytes], object]


class Deliveries:
    """Puts deliveries together from their frames, for the consumers that are entered; the others' are pika's.

    Args:
        hand_on: Takes the frames that are not for here after all.
    """

    def __init__(self, hand_on: Callable[[bytes], object]) -> None:
        self._hand_on = hand_on
        self._consumers: dict[tuple[int, bytes], Consumer] = {}
        #: By channel, the delivery whose content has not arrived whole.
        self._open: dict[int, _Delivery] = {}

    def enter(self, channel: int, tag: str, consumer: Consumer) -> None:
        """Have a consumer's deliveries taken here."""
        self._consumers[channel, tag.encode()] = consumer

    def leave(self, channel: int) -> None:
        """Take no more deliveries of a channel; the rest of one that has begun to arrive is dropped."""
        for key in [key for key in self._consumers if key[0] == channel]:
            del self._consumers[key]
        if channel in self._open:
            self._open[channel].consumer = lambda *_delivery: None

    def forget(self, channel: int) -> None:
        """Forget a channel that is closed: its number may be used again."""
        self.leave(channel)
        self._open.pop(channel, None)

    def take(self, data: bytes, start: int, end: int) -> bool:
        """Take a whole frame; return whether it was one for here."""
        kind = data[start]
        channel = data[start + 1] << 8 | data[start + 2]
        if kind == _METHOD:
            return data[start + 7 : start + 11] == _DELIVER and self._deliver(data, start, end, channel)
        delivery = self._open.get(channel)
        if delivery is None or kind not in (_HEADER, _BODY):
            return False
        if kind == _HEADER:
            _, _, delivery.missing, flags = _read_content(data, start + 7)
            properties = read_properties(data, start + 21, flags)
            if properties is None:
                del self._open[channel]
                self._hand_on(delivery.frame)
                return False
            delivery.properties = properties
        else:
            piece = data[start + 7 : end - 1]
            delivery.missing -= len(piece)
            delivery.pieces.append(piece)
        if delivery.missing <= 0:
            del self._open[channel]
            pieces = delivery.pieces
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            delivery.consumer(delivery.tag, delivery.redelivered, delivery.properties, body)
        return True

    def _deliver(self, data: bytes, start: int, end: int, channel: int) -> bool:
        after = start + 12 + data[start + 11]
        consumer = self._consumers.get((channel, data[start + 12 : after]))
        if consumer is None:
            return False
        tag, redelivered = _read_deliver(data, after)
        self._open[channel] = _Delivery(consumer, tag, redelivered & 1 == 1, data[start:end])
        return True


class _Delivery:
    """A delivery whose content has not arrived whole."""

    __slots__ = ("consumer", "frame", "missing", "pieces", "properties", "redelivered", "tag")

    def __init__(self, consumer: Consumer, tag: int, redelivered: bool, frame: bytes) -> None:
        self.consumer = consumer
        self.tag = tag
        self.redelivered = redelivered
        #: As it came, should pika have to read it.
        self.frame = frame
        self.missing = 0
        self.properties = _NONE
        self.pieces: list[bytes] = []


_NONE = Properties()
