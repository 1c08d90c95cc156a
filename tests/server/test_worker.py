"""Tasks that wait in a server for a thread, and those that come again while they run there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc import Service
from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.headers import CRASHES
from amqp_rpc.server import worker
from amqp_rpc.server.invoke import Settings
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import TaskDispatcher
from amqp_rpc.server.worker import Backlog, Worker
from tests.amqp.fake import FakeChannel, FakeConnection


class Place:
    """A backlog of the queue ``shared``, which has so many messages and consumers at the broker."""

    def __init__(self, messages: int, consumers: int) -> None:
        self.connection = FakeConnection()
        self.connection.messages["shared"], self.connection.consumers["shared"] = messages, consumers
        self.channel = FakeChannel(self.connection)
        self.requeued: list[tuple[Message, Delivery]] = []
        self.backlog = Backlog(self, self, ["shared"])  # type: ignore[arg-type] # it is all that is asked of it

    def keep(self, message: Message, delivery: Delivery) -> None:
        self.requeued.append((message, delivery))

    def delivery(self) -> Any:
        return SimpleNamespace(channel=self.channel, properties=Properties(headers={"attempt": 1}), body=b"body")

    def poll(self) -> None:
        self.connection.loop.pass_time()

    @property
    def polls(self) -> int:
        return len(self.connection.loop.later)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PATIENCE", 0.0)


@pytest.mark.parametrize(
    ("messages", "consumers", "requeued"),
    [(0, 2, True), (0, 1, False), (1, 2, False)],
    ids=["another one may be free", "there is no other", "no other one is free"],
)
def test_a_task_requeued_only_where_another_worker_may_be_free(messages: int, consumers: int, requeued: bool) -> None:
    place = Place(messages, consumers)
    delivery = place.delivery()
    place.backlog.add("shared", delivery)
    place.poll()
    assert [(message.routing_key, each) for message, each in place.requeued] == [("shared", delivery)] * requeued
    assert place.backlog.begin("shared", delivery) is not requeued
    assert not place.backlog.begin("shared", delivery)


def test_a_task_that_has_begun_stays_and_the_polls_end() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.backlog.add("shared", delivery)
    assert place.backlog.begin("shared", delivery)
    place.poll()
    assert (place.requeued, place.polls) == ([], 0)
    place.backlog.add("shared", place.delivery())
    assert place.polls == 1


def test_a_task_that_has_not_waited_long_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PATIENCE", 3600.0)
    place = Place(0, 2)
    place.backlog.add("shared", place.delivery())
    place.poll()
    assert place.requeued == []
    assert place.polls == 1


def test_a_task_of_a_lost_channel_is_left_to_its_handler() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.backlog.add("shared", delivery)
    place.channel.is_open = False
    place.poll()
    assert place.requeued == []
    assert place.backlog.begin("shared", delivery)


def test_tasks_of_other_queues_are_not_entered() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.backlog.add("other", delivery)
    assert place.polls == 0
    assert place.backlog.begin("other", delivery)


class Running:
    """A worker with a task queue ``q``, whose handlers run when the test says so."""

    def __init__(self) -> None:
        service = Service()

        @service.task(queue="q", retries=0)
        def work(value: int) -> None:
            self.ran.append(value)
            self.during()

        #: Called in the handler.
        self.during: Callable[[], object] = int
        self.ran: list[int] = []
        self.connection = FakeConnection()
        self.state = State(Pool(1), ["q"], [])
        self.state.begin(self.connection)  # type: ignore[arg-type] # a fake
        self.submitted: list[Callable[[], None]] = []
        self.kept: list[Message] = []
        self.records = False
        self.dispatcher = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(1000))
        self.worker = Worker(self.state, self, replies=self, recorder=self, fair=())  # type: ignore[arg-type] # all that is asked of them
        self.channel = self.open()

    def submit(self, job: Callable[[], None]) -> None:
        self.submitted.append(job)

    def keep(self, message: Message, _delivery: Delivery) -> None:
        self.kept.append(message)

    def open(self) -> FakeChannel:
        return FakeChannel(self.connection)

    def deliver(self, channel: FakeChannel, tag: int, body: bytes = b"[[1], {}]", *, again: bool = False) -> None:
        properties = Properties(type="work", message_id="7", content_type="application/json")
        delivery = Delivery(channel, tag, again, properties, body)  # type: ignore[arg-type] # a fake
        self.worker.deliver(self.dispatcher, delivery)

    def take_back(self) -> FakeChannel:
        """End the channel by the broker's consumer timeout; return the next one."""
        self.channel.is_open = False
        self.worker.timed_out("q", self.channel)  # type: ignore[arg-type] # a fake
        self.channel = self.open()
        return self.channel


def test_a_task_that_comes_again_while_it_runs_runs_once_and_its_end_acks_the_later_delivery() -> None:
    place = Running()
    place.deliver(place.channel, 1)
    for tag in (2, 3):
        place.deliver(place.take_back(), tag, again=True)
    (run,) = place.submitted
    run()
    assert (place.ran, place.channel.acked, place.kept) == ([1], [3], [])
    assert place.state.unacked == {}


def test_another_task_with_the_id_of_one_that_runs_is_another_task() -> None:
    place = Running()
    place.deliver(place.channel, 1)
    place.deliver(place.take_back(), 2, b"[[2], {}]", again=True)
    assert len(place.submitted) == 2


def test_a_task_that_ended_before_it_came_again_runs_again_and_no_crash_is_counted() -> None:
    place = Running()
    place.deliver(place.channel, 1)
    place.during = place.take_back
    place.submitted.pop()()
    place.during = int
    place.deliver(place.channel, 2, again=True)
    place.submitted.pop()()
    assert (place.ran, place.channel.acked, place.kept) == ([1, 1], [2], [])


def test_a_task_whose_channel_was_lost_for_another_reason_is_counted() -> None:
    place = Running()
    place.deliver(place.channel, 1)
    place.channel.is_open = False
    place.deliver(place.open(), 2, again=True)
    place.submitted.pop()()
    assert [each.properties.headers for each in place.kept] == [{CRASHES: 1}]


def test_a_delivery_that_came_again_just_when_its_first_one_was_dropped_goes_back() -> None:
    """The handler's thread finds the channel closed, and the I/O thread has the task again before it hears of that."""
    place = Running()
    place.deliver(place.channel, 1)
    held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
    place.connection.post = lambda callback, *args: held.append((callback, args))  # type: ignore[assignment, method-assign]
    channel = place.take_back()
    place.submitted.pop()()
    place.deliver(channel, 2, again=True)
    for callback, args in held:
        callback(*args)
    assert (place.ran, channel.rejected, channel.acked) == ([], [(2, True)], [])
    assert place.state.unacked == {}
