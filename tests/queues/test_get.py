"""A consumer's requests to the broker, and its acks of done items: on a fake connection."""

from __future__ import annotations

import time
from queue import Empty
from typing import Any, cast

import pytest

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.errors import ConfigurationError, ConnectionLost
from amqp_rpc.message.envelope import Message
from amqp_rpc.queues import get, items
from amqp_rpc.queues.get import ItemConsumer, Taken
from amqp_rpc.queues.put import NEVER
from tests.amqp.fake import FakeChannel
from tests.queues.conftest import FakeSession

THERE, ELSEWHERE = "amq.gen-there", "amq.gen-elsewhere"


class Place:
    """A consumer over a fake connection, which delivers on request."""

    def __init__(self, session: FakeSession, prefetch: int) -> None:
        self.session = session
        self.consumer = ItemConsumer(session, "q", {}, {}, prefetch=prefetch, timeout=30.0, limit=100)
        self.number = 0
        #: Makes the ids of the items.
        self.identity = "me-{:x}-proof".format

    @property
    def channel(self) -> FakeChannel:
        if self.consumer.channel is not None:
            return cast("FakeChannel", self.consumer.channel)
        return next(each for each in reversed(self.session.fake.channels) if ("consume", "q") in each.requests)

    @property
    def asked(self) -> list[str]:
        """The requests on the queue's channel since its declaration."""
        return [operation for operation, _ in self.channel.requests if operation != "declare"]

    def message(self, reply_to: str | None = THERE) -> Message:
        message = items.item("q", b"\x01", identity=self.identity(self.number))
        message.properties.reply_to = reply_to
        self.number += 1
        return message

    def deliver(self, count: int = 1, reply_to: str | None = THERE) -> None:
        for _ in range(count):
            self.channel.deliver("q", self.message(reply_to))

    def take(self, *, wait: bool = True, until: float = NEVER) -> Taken:
        return self.session.finish(self.consumer.receive(1, wait=wait, until=until))

    def take_some(self, count: int, reply_to: str | None = THERE) -> list[Taken]:
        """Get as many items as are delivered, each after a wait."""
        self.session.while_it_waits = lambda: self.deliver(reply_to=reply_to)
        return [self.take() for _ in range(count)]


@pytest.fixture
def place(session: FakeSession) -> Place:
    return Place(session, prefetch=10)


@pytest.fixture
def single(session: FakeSession) -> Place:
    return Place(session, prefetch=1)


def numbers(message: Message) -> list[int]:
    return [int(str(each).split("-")[1], 16) for each in items.read_receipt(message.properties, message.body)]


def test_the_first_taker_declares_the_queue_and_consumes_it_with_the_prefetch(place: Place) -> None:
    place.take_some(2)
    assert [each.queues for each in place.session.fake.channels if each.queues][-1] == ["q"]
    assert place.channel.requests == [("prefetch", "10"), ("consume", "q")]


def test_a_taker_that_does_not_wait_hears_that_there_is_none(place: Place) -> None:
    with pytest.raises(Empty):
        place.take(wait=False)
    # Items that were on their way at the first answer have arrived at the second.
    assert place.asked == ["prefetch", "consume", "inspect", "inspect"]


def test_a_taker_that_does_not_wait_waits_for_an_item_that_is_ready(place: Place) -> None:
    place.session.fake.messages["q"] = 1
    place.session.while_it_waits = place.deliver
    assert place.take(wait=False).value == 1


def test_an_item_that_never_comes_though_it_is_ready_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get, "_ON_ITS_WAY", 0.05)
    place.session.fake.messages["q"] = 1

    def pass_time() -> None:
        time.sleep(0.01)
        place.session.fake.loop.pass_time()

    place.session.while_it_waits = pass_time
    with pytest.raises(Empty):
        place.take(wait=False)


def test_when_all_items_of_a_consumer_are_with_takers_another_one_takes_its_place(single: Place) -> None:
    single.take_some(3)
    assert single.asked == ["prefetch", "consume", "cancel", "prefetch", "consume", "cancel", "prefetch", "consume"]
    assert len(single.channel.consuming) == 1


def test_a_consumer_of_which_something_is_done_goes_on(single: Place) -> None:
    [first] = single.take_some(1)
    single.consumer.settle([first])
    single.take_some(1)
    assert single.channel.acked == [1]
    assert single.asked == ["prefetch", "consume"]


def test_an_item_of_an_earlier_consumer_makes_no_room_in_this_one(single: Place) -> None:
    first, _ = single.take_some(2)
    single.consumer.settle([first])
    single.take_some(1)
    assert single.asked.count("consume") == 3


def test_a_taker_that_wakes_another_one_has_the_thread_at_the_sockets_look(place: Place) -> None:
    other = Outcome[Any]()

    def two_come() -> None:
        place.deliver()
        place.consumer._waiters.append(other)
        place.consumer._arrived.append(place.consumer._arrived[0])

    place.session.while_it_waits = two_come
    place.take()
    assert other.done()
    assert place.session.woken == 1


def test_a_taker_that_begins_to_wait_when_the_object_was_just_closed_does_not(place: Place) -> None:
    def close_meanwhile() -> None:
        place.consumer.shut = True

    place.session.while_it_connects = close_meanwhile
    with pytest.raises(ConfigurationError, match="closed"):
        place.take()
    assert place.consumer.ended
    assert not place.consumer._waiters


def test_a_taker_that_waits_hears_that_the_object_is_closed(place: Place) -> None:
    place.session.while_it_waits = lambda: place.session.finish(place.consumer.stop(5.0))
    for wait in (True, False):
        with pytest.raises(ConfigurationError, match="closed"):
            place.take(wait=wait)
    assert not place.channel.is_open


