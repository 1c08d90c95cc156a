"""A tap on events, without a broker: when it listens, what ends it, and what it survives."""

from __future__ import annotations

import pytest

from amqp_rpc import ConfigurationError, Exchange
from amqp_rpc.amqp.channel import AddressedDelivery
from amqp_rpc.errors import AccessRefused, ConnectionLost, NotConnected
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.exchanges import bindings
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.settings import broker_addresses
from amqp_rpc.ops.listen import EventTap
from tests.amqp.fake import FakeConnection

EXCHANGE = Exchange("x")


class Tap(EventTap):
    """Counts how often it was ready."""

    def __init__(self, connection: FakeConnection) -> None:
        addresses = broker_addresses("amqp://localhost")
        super().__init__(addresses, EXCHANGE, bindings(EXCHANGE, ["a.#", "b"], None), name="tap", heartbeat=60)
        self.begin(connection)  # type: ignore[arg-type]
        self.times_ready = 0

    def ready(self) -> None:
        self.times_ready += 1


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def tap(connection: FakeConnection) -> Tap:
    return Tap(connection)


def deliver(connection: FakeConnection, topic: str) -> None:
    channel = next(each for each in reversed(connection.channels) if each.consuming)
    (_, on_delivery) = next(iter(channel.consuming.values()))
    on_delivery(AddressedDelivery(channel, 7, False, Properties(), b"", "x", topic))  # type: ignore[arg-type]


def test_it_binds_a_queue_of_its_own_and_yields_and_acks_events(connection: FakeConnection, tap: Tap) -> None:
    tap.on_open()
    channel, declaring = connection.channels
    assert declaring.exchanges == ["x"]
    assert channel.bindings == [("amq.gen-1", "x", "a.#"), ("amq.gen-1", "x", "b")]
    assert (tap.times_ready, str(tap)) == (1, "a.#, b of the topic exchange 'x'")
    deliver(connection, "a.b")
    tap.stop()
    assert [event.routing_key for event in tap] == ["a.b"]
    assert channel.acked == [7]


@pytest.mark.parametrize(
    ("code", "error"), [(ReplyCode.PRECONDITION_FAILED, ConfigurationError), (ReplyCode.ACCESS_REFUSED, AccessRefused)]
)
def test_a_refusal_ends_it_with_one_error(
    connection: FakeConnection, tap: Tap, code: ReplyCode, error: type[Exception]
) -> None:
    connection.there = set()
    connection.refuse("x", code)
    tap.on_open()
    with pytest.raises(error):
        list(tap)
    opened = len(connection.channels)
    connection.loop.pass_time()
    assert (len(connection.channels), tap.times_ready) == (opened, 0)


def test_an_exchange_that_is_there_needs_no_right_to_configure_it(connection: FakeConnection, tap: Tap) -> None:
    connection.refuse("x", ReplyCode.ACCESS_REFUSED)
    tap.on_open()
    assert tap.times_ready == 1


def test_a_deleted_queue_is_declared_again(connection: FakeConnection, tap: Tap) -> None:
    tap.on_open()
    connection.channels[0].cancel_consumers()
    connection.loop.pass_time()
    assert (len([each for each in connection.channels if each.consuming]), tap.times_ready) == (1, 2)


def test_a_lost_connection_is_followed_by_another_one_but_for_the_first(connection: FakeConnection, tap: Tap) -> None:
    tap.on_open()
    connection.lose()
    tap.on_lost(ConnectionLost("gone"))
    connection.reopen()
    tap.on_open()
    assert tap.times_ready == 2
    connection.was_open = False
    tap.on_lost(NotConnected("no"))
    with pytest.raises(NotConnected):
        list(tap)
