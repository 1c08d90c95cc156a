"""What one taker does with a channel that the broker closes, and with one that is closing: said of a noted one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from amqp_rpc.amqp.channel import Consumer, Delivery, QueueState
from amqp_rpc.amqp.conversation import Conversations
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConnectionLost
from amqp_rpc.message.envelope import Properties
from amqp_rpc.queues.taking import Taking

_NOT_FOUND = 404


class Broker:
    """Is the connection, its loop and its channel: agrees to all at once, but what the test is to answer."""

    is_open = was_open = True

    def __init__(self) -> None:
        #: What was asked for, and is to be answered.
        self.opened: list[tuple[Callable[[Any], object], Callable[..., object]]] = []
        self.asked: list[Callable[[QueueState], object]] = []
        self.closed: list[Callable[[], object]] = []
        #: Seconds of each timer, and what is due then.
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.deliver: Callable[[Delivery], object] = lambda _delivery: None
        #: How many consumers there were, and what went back.
        self.consumers = 0
        self.rejected: list[int] = []

    @property
    def loop(self) -> Broker:
        return self

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        self.later.append((seconds, callback))

    def pass_time(self) -> list[float]:
        """Let all that is for later happen; return after how many seconds each."""
        later, self.later = self.later, []
        for _, callback in later:
            callback()
        return [seconds for seconds, _ in later]

    def open(self) -> None:
        """Open the channel that was asked for."""
        opened, _ = self.opened.pop()
        opened(self)

    def item(self, tag: int) -> None:
        """Deliver an item."""
        channel: Any = self
        self.deliver(Delivery(channel, tag, False, Properties(), b""))

    def open_channel(self, opened: Callable[[Any], object], closed: Callable[..., object]) -> None:
        self.opened.append((opened, closed))

    def confirms(self, then: Callable[[], object]) -> None:
        then()

    def declare(self, queue: str, then: Callable[[QueueState], object], **_options: Any) -> None:
        then(QueueState(queue, 0, 0))

    def prefetch(self, _count: int) -> None:
        """Be asked for nothing."""

    def consume(self, _queue: str, deliver: Callable[[Delivery], object], **options: Any) -> Consumer:
        self.deliver = deliver
        self.consumers += 1
        options["then"]()
        consumer = Consumer()
        consumer.tag = "tag"
        return consumer

    def inspect(self, _queue: str, then: Callable[[QueueState], object]) -> None:
        self.asked.append(then)

    def cancel(self, _tag: str, _then: Callable[[], object]) -> None:
        """Agree, unnoted."""

    def reject(self, tag: int, *, requeue: bool) -> None:
        assert requeue
        self.rejected.append(tag)

    def close_in_order(self, then: Callable[[], object]) -> None:
        self.closed.append(then)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def taking(broker: Broker) -> Taking:
    taking = Taking("numbers", {}, Conversations(), lambda _reply_to, _identity: False)
    connection: Any = broker
    taking.begin(connection)
    taking.on_open()
    return taking


def test_a_queue_that_is_away_is_said_to_be_once_and_looked_for_more_and_more_rarely(
    broker: Broker, taking: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    for _ in range(8):
        _, closed = broker.opened.pop()
        closed(broker, BrokerError("its node is down"), _NOT_FOUND)
        pauses += broker.pass_time()
    assert pauses[0] < pauses[1] < pauses[2]
    assert max(pauses) <= 6
    assert caplog.text.count("its node is down") == 1
    broker.open()
    assert len(caplog.messages) == 1
    taking.want(1)
    assert caplog.messages[-1] == "Queue numbers is consumed again"
    # From now on it is news again.
    taking._closed(broker, BrokerError("its node is down"), _NOT_FOUND)  # type: ignore[arg-type] # it is noted
    assert caplog.text.count("its node is down") == 2
    [pause] = broker.pass_time()
    assert pause < pauses[1]


def test_closing_waits_for_what_is_on_its_way_back(broker: Broker, taking: Taking) -> None:
    broker.open()
    taking.want(1)
    broker.item(1)
    # Nobody takes it within the second.
    broker.pass_time()
    broker.asked.pop()(QueueState("numbers", 0, 3))
    [returned] = broker.closed
    ended = Outcome[int]()
    taking.close(ended)
    assert not ended.done()
    returned()
    assert ended.done()
    # Its own consumer was one of them: who waits until there are less waits until the item is there.
    assert ended.value == 3


def test_who_begins_to_wait_while_it_is_closed_is_told_at_once(broker: Broker, taking: Taking) -> None:
    broker.open()
    taking.want(1)
    before = taking.arrivals.waiter()
    ended, again = Outcome[int](), Outcome[int]()
    taking.close(ended)
    taking.close(again)
    late, asked = taking.arrivals.waiter(), Outcome[int | AmqpRpcError]()
    taking.probe(asked, 1)
    assert before.done()
    assert late.done()
    assert isinstance(asked.value, ConnectionLost)
    # Nobody has asked for anything since this one began to wait.
    last = taking.arrivals.waiter()
    broker.asked.pop()(QueueState("numbers", 0, 1))
    broker.closed.pop()()
    assert ended.value == 1
    assert last.done()


def test_one_that_is_closed_is_told_of_no_connection_any_more(broker: Broker) -> None:
    conversations, connection = Conversations(), cast(Any, broker)
    taking = Taking("numbers", {}, conversations, lambda _reply_to, _identity: False)
    taking.begin(connection)
    conversations.enter(taking)
    taking.close(Outcome[int]())
    # By a thread that saw it open.
    taking.begin(connection)
    conversations.enter(taking)
    assert not taking.following
    assert not conversations._all


def test_a_channel_that_ends_while_it_is_closed_is_not_said_to_be_opened_again(
    broker: Broker, taking: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    opened, closed = broker.opened.pop()
    opened(broker)
    ended = Outcome[int]()
    taking.close(ended)
    # Its queue was deleted.
    closed(broker, BrokerError("no queue"), _NOT_FOUND)
    assert ended.done()
    assert not caplog.messages
    assert not broker.later


def test_it_is_known_whether_there_is_something_while_the_broker_has_a_consumer(broker: Broker, taking: Taking) -> None:
    broker.open()
    assert not taking.consuming
    taking.want(1)
    assert taking.consuming
    broker.item(1)
    # Nobody takes it within the second: it goes back, and nothing comes any more.
    broker.pass_time()
    broker.asked.pop()(QueueState("numbers", 0, 1))
    assert not taking.consuming


def test_what_comes_while_the_rest_goes_back_keeps_nobody_else_waiting(broker: Broker, taking: Taking) -> None:
    broker.open()
    taking.want(1)
    for tag in (1, 2):
        broker.item(tag)
    taking.arrivals.take()
    # Of what came in the last second, one was taken; of what came in this one, none.
    broker.pass_time()
    broker.pass_time()
    broker.asked.pop()(QueueState("numbers", 0, 1))
    assert broker.rejected == [2]
    waiting = [taking.arrivals.waiter() for _ in range(2)]
    for _ in waiting:
        taking.want(1)
    # It was on its way.
    broker.item(3)
    assert [each.done() for each in waiting] == [True, False]
    assert broker.consumers == 1
    broker.asked.pop()(QueueState("numbers", 0, 0))
    assert broker.consumers == 2


def test_who_asks_is_answered_though_something_has_come_that_nobody_took(broker: Broker, taking: Taking) -> None:
    broker.open()
    taking.want(1)
    broker.item(1)
    taking._pause()
    asked = Outcome[int | AmqpRpcError]()
    taking.probe(asked, 1)
    for _ in range(2):
        broker.asked.pop()(QueueState("numbers", 4, 1))
    assert asked.value == 4


def test_who_closes_it_is_told_though_another_one_has_it_closed_too(broker: Broker, taking: Taking) -> None:
    broker.open()
    ended = Outcome[int]()
    # The broker has not heard of all that is done.
    taking._settling._unconfirmed = 1
    taking.close(ended)
    taking.close(Outcome[int]())
    taking._settling.forget()
    taking._end_if_settled()
    broker.asked.pop()(QueueState("numbers", 0, 1))
    broker.closed.pop()()
    assert ended.done()
