"""The copy of a delivery: published until the broker has it, and then the delivery is acked."""

from __future__ import annotations

import base64
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.errors import ConfigurationError, ConnectionLost
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.settings import broker_addresses
from amqp_rpc.message.timing import Repeats
from amqp_rpc.server.replies import Copy, CopyPublisher, DirectReplyChannel, ReplyChannel, is_direct_name
from amqp_rpc.server.state import State
from tests.amqp.fake import FakeChannel, FakeConnection


class Acks:
    """A state that notes which deliveries are acked."""

    def __init__(self) -> None:
        self.acked: list[Delivery] = []
        self.counters: Counter[str] = Counter()
        self.repeats = Repeats()
        self.keys = None

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        self.acked += deliveries

    def ready(self, part: str) -> None:
        """Nothing waits for it."""


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def acks() -> Acks:
    return Acks()


@pytest.fixture
def copies(connection: FakeConnection, acks: Acks) -> CopyPublisher:
    made = CopyPublisher(broker_addresses("amqp://localhost"), cast(State, acks), {})
    made.begin(cast(Any, connection))
    return made


def delivery(*, is_open: bool = True, headers: dict[str, Any] | None = None) -> Delivery:
    return Delivery(cast(Channel, SimpleNamespace(is_open=is_open)), 1, True, Properties(headers=headers), b"")


def copy(acks: Acks, *, accepted: bool = True, of: Delivery | None = None, **headers: Any) -> Copy:
    message = Message("q", Properties(headers=headers), b"body")
    return Copy(message, of or delivery(), cast(State, acks), {}, accepted=accepted)


def sent(copies: CopyPublisher, connection: FakeConnection, made: Copy) -> FakeChannel:
    """Publish a copy; return the channel with confirms."""
    copies.add(made)
    copies.send(made)
    return connection.channels[0]


def test_a_confirm_acks_the_delivery(copies: CopyPublisher, connection: FakeConnection, acks: Acks) -> None:
    made = copy(acks)
    channel = sent(copies, connection, made)
    assert ([each.body for each in channel.published], acks.acked) == ([b"body"], [])
    channel.confirm()
    assert acks.acked == [made.delivery]


def test_a_copy_that_no_queue_took_is_published_again_to_a_queue_that_is_declared_again(
    copies: CopyPublisher, connection: FakeConnection, acks: Acks
) -> None:
    channel = sent(copies, connection, copy(acks))
    channel.give_back(channel.published[0])
    channel.confirm()
    assert acks.acked == []
    declared = [each for one in connection.channels for each in one.queues].count("q")
    connection.loop.pass_time()
    assert [each for one in connection.channels for each in one.queues].count("q") == declared + 1
    channel.confirm()
    assert len(acks.acked) == 1


@pytest.mark.parametrize("accepted", [True, False], ids=["a task", "a call"])
def test_a_task_that_the_broker_refuses_stays_and_a_call_is_dropped_in_the_end(
    copies: CopyPublisher, connection: FakeConnection, acks: Acks, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    channel = sent(copies, connection, copy(acks, accepted=accepted))
    for _ in range(5):
        assert acks.acked == []
        channel.nack()
        connection.loop.pass_time()
    assert len(acks.acked) == (0 if accepted else 1)
    assert len(channel.unconfirmed) == (1 if accepted else 0)
    assert len(caplog.records) == 1


def test_copies_that_amqp_can_t_carry_go_with_fewer_headers_and_one_warning_of_a_kind_says_so(
    copies: CopyPublisher, connection: FakeConnection, acks: Acks, caplog: pytest.LogCaptureFixture
) -> None:
    sent(copies, connection, copy(acks, attempt=2))
    channel = connection.channels[0]
    channel.confirm()
    real = channel.publish

    def publish(message: Message, *, mandatory: bool = False) -> bool:
        if "mine" not in (message.properties.headers or {}):
            channel.unwritable.clear()
        return real(message, mandatory=mandatory)

    channel.publish = publish  # type: ignore[method-assign]
    for _ in range(3):
        channel.unwritable["q"] = ConfigurationError("too large")
        made = copy(acks, attempt=2, error="x", mine="y")
        copies.add(made)
        copies.send(made)
        assert channel.published[-1].properties.headers == {"attempt": 2, "headers_dropped": True}
    assert [each.message for each in caplog.records] == [
        "queue q: message published with shorter headers of ours: too large",
        "queue q: message published without its publisher's headers: too large",
    ]


@pytest.mark.parametrize("accepted", [True, False], ids=["a task", "a call"])
def test_a_copy_that_can_t_be_written_at_all_leaves_a_task_unacked(
    copies: CopyPublisher, connection: FakeConnection, acks: Acks, accepted: bool
) -> None:
    channel = sent(copies, connection, copy(acks))
    channel.confirm()
    acks.acked.clear()
    channel.unwritable["q"] = ConfigurationError("never")
    made = copy(acks, accepted=accepted)
    copies.add(made)
    copies.send(made)
    assert acks.acked == ([] if accepted else [made.delivery])


@pytest.mark.parametrize(
    ("is_open", "counted", "expected"),
    [
        (True, None, False),
        (True, 3, False),
        (False, None, True),
        (False, 3, True),
        (False, 15, False),
        (False, "", True),
    ],
)
def test_after_a_lost_channel_there_is_no_copy_unless_the_broker_is_about_to_drop_the_original(
    acks: Acks, is_open: bool, counted: Any, expected: bool
) -> None:
    """RabbitMQ 4 drops what a quorum queue got back 20 times: its dead letter must not wait for a 21st."""
    headers = None if counted is None else {"x-delivery-count": counted}
    assert copy(acks, of=delivery(is_open=is_open, headers=headers)).is_obsolete() is expected


class TestLargeReplies:
    @pytest.fixture
    def replies(self, connection: FakeConnection, acks: Acks) -> ReplyChannel:
        connection.limit = 40_000
        connection.loop.before_sleep = lambda callback: callback()  # type: ignore[attr-defined]
        connection.when_sent = lambda callback: callback()  # type: ignore[attr-defined]
        made = ReplyChannel("replies", cast(State, acks))
        made.begin(cast(Any, connection))
        made.on_open()
        return made

    @staticmethod
    def reply(size: int, content_type: str = MSGPACK) -> Message:
        return Message("amq.gen-1", Properties(content_type, correlation_id="7", type="result"), b"x" * size)

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON, "application/octet-stream"])
    def test_one_that_the_broker_does_not_take_is_an_error_that_says_that_it_ran(
        self, replies: ReplyChannel, connection: FakeConnection, acks: Acks, content_type: str
    ) -> None:
        replies.publish(self.reply(50_000, content_type), delivery(), mandatory=True)
        replies.publish(self.reply(3), delivery(), mandatory=True)
        connection.loop.pass_time()
        _check, small, error = connection.channels[0].published
        assert len(small.body) == 3
        assert (error.properties.type, error.properties.correlation_id) == ("error", "7")
        assert b"50000 bytes, and the broker's limit is 40000" in error.body
        assert len(acks.acked) == 2
        if content_type != "application/octet-stream":
            described = codec.decode(error.body, content_type, limit=1000)
            assert (described["type"], described["data"]) == ("MessageTooLarge", {"ran": True})

    def test_one_that_is_tried_while_the_connection_is_lost_goes_over_the_next(
        self, replies: ReplyChannel, connection: FakeConnection, acks: Acks
    ) -> None:
        replies.publish(self.reply(30_000), delivery(), mandatory=True)
        connection.lose()
        replies.on_lost(ConnectionLost("gone"))
        assert acks.acked == []
        connection.reopen()
        replies.on_open()
        connection.loop.pass_time()
        assert [len(message.body) for message in connection.channels[-1].published] == [0, 30_000]
        assert len(acks.acked) == 1


