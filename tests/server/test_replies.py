"""The copy of a delivery: published until the broker has it, and then the delivery is acked."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.settings import broker_addresses
from amqp_rpc.server.replies import Copy, CopyPublisher
from amqp_rpc.server.state import State
from tests.amqp.fake import FakeChannel, FakeConnection


class Acks:
    """A state that notes which deliveries are acked."""

    def __init__(self) -> None:
        self.acked: list[Delivery] = []
        self.counters: Counter[str] = Counter()

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


def test_a_copy_that_amqp_can_t_carry_goes_with_fewer_headers_and_says_so(
    copies: CopyPublisher, connection: FakeConnection, acks: Acks
) -> None:
    sent(copies, connection, copy(acks, attempt=2))
    channel = connection.channels[0]
    channel.confirm()
    channel.unwritable["q"] = ConfigurationError("too large")
    made = copy(acks, attempt=2, error="x", mine="y")
    copies.add(made)
    del_after = channel.unwritable

    real = channel.publish

    def publish(message: Message, *, mandatory: bool = False) -> bool:
        if "mine" not in (message.properties.headers or {}):
            del_after.clear()
        return real(message, mandatory=mandatory)

    channel.publish = publish  # type: ignore[method-assign]
    copies.send(made)
    assert channel.published[-1].properties.headers == {"attempt": 2, "headers_dropped": True}


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
