"""Tasks that wait in a server for a thread: some of them are requeued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.server import worker
from amqp_rpc.server.worker import Backlog
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
