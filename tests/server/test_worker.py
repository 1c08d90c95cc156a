"""Which of the tasks that wait in a server for a thread are requeued."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc.amqp.channel import Delivery, QueueState
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.server import worker
from amqp_rpc.server.worker import _Backlog


class Place:
    """A state, a connection, its loop, a channel and replies in one, without a broker."""

    def __init__(self, messages: int, consumers: int) -> None:
        self.loop = self
        self.is_open = True
        self.state = messages, consumers
        self.timers: list[Callable[[], object]] = []
        self.back: list[tuple[Message, Delivery]] = []
        self.connection = self
        self.backlog = _Backlog(self, self, ["shared"])  # type: ignore[arg-type] # it is all that is asked of it

    def keep(self, message: Message, delivery: Delivery) -> None:
        self.back.append((message, delivery))

    def call_later(self, _delay: float, callback: Callable[[], object]) -> None:
        self.timers.append(callback)

    def inspect(self, queue: str, then: Callable[[QueueState], object]) -> None:
        then(QueueState(queue, *self.state))

    def delivery(self) -> Any:
        return SimpleNamespace(channel=self, properties=Properties(headers={"attempt": 1}), body=b"body")

    def look(self) -> None:
        self.timers.pop(0)()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PATIENCE", 0.0)


@pytest.mark.parametrize(
    ("messages", "consumers", "goes_back"),
    [(0, 2, True), (0, 1, False), (1, 2, False)],
    ids=["somebody else may be free", "there is nobody else", "nobody else is free"],
)
def test_a_task_goes_back_only_where_another_worker_may_be_free(messages: int, consumers: int, goes_back: bool) -> None:
    place = Place(messages, consumers)
    delivery = place.delivery()
    place.backlog.add("shared", delivery)
    place.look()
    assert [(message.routing_key, each) for message, each in place.back] == [("shared", delivery)] * goes_back
    assert place.backlog.begin("shared", delivery) is not goes_back
    assert not place.backlog.begin("shared", delivery)


def test_what_has_begun_stays_and_the_looks_end() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.backlog.add("shared", delivery)
    assert place.backlog.begin("shared", delivery)
    place.look()
    assert (place.back, place.timers) == ([], [])
    place.backlog.add("shared", place.delivery())
    assert len(place.timers) == 1


def test_one_that_has_not_waited_long_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PATIENCE", 3600.0)
    place = Place(0, 2)
    place.backlog.add("shared", place.delivery())
    place.look()
    assert place.back == []
    assert len(place.timers) == 1


def test_what_the_broker_has_taken_back_is_left_to_its_handler() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.backlog.add("shared", delivery)
    place.is_open = False
    place.look()
    assert place.back == []
    assert place.backlog.begin("shared", delivery)


def test_of_other_queues_nothing_is_kept() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.backlog.add("other", delivery)
    assert place.timers == []
    assert place.backlog.begin("other", delivery)
