"""Which of the tasks that wait in a server for a handler go back to the broker, and as what."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc.amqp.channel import Delivery, QueueState
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.server import sharing
from amqp_rpc.server.redelivery import given_back
from amqp_rpc.server.sharing import Sharing


class Place:
    """A connection, its loop and a channel in one, without a broker."""

    def __init__(self, messages: int, consumers: int) -> None:
        self.loop = self
        self.is_open = True
        self.state = messages, consumers
        self.timers: list[Callable[[], object]] = []
        self.back: list[tuple[Message, Delivery]] = []
        self.sharing = Sharing(self, ["shared"], lambda message, delivery: self.back.append((message, delivery)))  # type: ignore[arg-type] # all that is asked of it

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
    monkeypatch.setattr(sharing, "_PATIENCE", 0.0)


@pytest.mark.parametrize(
    ("messages", "consumers", "goes_back"),
    [(0, 2, True), (0, 1, False), (1, 2, False)],
    ids=["somebody else may be free", "there is nobody else", "nobody else is free"],
)
def test_a_task_goes_back_only_where_another_worker_may_be_free(messages: int, consumers: int, goes_back: bool) -> None:
    place = Place(messages, consumers)
    delivery = place.delivery()
    place.sharing.wait("shared", delivery)
    place.look()
    assert [(message.routing_key, each) for message, each in place.back] == [("shared", delivery)] * goes_back
    assert place.sharing.begin("shared", delivery) is not goes_back
    assert not place.sharing.begin("shared", delivery)


def test_what_has_begun_stays_and_the_looks_end() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.sharing.wait("shared", delivery)
    assert place.sharing.begin("shared", delivery)
    place.look()
    assert (place.back, place.timers) == ([], [])
    place.sharing.wait("shared", place.delivery())
    assert len(place.timers) == 1


def test_one_that_has_not_waited_long_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_PATIENCE", 3600.0)
    place = Place(0, 2)
    place.sharing.wait("shared", place.delivery())
    place.look()
    assert place.back == []
    assert len(place.timers) == 1


def test_what_the_broker_has_taken_back_is_left_to_its_handler() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.sharing.wait("shared", delivery)
    place.is_open = False
    place.look()
    assert place.back == []
    assert place.sharing.begin("shared", delivery)


def test_of_other_queues_nothing_is_kept() -> None:
    place = Place(0, 2)
    delivery = place.delivery()
    place.sharing.wait("other", delivery)
    assert place.timers == []
    assert place.sharing.begin("other", delivery)


def test_a_task_that_goes_back_keeps_the_count_of_the_workers_that_it_ended() -> None:
    headers = {"attempt": 2, "crashes": 2, "x-delivery-count": 1, "x-death": [], "mine": "x"}
    properties = Properties(headers=headers, type="f", message_id="1", reply_to="r", expiration="1000")
    back = given_back("q", properties, b"body")
    assert (back.routing_key, back.body, back.delay) == ("q", b"body", 0)
    assert back.properties.headers == {"attempt": 2, "crashes": 3, "mine": "x"}
    assert (back.properties.type, back.properties.message_id, back.properties.reply_to) == ("f", "1", "r")
    assert (back.properties.delivery_mode, back.properties.expiration) == (2, None)
    assert "crashes" not in (given_back("q", Properties(headers={"attempt": 1}), b"").properties.headers or {})