def direct_name(
    node: bytes = b"reply@102345678", *, head: bytes = b"\x83Xv\0", numbers: int = 12, key: str = "a2V5"
) -> str:
    """Return a name as RabbitMQ makes it, or nearly."""
    process = head + bytes([len(node)]) + node + bytes(numbers)
    return f"amq.rabbitmq.reply-to.{base64.b64encode(process).decode()}.{key}"


@pytest.mark.parametrize(
    "name",
    [
        # As RabbitMQ 4.3 has made it.
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA3ODkzNjc0MAAAAyAAAAAAawsl1g==.pevvwhu0KB5Q9D+m7jIgLw==",
        direct_name(),
        direct_name(b"reply@1", head=b"\x83Xw"),
        direct_name(head=b"\x83gw", numbers=9),
    ],
)
def test_a_name_that_rabbitmq_makes_is_one(name: str) -> None:
    assert is_direct_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.garbage",
        "amq.rabbitmq.reply-to.g1h2AAAA",
        "amq.rabbitmq.reply-to.g1h2AA.AAAA",
        "amq.rabbitmq.reply-to.g2dkAA9yYWJiaXRAbG9jYWxob3N0AAAB9QAAAAAB.xx==",
        "amq.rabbitmq.reply-to.é.é",
        direct_name(b"rabbit@localhost"),
        direct_name(b"reply@"),
        direct_name(b"reply@-5"),
        direct_name(b"reply@1234567890"),
        direct_name(head=b"\x83Xd\0"),
        direct_name(head=b"\x83h"),
        direct_name(numbers=11),
        direct_name(numbers=13),
        direct_name(numbers=9),
        direct_name(key=""),
        direct_name(key="a2V5.a2V5"),
        direct_name(key="a b"),
    ],
)
def test_another_name_is_none(name: str) -> None:
    assert not is_direct_name(name)


@pytest.mark.parametrize(("version", "published"), [((3, 10), 1), ((4, 2), 1), ((4, 3), 2)])
def test_a_reply_to_a_name_that_would_close_the_connection_is_dropped_and_its_delivery_acked(
    connection: FakeConnection, acks: Acks, version: tuple[int, ...], published: int
) -> None:
    connection.version = version
    made = DirectReplyChannel("direct replies", cast(State, acks))
    made.begin(cast(Any, connection))
    connection.loop.before_sleep = lambda callback: callback()  # type: ignore[attr-defined]
    connection.when_sent = lambda callback: callback()  # type: ignore[attr-defined]
    for name in ("amq.rabbitmq.reply-to.garbage", direct_name()):
        # Before there is a channel, the version is not known.
        made.publish(Message(name, Properties(), b""), delivery(), False)
    made.on_open()
    assert len([each for each in connection.channels[0].published if "reply-to" in each.routing_key]) == published
    assert (len(acks.acked), acks.counters["returned"]) == (2, 2 - published)
