"""Consumers without a broker: a queue is consumed, refused, consumed again, and ended."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from amqp_rpc import Service
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.topology import arrivals_queue
from amqp_rpc.server.consumers import ArrivalsConsumer, TaskConsumer
from amqp_rpc.server.invoke import Settings
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import TaskDispatcher
from amqp_rpc.server.worker import Worker
from tests.amqp.fake import FakeConnection


class Place:
    """A consumer of the task queue ``q``, and its state."""

    def __init__(self) -> None:
        service = Service()

        @service.task(queue="q")
        def work() -> None: ...

        self.connection = FakeConnection()
        self.state = State(Pool(1), ["q"], [])
        self.state.begin(cast(Any, self.connection))
        self.delivered: list[Any] = []
        self.arriving: dict[Any, list[Any]] = {}
        dispatcher = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(1000))
        self.consumer = TaskConsumer(self.state, cast(Worker, self), dispatcher, prefetch=3)
        self.consumer.begin(cast(Any, self.connection))

    def deliver(self, _dispatcher: TaskDispatcher, delivery: Any) -> None:
        self.delivered.append(delivery)

    def closed(self, code: int) -> None:
        """The broker closes the newest channel, and time passes."""
        self.connection.channels[-1].closed_by_broker(code)
        self.connection.loop.pass_time()


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_queue_is_declared_and_consumed_before_the_server_has_started(place: Place) -> None:
    place.consumer.on_open()
    (channel,) = place.connection.channels
    assert [each for each in channel.requests if each[1] == "q"] == [("declare", "q"), ("consume", "q")]
    assert ("prefetch", "3") in channel.requests
    assert place.state.started.is_set()
    assert (place.state.failure, place.state.counters["consumed"]) == (None, 1)


def test_other_arguments_end_the_start_with_advice(place: Place) -> None:
    place.connection.refuse("q", ReplyCode.PRECONDITION_FAILED)
    place.consumer.on_open()
    assert place.state.started.is_set()
    assert isinstance(place.state.failure, ConfigurationError)
    assert "Give @service.task the same queue_type=, max_length= and max_priority=" in str(place.state.failure)


def test_a_queue_that_is_refused_later_is_reported_once_until_it_works(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.consumer.on_open()
    place.connection.refuse("q", ReplyCode.PRECONDITION_FAILED)
    with caplog.at_level(logging.WARNING):
        place.closed(ReplyCode.NOT_FOUND)
        for _ in range(3):
            place.connection.loop.pass_time()
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    place.connection.refuse("q", None)
    place.connection.loop.pass_time()
    assert "queue q: works again" in caplog.text
    assert place.state.counters["consumed"] == 2


def test_a_consumer_that_ends_is_cancelled_and_then_the_server_is_drained(place: Place) -> None:
    place.connection.when_sent = lambda callback: callback()  # type: ignore[attr-defined]
    place.consumer.on_open()
    place.consumer.end()
    assert place.connection.channels[0].consuming == {}
    assert place.state.drained.is_set()
    place.closed(ReplyCode.NOT_FOUND)
    assert len(place.connection.channels) == 1


def test_a_server_that_stops_while_a_queue_is_declared_does_not_consume_it(place: Place) -> None:
    place.connection.when_sent = lambda callback: callback()  # type: ignore[attr-defined]
    place.connection.hold("q")
    place.consumer.on_open()
    place.consumer.end()
    assert not place.state.drained.is_set()
    place.connection.answer()
    assert ("consume", "q") not in place.connection.channels[0].requests
    assert place.state.drained.is_set()
    assert place.state.counters["consumed"] == 0


def test_a_lost_connection_ends_a_consumer_that_ends(place: Place) -> None:
    place.connection.hold("q")
    place.consumer.on_open()
    place.consumer.end()
    place.connection.lose()
    place.consumer.on_lost(ConnectionError("lost"))  # type: ignore[arg-type]
    assert place.state.drained.is_set()


class Arrivals(Place):
    """The consumer of the arrivals of ``q``, and what it has moved, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[str | None] = []
        dispatcher = self.consumer._dispatcher
        assert isinstance(dispatcher, TaskDispatcher)
        self.arrivals = ArrivalsConsumer(self.state, cast(Worker, self), dispatcher, cast(Replies, self))
        self.arrivals.begin(cast(Any, self.connection))
        self.arrivals.on_open()

    def arrive(self, identity: str, **headers: int) -> None:
        message = Message("", Properties(message_id=identity, headers=dict(headers)), b"")
        self.connection.channels[-1].deliver(arrivals_queue("q"), message)

    def move(self, message: Message, _delivery: Any) -> Any:
        self.moved.append(message.properties.message_id)
        return self

    def on_done(self, _callback: Any) -> None: ...


def test_suspects_that_arrive_together_are_moved_one_at_a_time_and_others_at_once() -> None:
    place = Arrivals()
    for identity in ("a", "b", "c"):
        place.arrive(identity, crashes=2)
    place.arrive("plain")
    place.arrive("retried", attempt=2)
    assert place.moved == ["a", "plain", "retried"]
    place.connection.loop.pass_time()
    assert place.moved[3:] == ["b"]
    place.connection.loop.pass_time()
    place.connection.loop.pass_time()
    place.arrive("d", crashes=3)
    assert place.moved[4:] == ["c", "d"]


def test_suspects_of_a_lost_channel_are_left_to_the_broker() -> None:
    place = Arrivals()
    for identity in ("a", "b"):
        place.arrive(identity, crashes=2)
    place.closed(ReplyCode.NOT_FOUND)
    for _ in range(3):
        place.connection.loop.pass_time()
    assert place.moved == ["a"]
