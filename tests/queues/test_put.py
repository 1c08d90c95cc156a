"""An item on its way: confirmed, refused by a full queue, too late, not published at all."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from queue import Full
from typing import Any

import pytest

from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.errors import AccessRefused, ConfigurationError, ConnectionLost, NotAllAccepted, PublishRefused
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.topology import item_arguments
from amqp_rpc.queues import put
from amqp_rpc.queues.put import NEVER, ItemProducer
from tests.queues.conftest import FakeSession


def producer(session: FakeSession, maxsize: int = 0) -> ItemProducer:
    arguments = item_arguments("quorum", maxsize=maxsize)
    return ItemProducer(session, "numbers", arguments, timeout=30.0, limit=1000)


def do_put(session: FakeSession, one: ItemProducer, *, wait: bool = True, until: float = NEVER) -> None:
    session.finish(one.put(1, wait=wait, until=until))


def nack(session: FakeSession) -> None:
    session.confirming.nack()
    session.fake.loop.pass_time()


def confirm(session: FakeSession) -> None:
    session.confirming.confirm()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def test_an_item_is_published_to_its_queue_and_asks_for_a_receipt(session: FakeSession) -> None:
    session.while_it_waits = lambda: confirm(session)
    one = producer(session)
    do_put(session, one)
    [message] = session.confirming.published
    assert message.routing_key == "numbers"
    assert message.properties.reply_to == session.reply_queue.address == "amq.gen-1"
    assert message.properties.message_id == one.unfinished.identity(0)
    assert len(one.unfinished) == 1


@pytest.mark.parametrize(("timeout", "given"), [(5.0, 5.0), (0.0, 0.001), (None, 30.0)])
def test_the_broker_has_the_time_of_the_put_or_the_client_s(
    session: FakeSession, timeout: float | None, given: float
) -> None:
    published: list[Publication] = []

    def note_and_confirm() -> None:
        published.extend(each for _, each in session.publisher._pending)
        confirm(session)

    session.while_it_waits = note_and_confirm
    do_put(session, producer(session), until=NEVER if timeout is None else time.monotonic() + timeout)
    assert published[0].timeout == pytest.approx(given, abs=0.1)


def test_a_full_queue_gets_the_item_again_until_there_is_room(session: FakeSession) -> None:
    answers = iter([nack, nack, confirm])
    session.while_it_waits = lambda: next(answers)(session)
    one = producer(session, maxsize=1)
    do_put(session, one)
    assert len({each.properties.message_id for each in session.confirming.published}) == 1
    assert len(session.confirming.published) == 3
    assert len(one.unfinished) == 1


def test_a_queue_that_stays_full_is_full_when_the_time_is_over(session: FakeSession) -> None:
    session.while_it_waits = lambda: nack(session)
    one = producer(session, maxsize=1)
    with pytest.raises(Full):
        do_put(session, one, until=time.monotonic() + 0.1)
    assert len(session.confirming.published) > 1
    with pytest.raises(Full):
        do_put(session, one, wait=False)
    assert len(one.unfinished) == 0


def test_a_put_that_waits_for_room_ends_when_the_object_is_closed(session: FakeSession) -> None:
    one = producer(session, maxsize=1)

    def close() -> None:
        one.shut = True
        nack(session)

    session.while_it_waits = close
    with pytest.raises(ConfigurationError, match="is closed"):
        do_put(session, one)
    assert len(one.unfinished) == 0


def test_a_refused_item_that_may_be_there_from_before_is_said_to_be(session: FakeSession) -> None:
    one = producer(session, maxsize=1)

    def lose_and_nack() -> None:
        [publication] = [each for _, each in session.publisher._pending]
        publication.doubtful = True
        nack(session)

    session.while_it_waits = lose_and_nack
    with pytest.raises(ConnectionLost, match=r"refused an item of queue 'numbers' that was sent before.* may be there"):
        do_put(session, one)
    assert len(one.unfinished) == 0


def test_a_queue_that_another_connection_has_for_itself_is_an_error_at_once(session: FakeSession) -> None:
    session.fake.refuse("numbers", ReplyCode.RESOURCE_LOCKED)
    with pytest.raises(ConfigurationError, match="'numbers' exists with other arguments"):
        do_put(session, producer(session))


def test_an_item_without_a_reply_queue_is_refused_at_once(session: FakeSession) -> None:
    one = producer(session)
    channel = session.reply_queue.channel
    assert channel is not None
    session.fake.refuse("amq.gen-1", ReplyCode.ACCESS_REFUSED)
    channel.closed_by_broker(ReplyCode.ACCESS_REFUSED)  # type: ignore[attr-defined] # it is a fake
    with pytest.raises(AccessRefused, match="403"):
        do_put(session, one)
    assert len(one.unfinished) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigurationError])
def test_what_could_not_be_published_is_not_waited_for(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    one, publish = producer(session), session.publish
    published: list[Publication] = []

    def fail_later(publication: Publication, **options: Any) -> None:
        if published:
            raise error
        published.append(publication)
        publish(publication, **options)

    monkeypatch.setattr(session, "publish", fail_later)
    session.while_it_waits = lambda: confirm(session)
    with pytest.raises(error) as raised:
        session.finish(one.put_many([1, 2, 3], until=NEVER))
    assert raised.value.__notes__ == ["1 item was put into queue 'numbers' before"]
    assert len(one.unfinished) == 1
    with pytest.raises(error):
        do_put(session, one)
    assert len(one.unfinished) == 1


@pytest.mark.parametrize(("values", "errors"), [(range(10), range(3, 10)), (itertools.count(), [3])])
def test_when_the_time_is_over_nothing_more_is_sent(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, values: Iterable[int], errors: Iterable[int]
) -> None:
    clock = Clock()
    monkeypatch.setattr(put, "time", clock)
    one, publish = producer(session), session.publish

    def publish_slowly(publication: Publication, **options: Any) -> None:
        publish(publication, **options)
        session.confirming.confirm()
        clock.now += 1

    monkeypatch.setattr(session, "publish", publish_slowly)
    with pytest.raises(NotAllAccepted, match="number 3: it was not sent: the time was over") as raised:
        session.finish(one.put_many(values, until=clock.now + 3))
    assert list(raised.value.errors) == list(errors)
    assert {type(error) for error in raised.value.errors.values()} == {PublishRefused}
    assert not raised.value.may_have_run
    assert ("after number 3 were not read" in str(raised.value)) == (values != range(10))
    assert len(one.unfinished) == 3


def test_items_that_a_full_queue_refuses_are_named_by_their_places(session: FakeSession) -> None:
    def refuse_odd_ones() -> None:
        message, _ = session.confirming.unconfirmed[0]
        odd = str(message.properties.message_id).split("-")[1] in "135"
        (nack if odd else confirm)(session)

    session.while_it_waits = refuse_odd_ones
    one = producer(session, maxsize=100)
    with pytest.raises(NotAllAccepted) as raised:
        session.finish(one.put_many(range(6), until=time.monotonic() + 0.3))
    assert list(raised.value.errors) == [1, 3, 5]
    assert len(one.unfinished) == 3
