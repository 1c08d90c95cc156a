"""What is done is told and acknowledged together, and never acknowledged before it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.queues import items
from amqp_rpc.queues.ahead import Window, Windows
from amqp_rpc.queues.settling import Settling
from tests.amqp.fake import Timers

THERE, ELSEWHERE, HERE = "amqp_rpc.receipts.there", "amqp_rpc.receipts.elsewhere", "amqp_rpc.receipts.here"


class Loop(Timers):
    """Does at once what is left to it, and later what is said to be later."""

    def leave(self, callback: Callable[..., object], *args: Any) -> None:
        callback(*args)


@dataclass
class Channel:
    """Notes what it is asked for, and confirms when it is told to."""

    is_open: bool = True
    published: list[Message] = field(default_factory=list)
    confirms: list[Callable[[bool], object]] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)

    def publish_confirmed(self, message: Message, then: Callable[[bool], object]) -> bool:
        self.published.append(message)
        self.confirms.append(then)
        return True

    def ack(self, tags: list[int]) -> bool:
        self.acked += tags
        return True


class Case:
    def __init__(self) -> None:
        self.loop, self.channel = Loop(), Channel()
        self.here: list[str] = []
        self.came: list[int] = []
        self.settled: list[int] = []
        self.window, self.windows, self.delays = Window(10), Windows(), 0
        self.settling = Settling(self._here, self.windows, self._delayed, self._settled)

    def _delayed(self) -> None:
        self.delays += 1

    def _settled(self) -> None:
        self.settled = [tag for tag in self.came if self.windows.get(tag) is None]

    def _here(self, reply_to: str, identity: str) -> bool:
        if reply_to == HERE:
            self.here.append(identity)
        return reply_to == HERE

    def add(self, tag: int, reply_to: str | None = THERE) -> None:
        kind = None if reply_to is None else items.ITEM
        properties = Properties(type=kind, message_id=f"me-{tag:x}", reply_to=reply_to)
        delivery = Delivery(self.channel, tag, False, properties, b"")  # type: ignore[arg-type] # as far as it is used
        self.came.append(tag)
        self.windows.came(tag, self.window)
        self.settling.add(delivery, self)  # type: ignore[arg-type] # it has a loop


@pytest.fixture
def case() -> Case:
    return Case()


def told(message: Message) -> list[int]:
    return [number for _, number in items.read_receipt(message.properties, message.body)]


def test_what_is_done_at_about_the_same_time_is_told_together_and_acknowledged_after_that(case: Case) -> None:
    for tag in (1, 2, 3):
        case.add(tag)
    assert (case.channel.published, case.channel.acked) == ([], [])
    case.loop.pass_time()
    [message] = case.channel.published
    assert (message.routing_key, told(message)) == (THERE, [1, 2, 3])
    assert (case.channel.acked, case.settling.over) == ([], False)
    case.channel.confirms[0](True)
    assert case.channel.acked == case.settled == [1, 2, 3]
    assert case.settling.over


def test_many_are_not_gathered_for_long(case: Case) -> None:
    for tag in range(1, 200):
        case.add(tag)
    assert len(case.channel.published) >= 2
    case.loop.pass_time()
    assert [tag for message in case.channel.published for tag in told(message)] == list(range(1, 200))


def test_each_putter_is_told_of_its_own(case: Case) -> None:
    case.add(1)
    case.add(2, ELSEWHERE)
    case.add(3)
    case.settling.flush()
    assert {message.routing_key: told(message) for message in case.channel.published} == {THERE: [1, 3], ELSEWHERE: [2]}


def test_what_nobody_waits_for_or_who_is_here_needs_no_receipt(case: Case) -> None:
    case.add(1, None)
    case.add(2, HERE)
    case.add(3, "task_queue")
    case.settling.flush()
    assert (case.channel.published, case.channel.acked, case.here) == ([], [1, 2, 3], ["me-2"])
    assert case.settling.over


def test_a_receipt_that_the_broker_did_not_take_is_sent_again(case: Case) -> None:
    case.add(1)
    case.loop.pass_time()
    assert case.window.settling == 1
    case.channel.confirms[0](False)
    assert case.channel.acked == []
    # It makes no room now: who waits for it is to have another window.
    assert (case.window.settling, case.delays) == (0, 1)
    case.loop.pass_time()
    assert len(case.channel.published) == 2
    assert case.window.settling == 1
    case.channel.confirms[1](True)
    assert case.channel.acked == [1]
    assert (case.window.open, case.window.settling) == (0, 0)


def test_what_came_by_a_channel_that_is_closed_is_others_now(case: Case) -> None:
    case.add(1)
    case.channel.is_open = False
    case.loop.pass_time()
    assert (case.channel.published, case.channel.acked) == ([], [])
    assert case.settling.over


def test_after_a_flush_what_is_done_is_gathered_anew(case: Case) -> None:
    case.add(1)
    case.settling.flush()
    case.add(2)
    assert len(case.channel.published) == 1
    case.loop.pass_time()
    assert [told(message) for message in case.channel.published] == [[1], [2]]


@pytest.mark.parametrize("taken", [True, False])
def test_a_confirm_that_comes_when_its_channel_is_closed_says_nothing_any_more(case: Case, taken: bool) -> None:
    case.add(1)
    case.loop.pass_time()
    case.channel.is_open = False
    case.settling.forget()
    case.channel.confirms[0](taken)
    assert case.settling.over
    assert case.settled == case.loop.later == []
