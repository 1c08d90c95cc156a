"""What has come is taken in its order, and who waits for it is told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.errors import NotConnected
from amqp_rpc.message.envelope import Properties
from amqp_rpc.queues.arrivals import Arrivals


@dataclass
class Open:
    is_open: bool = True


def delivery(tag: int, channel: Open | None = None) -> Delivery:
    return Delivery(cast(Channel, channel or Open()), tag, redelivered=False, properties=Properties(), body=b"")


def tags(some: list[Delivery]) -> list[int]:
    return [each.tag for each in some]


def test_the_oldest_is_taken_first_and_what_came_by_a_closed_channel_never() -> None:
    arrivals, closed = Arrivals(), Open()
    for each in (delivery(1, closed), delivery(2), delivery(3)):
        arrivals.came(each)
    closed.is_open = False
    taken = [arrivals.take() for _ in range(3)]
    assert [each and each.tag for each in taken] == [2, 3, None]
    assert (len(arrivals), arrivals.taken) == (0, 3)


def test_each_item_wakes_one_who_waits_in_their_order() -> None:
    arrivals = Arrivals()
    first, second = arrivals.waiter(), arrivals.waiter()
    arrivals.came(delivery(1))
    assert (first.done(), second.done(), arrivals.awaited) == (True, False, True)
    arrivals.came(delivery(2))
    assert second.done()
    assert not arrivals.awaited


def test_who_begins_to_wait_when_something_is_there_is_told_at_once() -> None:
    arrivals = Arrivals()
    arrivals.came(delivery(1))
    assert arrivals.waiter().done()


def test_who_leaves_without_the_item_that_woke_them_wakes_another() -> None:
    arrivals = Arrivals()
    late, next_one = arrivals.waiter(), arrivals.waiter()
    arrivals.came(delivery(1))
    assert arrivals.leave(late)
    assert next_one.done()


def test_who_leaves_unwoken_is_told_nothing() -> None:
    arrivals = Arrivals()
    gone = arrivals.waiter()
    assert not arrivals.leave(gone)
    arrivals.came(delivery(1))
    assert not gone.done()


def test_all_who_wait_hear_that_nothing_will_come() -> None:
    arrivals, error = Arrivals(), NotConnected("test")
    waiting = [arrivals.waiter() for _ in range(3)]
    arrivals.fail(error)
    assert [each.value for each in waiting] == [error] * 3


def test_what_is_cleared_was_not_taken() -> None:
    arrivals = Arrivals()
    for tag in (1, 2, 3):
        arrivals.came(delivery(tag))
    arrivals.take()
    assert tags(arrivals.clear()) == [2, 3]
    assert (len(arrivals), arrivals.taken) == (0, 1)
