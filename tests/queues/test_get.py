"""What a thread that takes says to others, and hears of the object's end: said of a broker that the test is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.conversation import Conversations
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.queues import items
from amqp_rpc.queues.get import Getting
from amqp_rpc.queues.put import NEVER


class Broker:
    """Is the caller, its connection, its loop and the channel."""

    is_open = alive = True

    def __init__(self) -> None:
        self.conversations = Conversations()
        #: What was left to the loop.
        self.left: list[Callable[..., object]] = []
        #: How often who waits at the sockets was told to look.
        self.woken = 0
        #: What happens while a thread waits, and while it gets the connection.
        self.while_it_waits: Callable[[], object] = lambda: None
        self.while_it_connects: Callable[[], object] = lambda: None

    @property
    def loop(self) -> Broker:
        return self

    def follow(self, _follower: object, _begin: object) -> Broker:
        self.while_it_connects()
        return self

    def leave(self, callback: Callable[..., object], *args: Any) -> None:
        self.left.append(callback)
        if callback.__name__ == "probe":
            # There is an item, and it is on its way.
            args[0].tell(1)

    def wait(self, outcome: Outcome[Any], _until: float) -> None:
        if not outcome.done():
            self.while_it_waits()

    def ended(self) -> None:
        self.woken += 1


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def getting(broker: Broker) -> Getting:
    caller: Any = broker
    receipts: Any = SimpleNamespace(told_here=None)
    return Getting(caller, receipts, "numbers", {}, timeout=30.0, limit=100)


@pytest.mark.parametrize("wait", [True, False])
def test_who_takes_an_item_and_wakes_another_has_those_at_the_sockets_look(
    broker: Broker, getting: Getting, wait: bool
) -> None:
    arrivals, message = getting.taking.arrivals, items.item("q", b"\x01", putter="me", number=0, reply_to="", now=0.0)
    channel: Any = broker
    other = Outcome[Any]()

    def two_come() -> None:
        arrivals.came(Delivery(channel, 1, False, message.properties, message.body))
        arrivals._waiters.append(other)
        arrivals._arrived.append(Delivery(channel, 2, False, message.properties, message.body))

    broker.while_it_waits = two_come
    assert getting.take(1, wait=wait, until=NEVER).value == 1
    assert other.done()
    assert broker.woken == 1


def test_who_begins_to_wait_when_it_was_just_closed_does_not(
    broker: Broker, getting: Getting, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter = getting.taking.arrivals.waiter

    def closed_before() -> Outcome[Any]:
        getting.closed = True
        return waiter()

    monkeypatch.setattr(getting.taking.arrivals, "waiter", closed_before)
    with pytest.raises(ConfigurationError, match="closed"):
        getting.take(1, wait=True, until=NEVER)
    assert broker.left == []
    assert not getting.taking.arrivals.awaited


def test_who_looks_again_and_again_looks_no_more_when_it_is_closed(broker: Broker, getting: Getting) -> None:
    broker.while_it_waits = lambda: setattr(getting, "closed", True)
    with pytest.raises(ConfigurationError, match="closed"):
        getting.take(1, wait=False, until=NEVER)
    assert broker.left == [getting.taking.probe]


def test_what_is_closed_while_its_first_taker_connects_is_closed_there_too(broker: Broker, getting: Getting) -> None:
    broker.while_it_connects = lambda: setattr(getting, "closed", True)
    with pytest.raises(ConfigurationError, match="closed"):
        getting.take(1, wait=True, until=NEVER)
    assert broker.left == [getting.taking.close, getting.taking.want]
