"""AMQP's frames of messages: this writes publish and ack, and reads deliveries and confirms. Pure; pika does the rest.

A message through pika costs more than all the rest of a call. These few frames are simple, and a test compares them
with pika's, byte for byte. pika handles everything else, a rare type in a header for example: a writer returns None, a
reader hands the frames on unchanged. It is longer than other modules: what writes a frame and what reads it share its
layout, and the stream splits and salvages by the same octets.
Source: AMQP 0-9-1, sections 2.3.5, 4.2.3, 4.2.5 and 4.2.6, https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from amqp_rpc.errors import MessageTooLarge
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.headers import UNREADABLE
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
    """Return the frame that acks a delivery, or all up to it."""
    return _ack_frame(METHOD, channel, 13, _BASIC, 80, tag, multiple) + _END


class Acks:
    """The acks that settle deliveries of a channel: one ``multiple`` ack for as many as possible.

    A burst of deliveries is settled in about its order. One ack with ``multiple`` covers a channel's deliveries up to
    its tag, so it may be used only once all of them are settled: https://www.rabbitmq.com/docs/confirms
    """

    def __init__(self) -> None:
        #: All tags up to this one are settled, and these beyond it. Tags count from 1.
        self._all = 0
        self._beyond: set[int] = set()

    def settle(self, tags: Sequence[int]) -> list[tuple[int, bool]]:
        """Return the acks for deliveries that are settled now: each tag, and whether it covers all before it."""
        if len(tags) == 1 and tags[0] > self._all + 1:
            self._beyond.add(tags[0])
            return [(tags[0], False)]
        now = set(tags)
        self._beyond |= now
        last = covered = 0
        while self._all + 1 in self._beyond:
            self._all += 1
            self._beyond.remove(self._all)
            if self._all in now:
                # The tag of an ack must be one that the broker still waits for.
                last = self._all
                covered += 1
        together = [(last, covered > 1)] if covered else []
        return together + [(tag, False) for tag in tags if tag > self._all]


class MessageWriter:
    """Writes the messages of one channel: of that number, with frames of at most so many bytes.

    The names of the exchanges are added to ``written``.
    """

    #: The limit of cached frames, one for each queue or topic.
    _MOST_REMEMBERED = 1000

    def __init__(self, channel: int, frame_max: int, written: set[str] | None = None) -> None:
        self._written: set[str] = set() if written is None else written
        self._channel = channel
        self._most = frame_max - OVERHEAD
        self._methods: dict[tuple[str, str, bool], bytes] = {}

    def write(self, message: Message, *, mandatory: bool) -> Sequence[bytes | memoryview] | None:
        """Return a message's frames in pieces; None if only pika can write them.

        Raises:
            MessageTooLarge: As `check`.
        """
        properties = write_properties(message.properties)
        if properties is None:
            return None
        if message.delay:
            # Each delay has a key of its own: a cache of them would push out the keys that repeat.
            exchange, key = address(message)
            self._written.add(exchange)
            method = self._method(exchange, key, mandatory=mandatory)
        else:
            target = "" if message.exchange is None else message.exchange.name, message.routing_key, mandatory
            method = self._methods.get(target) or self._remember(target)
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
            MessageTooLarge: They fill more.
        """
        if size + _BEFORE_PROPERTIES > self._most:
            raise MessageTooLarge(
                f"a message's properties make {size} bytes, and a frame of this connection takes "
                f"{self._most - _BEFORE_PROPERTIES} of them; its headers must be smaller"
            )

    def _remember(self, target: tuple[str, str, bool]) -> bytes:
        if len(self._methods) >= self._MOST_REMEMBERED:
            self._methods.clear()
        exchange, routing_key, mandatory = target
        self._written.add(exchange)
        method = self._methods[target] = self._method(exchange, routing_key, mandatory=mandatory)
        return method

    def _method(self, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
        name, key = exchange.encode(), routing_key.encode()
        method = _method_frame(METHOD, self._channel, 9 + len(name) + len(key), _BASIC, 40)
        return b"".join(
            (method, b"\0\0", bytes((len(name),)), name, bytes((len(key),)), key, bytes((mandatory,)), _END)
        )


def address(message: Message) -> tuple[str, str]:
    """Return the exchange and the routing key that bring a message to its queues when it is due."""
    if not message.delay:
        return "" if message.exchange is None else message.exchange.name, message.routing_key
    return topology.delay(highest_level(message.delay)), delayed_key(message.delay, message.routing_key)


def write_properties(properties: Properties) -> tuple[int, bytes] | None:  # noqa: C901, PLR0912 - one field a line
    """Return the flags and the values of a message's properties; None if only pika can write them."""
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
        if (text := properties.user_id) is not None:
            flags |= USER_ID
            pieces.append(_known.get(text) or _remembered(text))
        if (text := properties.app_id) is not None:
            flags |= APP_ID
            pieces.append(_known.get(text) or _remembered(text))
    # Text that is too long, an unusual type, a number out of range: pika can write it, or raises the right error.
    except (ValueError, TypeError, AttributeError, IndexError, struct.error):
        return None
    return flags, b"".join(pieces)


#: Each octet: to take one from here costs half as much as to make it.
_OCTETS = [bytes((number,)) for number in range(256)]


def _short(text: str) -> bytes:
    encoded = text.encode()
    # More than 255 bytes raises IndexError.
    return _OCTETS[len(encoded)] + encoded


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


#: Characters of the names of what is lost of a message.
_LONGEST_LOST = 300
_DELIVER = b"\x00\x3c\x00\x3c"
_ACK, _NACK = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
#: Those whose value is no short text, and those that `Properties` has no place for.
_UNKNOWN = CLUSTER_ID | MORE | 2
#: Octets of a header frame that has no properties.
_SHORTEST_HEADER = OVERHEAD + 14

_read_deliver = struct.Struct(">QB").unpack_from
_read_content = struct.Struct(">HHQH").unpack_from
_read_frame = struct.Struct(">BHL").unpack_from
_read_size = struct.Struct(">L").unpack_from
_read_int = struct.Struct(">i").unpack_from
_read_long = struct.Struct(">q").unpack_from
_read_long_long = struct.Struct(">Q").unpack_from


def read_properties(data: bytes, position: int, flags: int) -> Properties | None:  # noqa: C901, PLR0912, PLR0915 - one field a line
    """Return the properties that begin at a position; None if only pika can read them."""
    if flags & _UNKNOWN:
        return None
    found = Properties()
    # Written out for each property, and so is its writer: a function call for each would slow each message.
    try:
        if flags & CONTENT_TYPE:
            start = position + 1
            position = start + data[position]
            found.content_type = data[start:position].decode()
        if flags & CONTENT_ENCODING:
            start = position + 1
            position = start + data[position]
            found.content_encoding = data[start:position].decode()
        if flags & HEADERS:
            start = position + 4
            position = start + _read_size(data, position)[0]
            found.headers = _read_table(data, start, position)
        if flags & DELIVERY_MODE:
            found.delivery_mode = data[position]
            position += 1
        if flags & PRIORITY:
            found.priority = data[position]
            position += 1
        if flags & CORRELATION_ID:
            start = position + 1
            position = start + data[position]
            found.correlation_id = data[start:position].decode()
        if flags & REPLY_TO:
            start = position + 1
            position = start + data[position]
            found.reply_to = data[start:position].decode()
        if flags & EXPIRATION:
            start = position + 1
            position = start + data[position]
            found.expiration = data[start:position].decode()
        if flags & MESSAGE_ID:
            start = position + 1
            position = start + data[position]
            found.message_id = data[start:position].decode()
        if flags & TIMESTAMP:
            found.timestamp = _read_long_long(data, position)[0]
            position += 8
        if flags & TYPE:
            start = position + 1
            position = start + data[position]
            found.type = data[start:position].decode()
        if flags & USER_ID:
            start = position + 1
            position = start + data[position]
            found.user_id = data[start:position].decode()
        if flags & APP_ID:
            start = position + 1
            position = start + data[position]
            found.app_id = data[start:position].decode()
    # Bytes that are not UTF-8, a rare type of value, a table that is longer than the frame.
    except (ValueError, IndexError, struct.error):
        return None
    return found


#: The properties as they follow each other, and how each is read.
_FIELDS: Final = (
    (CONTENT_TYPE, "short"), (CONTENT_ENCODING, "short"), (HEADERS, "table"), (DELIVERY_MODE, 1), (PRIORITY, 1),
    (CORRELATION_ID, "short"), (REPLY_TO, "short"), (EXPIRATION, "short"), (MESSAGE_ID, "short"), (TIMESTAMP, 8),
    (TYPE, "short"), (USER_ID, "short"), (APP_ID, "short"), (CLUSTER_ID, "short"),
)  # fmt: skip
#: Octets of the values of headers, by their types; those of the others are written before them.
_SIZES: Final = dict(zip(b"tbBsUuIilLfdDTV", (1, 1, 1, 2, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True))


def salvaged(frame: bytes, read: Callable[[bytes, int], object]) -> bytes:
    """Return a header frame with all that can be read of one, and with a header that names the rest (`UNREADABLE`).

    Args:
        frame: It; pika can't read it.
        read: pika's reader of a table at a position.
    """
    _, _, size, flags = _read_content(frame, 7)
    position, end = 21, len(frame) - 1
    pieces: list[bytes] = []
    lost: list[str] = []
    kept, at, table = 0, 0, b""
    for bit, kind in _FIELDS:
        if bit == HEADERS:
            at = len(pieces)
        if not flags & bit:
            continue
        after = _end_of(frame, position, kind)
        if after > end or flags & MORE:
            lost.append("the properties")
            break
        if bit == HEADERS:
            table = b"".join(_readable_headers(frame[position + 4 : after], read, lost))
        else:
            kept |= bit
            pieces.append(frame[position:after])
        position = after
    named = _short(UNREADABLE) + b"S" + _long(f"{', '.join(lost)}"[:_LONGEST_LOST].encode(errors="backslashreplace"))
    pieces.insert(at, _long(table + named))
    values = b"".join(pieces)
    channel = frame[1] << 8 | frame[2]
    return _content(HEADER, channel, _BEFORE_PROPERTIES + len(values), _BASIC, 0, size, kept | HEADERS) + values + _END


def _end_of(data: bytes, position: int, kind: str | int) -> int:
    """Return where a value ends; behind the data, if its length can't be read."""
    try:
        if kind == "short":
            return position + 1 + data[position]
        return position + (4 + int(_read_size(data, position)[0]) if isinstance(kind, str) else kind)
    except (IndexError, struct.error):
        return len(data) + 1


def _readable_headers(table: bytes, read: Callable[[bytes, int], object], lost: list[str]) -> Iterator[bytes]:
    """Yield the headers of a table that can be read, and add the names of the others to those that are lost."""
    position = 0
    while position < len(table):
        value = _end_of(table, position, "short")
        name = table[position + 1 : value].decode(errors="backslashreplace")
        size = _SIZES.get(table[value], "table" if table[value] in b"SxAF" else None) if value < len(table) else None
        after = len(table) + 1 if size is None else _end_of(table, value + 1, size)
        if after > len(table):
            lost.append(f"header {name!r} and those behind it")
            return
        header = table[position:after]
        try:
            read(_long(header), 0)
        # It raises anything.
        except Exception:
            lost.append(f"header {name!r}")
        else:
            yield header
        position = after


def _long(value: bytes) -> bytes:
    return _size(len(value)) + value


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


#: Receives a delivery: its tag, its `redelivered` flag, its properties and its body.
Consumer = Callable[[int, bool, Properties, bytes], object]
#: Receives a delivery's exchange, its routing key, and the rest as a `Consumer`.
AddressedConsumer = Callable[[str, str, int, bool, Properties, bytes], object]
#: Receives a confirm: its tag, whether it is for all up to that one, and whether the broker accepted the message.
Confirmed = Callable[[int, bool, bool], object]


class Deliveries:
    """Assembles deliveries from their frames, for registered consumers; pika handles those of the others.

    Args:
        hand_on: Receives the frames of a delivery that only pika can read.
    """

    def __init__(self, hand_on: Callable[[bytes], object]) -> None:
        self._hand_on = hand_on
        self._consumers: dict[tuple[int, bytes], Consumer] = {}
        #: The few consumers that need the exchange and routing key, which is not decoded for the others.
        self._addressed: dict[tuple[int, bytes], AddressedConsumer] = {}
        self._confirming: dict[int, Confirmed] = {}
        #: By channel, the delivery whose content has not fully arrived.
        self._open: dict[int, _Delivery] = {}

    def enter(self, channel: int, tag: str, consumer: Consumer) -> None:
        """Register a consumer."""
        self._consumers[channel, tag.encode()] = consumer

    def enter_addressed(self, channel: int, tag: str, consumer: AddressedConsumer) -> None:
        """Register a consumer that gets the exchange and routing key too."""
        self._addressed[channel, tag.encode()] = consumer

    def dismiss(self, channel: int, tag: str) -> None:
        """Forget a consumer that has ended: no more deliveries arrive for it."""
        self._consumers.pop((channel, tag.encode()), None)
        self._addressed.pop((channel, tag.encode()), None)

    def confirm(self, channel: int, confirmed: Confirmed) -> None:
        """Register the receiver of a channel's confirms."""
        self._confirming[channel] = confirmed

    def leave(self, channel: int) -> None:
        """Drop the consumers of a channel, and the rest of a delivery that has partly arrived."""
        for consumers in (self._consumers, self._addressed):
            for key in [key for key in consumers if key[0] == channel]:
                del consumers[key]
        if channel in self._open:
            self._open[channel].consumer = lambda *_delivery: None

    def forget(self, channel: int) -> None:
        """Forget a channel that is closed: its number may be used again."""
        self.leave(channel)
        self._open.pop(channel, None)
        self._confirming.pop(channel, None)

    def take(self, data: bytes, start: int, end: int) -> bool:
        """Read a whole frame; return whether it was handled here."""
        kind = data[start]
        channel = data[start + 1] << 8 | data[start + 2]
        if kind == METHOD:
            method = data[start + 7 : start + 11]
            if method in (_ACK, _NACK) and (confirmed := self._confirming.get(channel)) is not None:
                tag, bits = _read_deliver(data, start + 11)
                confirmed(tag, bits & 1 == 1, method == _ACK)
                return True
            return method == _DELIVER and self._deliver(data, start, end, channel)
        delivery = self._open.get(channel)
        if delivery is None or kind not in (HEADER, BODY):
            return False
        if kind == HEADER:
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

    def take_whole(self, data: bytes, start: int, end: int) -> int:
        """Read a delivery whose frames have all arrived, as nearly all have: a method, a header, and one body or none.

        Args:
            data: The bytes that have arrived.
            start: The beginning of a frame.
            end: The end of the bytes.

        Returns:
            The beginning of the next frame; 0 if there is no such delivery, and nothing was read.
        """
        if data[start + 7 : start + 11] != _DELIVER:
            return 0
        header = start + _read_size(data, start + 3)[0] + OVERHEAD
        if header + _SHORTEST_HEADER > end or data[header] != HEADER:
            return 0
        channel = data[start + 1] << 8 | data[start + 2]
        after_tag = start + 12 + data[start + 11]
        consumer = self._consumers.get((channel, data[start + 12 : after_tag]))
        after = header + _read_size(data, header + 3)[0] + OVERHEAD
        if consumer is None:
            consumer = self._with_address(data, channel, after_tag, data[start + 12 : after_tag])
        if consumer is None or after > end or data[header + 1] << 8 | data[header + 2] != channel:
            return 0
        _, _, size, flags = _read_content(data, header + 7)
        body = b""
        if size:
            first = after + 7
            after = first + size + 1
            if after > end or _read_frame(data, first - 7) != (BODY, channel, size):
                return 0
            body = data[first : after - 1]
        properties = read_properties(data, header + 21, flags)
        if properties is None:
            return 0
        tag, redelivered = _read_deliver(data, after_tag)
        consumer(tag, redelivered & 1 == 1, properties, body)
        return int(after)

    def _deliver(self, data: bytes, start: int, end: int, channel: int) -> bool:
        after = start + 12 + data[start + 11]
        consumer = self._consumers.get((channel, data[start + 12 : after]))
        if consumer is None:
            consumer = self._with_address(data, channel, after, data[start + 12 : after])
        if consumer is None:
            return False
        tag, redelivered = _read_deliver(data, after)
        self._open[channel] = _Delivery(consumer, tag, redelivered & 1 == 1, data[start:end])
        return True

    def _with_address(self, data: bytes, channel: int, position: int, tag: bytes) -> Consumer | None:
        """Return the consumer of a tag that ends at a position, if it gets the exchange and routing key.

        None if there is no such consumer, or if only pika can read them.
        """
        addressed = self._addressed.get((channel, tag))
        if addressed is None:
            return None
        # Behind the tag: eight octets of the delivery tag, one of the `redelivered` flag.
        key = position + 10 + data[position + 9]
        try:
            exchange = data[position + 10 : key].decode()
            routing_key = data[key + 1 : key + 1 + data[key]].decode()
        except UnicodeDecodeError:
            return None
        return partial(addressed, exchange, routing_key)


class _Delivery:
    """A delivery whose content has not fully arrived."""

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
