"""Consumers without a broker: a queue is consumed, refused, consumed again, and ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from amqp_rpc import Service
from amqp_rpc.errors import BrokerError, ConfigurationError
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.topology import arrivals_queue
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.consumers import ArrivalsConsumer, CallConsumer, TaskConsumer
from amqp_rpc.server.invoke import Settings
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import TaskDispatcher
from amqp_rpc.server.worker import Worker
from tests.amqp.fake import FakeConnection

#: What RabbitMQ 3.10 says.
TIMED_OUT = (
    "the broker closed the channel: 406 PRECONDITION_FAILED - delivery acknowledgement on channel 3 timed out. Timeout "
    "value used: 15000 ms. This timeout value can be configured, see consumers doc guide to learn more"
)


def work() -> None:
    """Do nothing."""


class Place:
    """A consumer of the task queue ``q``, and its state."""

    def __init__(self, queue_type: str = "quorum", limits: Sequence[float | None] = (None,)) -> None:
        service = Service()
        for number, limit in enumerate(limits):
            service.task(queue="q", queue_type=queue_type, time_limit=limit, name=f"work{number}")(work)
        self.connection = FakeConnection()
        self.state = State(Pool(1), ["q"], [])
        self.state.begin(cast(Any, self.connection))
        self.delivered: list[Any] = []
        self.arriving: dict[Any, list[Any]] = {}
        self.taken_back: list[tuple[str, Any]] = []
        dispatcher = TaskDispatcher("q", {each.name: each for each in service.tasks}, Settings(1000))
        self.consumer = TaskConsumer(self.state, cast(Worker, self), dispatcher, prefetch=3)
        self.consumer.begin(cast(Any, self.connection))

    def deliver(self, _dispatcher: TaskDispatcher, delivery: Any) -> None:
        self.delivered.append(delivery)

    accept = deliver

    def timed_out(self, queue: str, channel: Any) -> None:
        self.taken_back.append((queue, channel))

    def closed(self, code: int, reason: str | None = None) -> None:
        """The broker closes the newest channel, and time passes."""
        self.connection.channels[-1].closed_by_broker(code, BrokerError(reason) if reason else None)
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


def test_a_start_that_takes_too_long_says_what_it_waits_for_and_why() -> None:
    place = Place()
    place.connection.refuse("q", ReplyCode.NOT_FOUND)
    place.consumer.on_open()
    assert not place.state.started.is_set()
    why = "not ready within 3 s: it waits for q: the broker closed the channel: 404"
    assert str(place.state.unready(3.0)) == why


def test_a_defect_ends_the_start_with_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amqp_rpc.amqp.keeper.where_signals_raise", lambda: False)
    monkeypatch.setattr(place.consumer, "declare", lambda _channel: [].pop())
    place.consumer.on_open()
    assert str(place.state.failure) == "queue q: failed, by a defect: IndexError: pop from empty list"


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


def test_a_consumer_timeout_is_said_as_it_is_and_what_runs_goes_on(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.consumer.on_open()
    (first,) = place.connection.channels
    place.closed(ReplyCode.PRECONDITION_FAILED, TIMED_OUT)
    assert "unacked for longer than the broker's consumer_timeout of 15 s" in caplog.text
    assert "raise consumer_timeout in rabbitmq.conf" in caplog.text
    assert place.taken_back == [("q", first)]
    assert place.state.counters["consumed"] == 2


def test_a_consumer_that_rabbitmq_4_3_cancels_may_have_timed_out(place: Place) -> None:
    place.consumer.on_open()
    (first,) = place.connection.channels
    first.cancel_consumers()
    assert place.taken_back == [("q", first)]


def test_another_reason_for_a_closed_channel_is_no_consumer_timeout(place: Place) -> None:
    place.consumer.on_open()
    place.closed(ReplyCode.NOT_FOUND)
    assert place.taken_back == []


@pytest.mark.parametrize(
    ("version", "kind", "limits", "seconds", "warned"),
    [
        ((4, 3), "quorum", [60.0, 3600.0], 4 * 3600 + 60, False),
        ((4, 3), "quorum", [60.0], 1800, False),
        ((4, 3), "quorum", [60.0, None], None, False),
        ((4, 3), "quorum", [3600.0, None], None, True),
        ((4, 3), "quorum", [2_000_000.0], 2_000_000, False),
        ((4, 3), "classic", [3600.0], None, False),
        ((4, 0), "quorum", [3600.0], None, True),
        ((3, 10), "classic", [1800.0], None, True),
        ((3, 10), "quorum", [1799.0, None], None, False),
        ((), "quorum", [3600.0], None, True),
    ],
)
def test_the_broker_waits_as_long_as_time_limits_allow_or_a_warning_says_what_to_set(
    version: tuple[int, ...],
    kind: str,
    limits: list[float | None],
    seconds: int | None,
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a prefetch of 3, the last of them waits for three others."""
    place = Place(kind, limits)
    place.connection.version = version
    place.consumer.on_open()
    given = place.connection.channels[0].consumer_arguments["q"]
    assert given == (None if seconds is None else {"x-consumer-timeout": 1000 * seconds})
    place.closed(ReplyCode.NOT_FOUND)
    assert caplog.text.count("consumer_timeout, 30 minutes by default: raise that in rabbitmq.conf") == warned


class Arrivals(Place):
    """The consumer of the arrivals of ``q``, and what it has moved, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[str | None] = []
        #: The last request before each look for messages that found no queue.
        self.looked: list[tuple[str, str]] = []
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

    def look(self) -> None:
        self.looked += [self.connection.channels[-1].requests[-1]]


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


def test_a_queue_of_arrivals_that_is_declared_again_gets_what_found_no_queue_meanwhile() -> None:
    place = Arrivals()
    place.connection.channels[-1].cancel_consumers()
    place.connection.loop.pass_time()
    assert place.looked == [("bind", arrivals_queue("q"))] * 2


def test_suspects_of_a_lost_channel_are_left_to_the_broker() -> None:
    place = Arrivals()
    for identity in ("a", "b"):
        place.arrive(identity, crashes=2)
    place.closed(ReplyCode.NOT_FOUND)
    for _ in range(3):
        place.connection.loop.pass_time()
    assert place.moved == ["a"]


@pytest.mark.parametrize(("bound", "signs"), [(None, []), (3, ["amqp_rpc.bounded.rpc_queue"])])
def test_a_bound_on_calls_is_to_be_seen_before_the_queue_is_consumed(bound: int | None, signs: list[str]) -> None:
    service = Service(max_length=bound)
    service.rpc(abs)
    connection = FakeConnection()
    state = State(Pool(1), [service.queue], [])
    state.begin(cast(Any, connection))
    dispatcher = CallDispatcher(service.queue, service.functions, Settings(1000))
    consumer = CallConsumer(state, cast(Worker, Place()), dispatcher, prefetch=3)
    connection.consumers[service.queue] = 1
    consumer.begin(cast(Any, connection))
    consumer.on_open()
    channel, *others = connection.channels
    assert [name for each in others for name in each.exchanges] == signs
    assert [each for each, _ in channel.requests] == ["prefetch", "declare", "consume"]