def test_what_arrived_by_a_lost_connection_is_forgotten(place: Place) -> None:
    place.take_some(1)
    place.deliver(3)
    place.session.fake.lose()
    place.consumer.on_lost(ConnectionLost("test"))
    assert place.consumer.prefetched == 0
    place.session.fake.reopen()
    place.consumer.on_open()
    # No caller waits.
    assert len([each for each in place.session.fake.channels if "q" in each.queues]) == 1
    place.take_some(1)
    assert [each.queues for each in place.session.fake.channels if each.queues][-1] == ["q"]
    assert place.channel.requests == [("prefetch", "10"), ("consume", "q")]


# Items that are done.


def test_items_are_acked_together_after_their_receipts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    some = place.take_some(3)
    told_before: list[int] = []
    ack = place.channel.ack
    monkeypatch.setattr(
        place.channel, "ack", lambda tags: (told_before.append(len(place.channel.published)), ack(tags))
    )
    place.consumer.settle(some)
    assert (place.channel.published, place.channel.acked) == ([], [])
    place.session.fake.loop.pass_time()
    [receipt] = place.channel.published
    assert (receipt.routing_key, numbers(receipt)) == (THERE, [0, 1, 2])
    assert place.channel.acked == [1, 2, 3]
    assert told_before == [1]


def test_half_a_prefetch_is_acked_at_once(place: Place) -> None:
    for each in place.take_some(7):
        place.consumer.settle([each])
    assert place.channel.acked == [1, 2, 3, 4, 5]
    place.session.fake.loop.pass_time()
    assert place.channel.acked == [1, 2, 3, 4, 5, 6, 7]


def test_each_putter_gets_the_receipts_of_its_own(place: Place) -> None:
    some = [*place.take_some(1), *place.take_some(1, ELSEWHERE), *place.take_some(1)]
    place.consumer.settle(some)
    place.session.fake.loop.pass_time()
    assert {each.routing_key: numbers(each) for each in place.channel.published} == {THERE: [0, 2], ELSEWHERE: [1]}


def test_an_item_of_this_client_or_of_a_foreign_program_needs_no_receipt(place: Place) -> None:
    mine = place.consumer._receipts.unfinished("me")
    place.identity = mine.identity
    for _ in range(3):
        mine.add()
    some = [each for address in (place.session.reply_queue.address, None, "q") for each in place.take_some(1, address)]
    place.consumer.settle(some)
    place.session.fake.loop.pass_time()
    assert (place.channel.published, place.channel.acked) == ([], [1, 2, 3])
    assert len(mine) == 2


def test_a_foreign_item_counts_for_nobody_while_there_is_no_reply_queue(place: Place) -> None:
    mine = place.consumer._receipts.unfinished("me")
    place.identity = mine.identity
    mine.add()
    some = place.take_some(1, None)
    place.session.reply_queue.address = None
    place.consumer.settle(some)
    place.session.fake.loop.pass_time()
    assert place.channel.acked == [1]
    assert len(mine) == 1


def test_an_item_whose_channel_is_closed_is_not_acked(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    some = place.take_some(2)
    place.consumer.settle(some[:1])
    channel = place.channel
    channel.closed_by_broker()
    place.consumer.settle(some[1:])
    place.session.fake.loop.pass_time()
    assert (channel.published, channel.acked) == ([], [])
    assert "the broker redelivers them" in caplog.text


# Items that go back.


def test_prefetched_items_that_nobody_takes_go_back_in_their_order(place: Place) -> None:
    place.take_some(1)
    place.deliver(4)
    place.session.fake.loop.pass_time()
    place.session.fake.loop.pass_time()
    assert place.channel.rejected == [(tag, True) for tag in (2, 3, 4, 5)]
    assert place.channel.consuming == {}
    assert place.consumer.prefetched == 0


def test_a_cancellation_by_the_broker_is_noticed_once_for_all_consumers(place: Place) -> None:
    for _ in range(3):
        place.take_some(1)
        place.deliver(4)
        for _ in range(2):
            place.session.fake.loop.pass_time()
        assert place.channel.consuming == {}
    place.take_some(1)
    channel = place.channel
    channel.cancel_consumers()
    assert not channel.is_open
    place.take_some(1)
    assert place.channel is not channel
    assert len(channel._on_cancelled) == len(place.channel._on_cancelled) == 1


def test_prefetched_items_stay_while_as_many_were_taken_in_the_last_second(place: Place) -> None:
    place.take_some(4)
    place.deliver(4)
    place.session.fake.loop.pass_time()
    assert place.channel.rejected == []


def test_closing_requeues_all_unacked_items_in_their_order(place: Place) -> None:
    some = place.take_some(3)
    place.deliver(3)
    place.consumer.settle(some[1:2])
    place.session.finish(place.consumer.stop(5.0))
    assert place.channel.acked == [2]
    assert [tag for tag, _ in place.channel.rejected] == [1, 3, 4, 5, 6]
    assert not place.channel.is_open


def test_a_receipt_that_is_a_delivery_of_the_reply_queue_counts(session: FakeSession) -> None:
    place = Place(session, prefetch=1)
    mine = place.consumer._receipts.unfinished("me")
    mine.add()
    (message,) = items.receipts("amq.gen-1", [mine.identity(0), "you-0"])
    channel: Any = session.reply_queue.channel
    session.reply_queue.received(Delivery(channel, 1, False, message.properties, message.body))
    assert len(mine) == 0
    mine.add()
    session.reply_queue.on_lost(ConnectionLost("test"))
    assert (len(mine), mine.lost()) == (0, 1)
