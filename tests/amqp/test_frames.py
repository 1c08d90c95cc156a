"""The frames that are written and read here are pika's, byte for byte; what is not known here is left to pika."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika.frame
import pika.spec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc.amqp import frames
from amqp_rpc.amqp.frames import Acks, Deliveries, MessageWriter
from amqp_rpc.errors import MessageTooLarge
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.exchanges import Exchange

FRAME_MAX = 16_384
NAMES = st.text(min_size=1, max_size=60).filter(lambda text: len(text.encode()) <= 255)
SHORT = st.none() | st.text(max_size=80).filter(lambda text: len(text.encode()) <= 255)
VALUES = st.text(max_size=300) | st.booleans() | st.integers(-(2**63), 2**63 - 1)
PROPERTIES = st.builds(
    Properties,
    content_type=SHORT,
    content_encoding=SHORT,
    headers=st.none() | st.dictionaries(NAMES, VALUES, max_size=6),
    delivery_mode=st.none() | st.integers(0, 255),
    priority=st.none() | st.integers(0, 255),
    correlation_id=SHORT,
    reply_to=SHORT,
    expiration=SHORT,
    message_id=SHORT,
    timestamp=st.none() | st.integers(0, 2**40),
    type=SHORT,
    user_id=SHORT,
    app_id=SHORT,
)
BODIES = st.binary(max_size=50) | st.integers(0, 4 * FRAME_MAX).map(lambda size: bytes(range(256)) * (size // 256 + 1))
#: Frames that only pika writes and reads.
RARE: list[Any] = [
    1.5, None, b"bytes", [1, "two"], {"nested": True}, Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC), 2**63,
]  # fmt: skip


def raw(properties: Properties) -> pika.BasicProperties:
    return pika.BasicProperties(**{name: getattr(properties, name) for name in Properties.__slots__})


def content(properties: pika.BasicProperties, body: bytes, channel: int) -> bytes:
    """The header and body frames as pika writes them."""
    most = FRAME_MAX - frames.OVERHEAD
    pieces = [body[start : start + most] for start in range(0, len(body), most)]
    written = [pika.frame.Header(channel, len(body), properties), *(pika.frame.Body(channel, each) for each in pieces)]
    return b"".join(frame.marshal() for frame in written)


def published(properties: Properties, body: bytes, queue: str, channel: int, *, mandatory: bool) -> bytes:
    method = pika.spec.Basic.Publish(exchange="", routing_key=queue, mandatory=mandatory)
    return pika.frame.Method(channel, method).marshal() + content(raw(properties), body, channel)


def delivered(
    properties: pika.BasicProperties, body: bytes = b"body", *, channel: int = 1, tag: str = "ctag", number: int = 7,
    redelivered: bool = False,
) -> bytes:  # fmt: skip
    method = pika.spec.Basic.Deliver(tag, number, redelivered, "exchange", "routing.key")
    return pika.frame.Method(channel, method).marshal() + content(properties, body, channel)


class Taken:
    """Deliveries for one consumer, and what was handed on to pika."""

    def __init__(self, channel: int = 1, tag: str = "ctag") -> None:
        self.handed_on: list[bytes] = []
        self.taken: list[tuple[int, bool, Properties, bytes]] = []
        self.deliveries = Deliveries(self.handed_on.append)
        self.deliveries.enter(channel, tag, lambda *delivery: self.taken.append(delivery))

    def feed(self, data: bytes) -> None:
        """Give it frames as a stream does."""
        start = 0
        while start < len(data):
            end = start + int.from_bytes(data[start + 3 : start + 7], "big") + frames.OVERHEAD
            if not self.deliveries.take(data, start, end):
                self.handed_on.append(data[start:end])
            start = end


@settings(max_examples=300, deadline=None)
@given(PROPERTIES, BODIES, NAMES, st.integers(1, 65_535), st.booleans())
def test_a_published_message_has_the_bytes_that_pika_writes(properties, body, queue, channel, mandatory):
    written = MessageWriter(channel, FRAME_MAX).write(Message(queue, properties, body), mandatory=mandatory)
    assert written is not None
    assert b"".join(written) == published(properties, body, queue, channel, mandatory=mandatory)


@settings(max_examples=300, deadline=None)
@given(PROPERTIES, BODIES, st.integers(1, 65_535), st.integers(0, 2**64 - 1), st.booleans())
def test_a_delivery_that_pika_writes_is_read_as_it_was(properties, body, channel, number, redelivered):
    taken = Taken(channel)
    taken.feed(delivered(raw(properties), body, channel=channel, number=number, redelivered=redelivered))
    assert taken.taken == [(number, redelivered, properties, body)]
    assert taken.handed_on == []


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("number", [0, 1, 2**32, 2**64 - 1])
def test_an_acknowledgement_has_the_bytes_that_pika_writes(number, multiple):
    expected = pika.frame.Method(3, pika.spec.Basic.Ack(number, multiple)).marshal()
    assert frames.ack(3, number, multiple=multiple) == expected


def test_properties_that_fill_one_frame_are_written_and_one_byte_more_is_refused():
    # Flags; the table's size; a name of one letter with its size; the value's type and its size.
    room = FRAME_MAX - frames.OVERHEAD - 14 - (4 + 2 + 5)
    writer = MessageWriter(1, FRAME_MAX)

    def message(size: int) -> Message:
        return Message("q", Properties(headers={"n": "x" * size}), b"")

    written = b"".join(writer.write(message(room), mandatory=False) or ())
    assert len(written.partition(b"\xce")[2]) == FRAME_MAX
    with pytest.raises(MessageTooLarge, match="its headers must be smaller"):
        writer.write(message(room + 1), mandatory=False)


@pytest.mark.parametrize("value", RARE, ids=repr)
def test_a_rare_header_is_left_to_pika_to_write(value):
    message = Message("queue", Properties(headers={"rare": value}), b"")
    assert MessageWriter(1, FRAME_MAX).write(message, mandatory=True) is None


@pytest.mark.parametrize(
    "properties",
    [
        Properties(correlation_id="x" * 256),
        Properties(correlation_id="\ud800"),
        Properties(correlation_id=b"bytes"),  # type: ignore[arg-type]
        Properties(headers={"x" * 256: 1}),
        Properties(headers=[("no", "table")]),  # type: ignore[arg-type]
        Properties(delivery_mode=256),
        Properties(timestamp=-1),
        Properties(timestamp="now"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_is_no_property_of_amqp_is_left_to_pika_to_refuse(properties):
    assert MessageWriter(1, FRAME_MAX).write(Message("queue", properties, b""), mandatory=True) is None


@pytest.mark.parametrize(
    "value", [value for value in RARE if value != 2**63 and not isinstance(value, float)], ids=repr
)
def test_a_message_with_a_rare_header_is_handed_on_whole(value):
    taken = Taken()
    message = delivered(pika.BasicProperties(headers={"usual": 1, "rare": value}))
    taken.feed(message + delivered(pika.BasicProperties(type="usual"), number=8))
    assert b"".join(taken.handed_on) == message
    assert [number for number, *_ in taken.taken] == [8]


def test_a_message_with_a_property_that_nothing_here_uses_is_handed_on_whole():
    taken = Taken()
    message = delivered(pika.BasicProperties(cluster_id="5"), b"x" * 3 * FRAME_MAX)
    taken.feed(message)
    assert b"".join(taken.handed_on) == message
    assert taken.taken == []


@pytest.mark.parametrize("damage", [b"\xff", b"\x00", b"\x7f"])
@pytest.mark.parametrize("place", range(0, 60, 3))
def test_a_header_with_damaged_bytes_never_raises(damage, place):
    taken = Taken()
    message = bytearray(delivered(pika.BasicProperties(headers={"a": "text", "b": 5}, type="t", message_id="m"), b""))
    header = message.index(b"\xce") + 1
    # Behind the frame's type, channel and size, which the stream has read already, and the size of the body.
    at = header + 19 + place
    if at < len(message) - 1:
        message[at : at + 1] = damage
        taken.feed(bytes(message))
        assert len(taken.taken) + len(taken.handed_on) > 0


def test_frames_of_other_consumers_and_other_methods_are_not_taken():
    taken = Taken()
    others = [
        delivered(pika.BasicProperties(), tag="another"),
        delivered(pika.BasicProperties(), channel=2),
        pika.frame.Heartbeat().marshal(),
        pika.frame.Method(1, pika.spec.Basic.Ack(1)).marshal(),
        pika.frame.Method(1, pika.spec.Channel.Close(404, "gone", 0, 0)).marshal(),
        # A message that was returned has a header and a body, but no delivery.
        pika.frame.Method(1, pika.spec.Basic.Return(312, "NO_ROUTE", "", "queue")).marshal()
        + content(pika.BasicProperties(), b"body", 1),
    ]
    for each in others:
        taken.feed(each)
    assert b"".join(taken.handed_on) == b"".join(others)
    assert taken.taken == []


def test_deliveries_on_two_channels_may_come_mixed():
    taken = Taken()
    taken.deliveries.enter(2, "ctag", lambda *delivery: taken.taken.append(delivery))
    one, two = (delivered(pika.BasicProperties(), string.ascii_letters.encode(), channel=channel) for channel in (1, 2))
    ends = one.index(b"\xce") + 1
    taken.feed(one[:ends] + two[:ends] + one[ends:] + two[ends:])
    assert [body for *_, body in taken.taken] == [string.ascii_letters.encode()] * 2


def test_the_rest_of_a_delivery_to_a_channel_that_was_left_is_dropped():
    taken = Taken()
    message = delivered(pika.BasicProperties())
    ends = message.index(b"\xce") + 1
    taken.feed(message[:ends])
    taken.deliveries.leave(1)
    # pika would take a body without its method for a broken stream.
    taken.feed(message[ends:])
    assert (taken.taken, taken.handed_on) == ([], [])
    taken.feed(message)
    assert b"".join(taken.handed_on) == message


def test_a_channel_number_that_is_used_again_knows_nothing_of_the_one_before():
    taken = Taken()
    message = delivered(pika.BasicProperties())
    ends = message.index(b"\xce") + 1
    taken.feed(message[:ends])
    taken.deliveries.forget(1)
    taken.feed(message[ends:])
    assert b"".join(taken.handed_on) == message[ends:]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), BODIES, st.booleans(), st.booleans())
def test_who_asks_how_a_delivery_came_is_told_the_exchange_and_the_key_that_pika_wrote(
    exchange, key, body, redelivered, in_pieces
):
    taken = Taken()
    taken.deliveries.enter_addressed(1, "addressed", lambda *delivery: taken.taken.append(delivery))
    method = pika.spec.Basic.Deliver("addressed", 7, redelivered, exchange, key)
    message = pika.frame.Method(1, method).marshal() + content(raw(Properties(type="t")), body, 1)
    if in_pieces:
        ends = message.index(b"\xce") + 1
        taken.feed(message[:ends])
        taken.feed(message[ends:])
    else:
        taken.feed(message)
    expected = [(exchange, key, 7, redelivered, Properties(type="t"), body)]
    assert taken.taken == expected
    # Nearly all come whole: read in one go they are the same.
    taken.taken.clear()
    assert taken.deliveries.take_whole(message, 0, len(message)) in {0, len(message)}
    assert taken.taken in ([], expected)
    assert bool(taken.taken) == (len(body) <= FRAME_MAX - frames.OVERHEAD)
    taken.taken.append(())
    taken.deliveries.leave(1)
    taken.feed(message)
    assert taken.taken[-1] == ()


def test_a_routing_key_that_is_no_utf_8_is_pika_s_to_read():
    taken = Taken()
    taken.deliveries.enter_addressed(1, "addressed", lambda *delivery: taken.taken.append(delivery))
    method = pika.spec.Basic.Deliver("addressed", 7, False, "logs", "key")
    message = pika.frame.Method(1, method).marshal().replace(b"key", b"\xff\xfe\xfd") + content(
        raw(Properties()), b"x", 1
    )
    taken.feed(message)
    assert (b"".join(taken.handed_on), taken.taken) == (message, [])


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=60), st.text(max_size=60), BODIES, st.booleans())
def test_an_event_has_the_bytes_that_pika_writes(exchange, key, body, mandatory):
    written = MessageWriter(1, FRAME_MAX).write(
        Message(key, Properties(type="t"), body, exchange=Exchange(exchange)), mandatory=mandatory
    )
    method = pika.spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    expected = pika.frame.Method(1, method).marshal() + content(raw(Properties(type="t")), body, 1)
    assert b"".join(written or ()) == expected


# One ack for as many deliveries as possible, and never for one that is not settled.


@pytest.mark.parametrize(
    ("settled", "acknowledged"),
    [
        ([[1], [2], [3]], [[(1, False)], [(2, False)], [(3, False)]]),
        ([[1, 2, 3]], [[(3, True)]]),
        ([[3, 1, 2], [4, 5]], [[(3, True)], [(5, True)]]),
        ([[2], [1]], [[(2, False)], [(1, False)]]),
        # 2 was acknowledged alone: the broker does not know it any more, and 3 covers 1.
        ([[2], [1, 3]], [[(2, False)], [(3, True)]]),
        ([[2, 4], [1], [3]], [[(2, False), (4, False)], [(1, False)], [(3, False)]]),
        ([[5, 1, 2, 7]], [[(2, True), (5, False), (7, False)]]),
    ],
)
def test_what_is_acknowledged(settled, acknowledged):
    acks = Acks()
    assert [acks.settle(tags) for tags in settled] == acknowledged


@given(st.permutations(range(1, 40)), st.lists(st.integers(1, 8), min_size=40, max_size=40))
def test_every_delivery_is_acknowledged_once_and_none_before_it_is_settled(order, sizes):
    acks, waiting, settled = Acks(), set(order), set()
    rest = list(order)
    for size in sizes:
        tags, rest = rest[:size], rest[size:]
        if not tags:
            break
        settled |= set(tags)
        for tag, multiple in acks.settle(tags):
            assert tag in waiting, "the broker closes the channel for a tag that it does not know"
            covered = {each for each in waiting if each <= tag} if multiple else {tag}
            assert covered <= settled
            waiting -= covered
        assert not settled & waiting
    assert not waiting
