"""A thread that takes an item and wakes another one says so to who reads at the sockets."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc import items
from amqp_rpc.conversation import Conversations
from amqp_rpc.getting import Getting
from amqp_rpc.outcome import Outcome
from amqp_rpc.putting import NEVER
from amqp_rpc.transport import Delivery


class Broker:
    """Is the caller, its connection and the channel: while one thread waits, two items come, and another one waits."""

    is_open = alive = True
    elsewhere = False

    def __init__(self) -> None:
        self.conversations = Conversations()
        self.getting: Any = None
        #: How often who waits at the sockets was told to look.
        self.woken = 0
        self.other: Outcome[Any] | None = None

    @property
    def loop(self) -> Broker:
        return self

    def follow(self, _follower: object, _begin: object) -> Broker:
        return self

    def leave(self, callback: Callable[..., object], *args: Any) -> None:
        if callback == self.getting.taking.probe:
            # There is one, and it is on its way.
            args[0].tell(1)

    def wait(self, outcome: Outcome[Any], _until: float) -> None:
        if outcome.done():
            return
        arrivals = self.getting.taking.arrivals
        message = items.item("q", b"\x01", putter="me", number=0, reply_to="", now=0.0)
        channel: Any = self
        arrivals.came(Delivery(channel, 1, False, message.properties, message.body))
        self.other = Outcome()
        arrivals._waiters.append(self.other)
        arrivals._arrived.append(Delivery(channel, 2, False, message.properties, message.body))

    def ended(self) -> None:
        self.woken += 1


@pytest.mark.parametrize("wait", [True, False])
def test_who_takes_an_item_and_wakes_another_has_them_look(wait: bool) -> None:
    broker: Any = Broker()
    getting = broker.getting = Getting(
        broker, SimpleNamespace(told_here=None), "q", {}, timeout=30.0, limit=100  # type: ignore[arg-type]
    )  # fmt: skip
    assert getting.take(1, wait=wait, until=NEVER).value == 1
    assert broker.other.done()
    assert broker.woken == 1
