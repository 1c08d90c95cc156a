"""What is declared before messages are published, on a channel that does nothing but note it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from amqp_rpc.connection import Connection
from amqp_rpc.declared import Declared
from amqp_rpc.envelope import Message, Properties


class NotedChannel:
    """Notes queues that are declared; the broker's answers to those come when the test says so, all others at once."""

    is_open = True

    def __init__(self) -> None:
        self.queues: list[str] = []
        self.answers: list[Callable[[object], object]] = []

    def declare(self, queue: str, then: Callable[[object], object], *, arguments: dict[str, Any]) -> None:
        assert arguments == {}
        self.queues.append(queue)
        self.answers.append(then)

    def declare_exchange(self, _exchange: str, then: Callable[[], object]) -> None:
        then()

    def bind(self, _queue: str, _exchange: str, _key: str, then: Callable[[], object]) -> None:
        then()

    def inspect_exchange(self, _exchange: str, then: Callable[[], object]) -> None:
        then()

    def close(self) -> None:
        """Be a probe's channel."""


class NotedConnection:
    """Opens a channel, and then others on which whatever is asked for is there."""

    is_open = True

    def __init__(self, channel: NotedChannel) -> None:
        self._channels = [channel]

    def open_channel(self, then: Callable[[NotedChannel], object], _on_closed: object) -> None:
        assert self.is_open
        then(self._channels.pop() if self._channels else NotedChannel())


def noted() -> tuple[NotedChannel, Declared]:
    channel = NotedChannel()
    return channel, Declared(cast("Connection", NotedConnection(channel)), lambda *_: None)


def test_ten_thousand_messages_that_wait_for_one_queue_go_out_in_their_order() -> None:
    channel, declared = noted()
    sent: list[int] = []
    for number in range(10_000):
        declared.declare(Message("q", Properties(), b""), {}, lambda number=number: sent.append(number))  # type: ignore[misc]
    channel.answers.pop()(None)
    assert sent == list(range(10_000))
    assert channel.queues == ["q"]


def test_what_waits_for_another_queue_goes_out_when_that_one_is_there() -> None:
    channel, declared = noted()
    sent: list[str] = []
    for queue in ("a", "a", "b", "a", "b"):
        declared.declare(Message(queue, Properties(), b""), {}, lambda queue=queue: sent.append(queue))  # type: ignore[misc]
    channel.answers.pop()(None)
    assert (sent, channel.queues) == (["a", "a"], ["a", "b"])
    channel.answers.pop()(None)
    assert (sent, channel.queues) == (["a", "a", "b", "a", "b"], ["a", "b"])


def test_nothing_more_is_asked_for_when_the_connection_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = NotedChannel()
    connection = NotedConnection(channel)
    declared = Declared(cast("Connection", connection), lambda *_: None)

    def closing(_probe: NotedChannel, _exchange: str, then: Callable[[], object]) -> None:
        # The channels of a connection that says good-bye are open until it was answered.
        connection.is_open = False
        then()

    monkeypatch.setattr(NotedChannel, "inspect_exchange", closing)
    declared.declare(Message("q", Properties(), b""), {}, lambda: None)
    declared.declare(Message("other", Properties(), b""), {}, lambda: None)
    Declared(cast("Connection", connection), lambda *_: None).declare(Message("q", Properties(), b""), {}, lambda: None)
    assert channel.queues == []
