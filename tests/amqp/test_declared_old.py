"""What is declared before messages are published, on a channel that does nothing but note it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declared import Declared
from amqp_rpc.errors import BrokerError
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties
from tests.amqp.fake import Timers

NOT_FOUND = 404


class NotedChannel:
    """Notes what is declared; the broker's answers for queues come when the test says so, all others at once."""

    def __init__(self, connection: NotedConnection, closed: Callable[[Any, BrokerError, int], object]) -> None:
        self.is_open = True
        self._connection = connection
        self._closed = closed
        self.queues: list[str] = []
        self.exchanges: list[str] = []
        self.answers: list[Callable[[object], object]] = []

    def declare(self, queue: str, then: Callable[[object], object], *, arguments: dict[str, Any]) -> None:
        assert isinstance(arguments, dict)
        self.queues.append(queue)
        self.answers.append(then)

    def answer(self) -> None:
        """Have the broker answer for the queues, one after another, until no more is asked."""
        while self.answers:
            self.answers.pop(0)(None)

    def declare_exchange(self, exchange: str, then: Callable[[], object], **_options: object) -> None:
        self.exchanges.append(exchange)
        then()

    def bind(self, _queue: str, _exchange: str, _key: str, then: Callable[[], object]) -> None:
        then()

    def bind_exchange(self, _destination: str, _source: str, _key: str, then: Callable[[], object]) -> None:
        then()

    def inspect_exchange(self, exchange: str, then: Callable[[], object]) -> None:
        self._probe(exchange in self._connection.there, then)

    def inspect(self, queue: str, then: Callable[[object], object]) -> None:
        self._probe(queue in self._connection.there, lambda: then(None))

    def _probe(self, there: bool, then: Callable[[], object]) -> None:
        if there:
            then()
        else:
            self.refuse(NOT_FOUND)

    def refuse(self, code: int) -> None:
        """Close it, as the broker does."""
        self.is_open = False
        self._closed(self, BrokerError("no"), code)

    def close(self) -> None:
        """Be a probe's channel."""


class NotedConnection:
    """Opens channels; the names in ``there`` are found, all others are new."""

    def __init__(self, *there: str) -> None:
        self.is_open = True
        self.loop = Timers()
        self.there = set(there)
        self.channels: list[NotedChannel] = []

    def open_channel(
        self, then: Callable[[NotedChannel], object], on_closed: Callable[[Any, BrokerError, int], object]
    ) -> None:
        assert self.is_open
        self.channels.append(NotedChannel(self, on_closed))
        then(self.channels[-1])


def everything(*queues: str) -> list[str]:
    """Return the signs of queues that are there, and have been for long."""
    return [topology.lasting(queue) for queue in queues]


def noted(connection: NotedConnection) -> tuple[Declared, list[str]]:
    refused: list[str] = []
    declared = Declared(cast("Connection", connection), lambda target, *_: refused.append(target))
    return declared, refused


def message(queue: str, *, delay: int = 0) -> Message:
    return Message(queue, Properties(), b"", delay=delay)


def test_ten_thousand_messages_that_wait_for_one_queue_go_out_in_their_order() -> None:
    connection = NotedConnection(*everything("q"))
    declared, _ = noted(connection)
    sent: list[int] = []
    for number in range(10_000):
        declared.declare(message("q"), {}, lambda number=number: sent.append(number))  # type: ignore[misc]
    connection.channels[0].answers.pop()(None)
    assert sent == list(range(10_000))
    assert connection.channels[0].queues == ["q"]


def test_what_waits_for_another_queue_goes_out_when_that_one_is_there() -> None:
    connection = NotedConnection(*everything("a", "b"))
    declared, _ = noted(connection)
    sent: list[str] = []
    for queue in ("a", "a", "b", "a", "b"):
        declared.declare(message(queue), {}, lambda queue=queue: sent.append(queue))  # type: ignore[misc]
    channel = connection.channels[0]
    channel.answers.pop()(None)
    assert (sent, channel.queues) == (["a", "a"], ["a", "b"])
    channel.answers.pop()(None)
    assert (sent, channel.queues) == (["a", "a", "b", "a", "b"], ["a", "b"])


def test_nothing_more_is_asked_for_when_the_connection_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = NotedConnection(*everything("q"))
    declared, _ = noted(connection)

    def closing(_probe: NotedChannel, _exchange: str, then: Callable[[], object]) -> None:
        # The channels of a connection that says good-bye are open until it was answered.
        connection.is_open = False
        then()

    monkeypatch.setattr(NotedChannel, "inspect_exchange", closing)
    declared.declare(message("q"), {}, lambda: None)
    declared.declare(message("other"), {}, lambda: None)
    noted(connection)[0].declare(message("q"), {}, lambda: None)
    assert [channel.queues for channel in connection.channels] == [[], []]


def test_new_queues_grow_old_together_and_nothing_goes_out_before() -> None:
    connection = NotedConnection()
    declared, _ = noted(connection)
    sent: list[str] = []
    for queue in ("a", "b", "a", "c"):
        declared.declare(message(queue), {}, lambda queue=queue: sent.append(queue))  # type: ignore[misc]
    channel = connection.channels[0]
    channel.answer()
    assert channel.queues == ["a", "a.dead", "b", "b.dead", "c", "c.dead"]
    assert (sent, channel.exchanges, len(connection.loop.later)) == ([], [], 3)
    connection.loop.pass_time()
    assert sent == ["a", "a", "b", "c"]
    assert channel.exchanges == everything("a", "b", "c")
    assert connection.loop.later == []


def test_what_comes_for_a_queue_while_it_is_new_goes_out_behind_what_waits_already() -> None:
    connection = NotedConnection()
    declared, _ = noted(connection)
    sent: list[int] = []
    declared.declare(message("a"), {}, lambda: sent.append(1))
    channel = connection.channels[0]
    channel.answer()
    declared.declare(message("a"), {}, lambda: sent.append(2))
    assert (channel.answers, sent) == ([], [])
    connection.loop.pass_time()
    assert (sent, channel.queues) == ([1, 2], ["a", "a.dead"])


def test_levels_of_delay_are_declared_once_for_two_queues_and_both_wait_until_these_are_old() -> None:
    # All of the second queue is there; the levels are as new for it as for the first.
    connection = NotedConnection(*everything("a", "b", topology.arrivals_queue("b")))
    declared, _ = noted(connection)
    sent: list[str] = []
    for queue in ("a", "b"):
        declared.declare(message(queue, delay=1), {}, lambda queue=queue: sent.append(queue))  # type: ignore[misc]
    channel = connection.channels[0]
    channel.answer()
    assert [channel.queues.count(topology.delay(level)) for level in range(topology.LEVELS)] == [1] * topology.LEVELS
    assert (sent, len(connection.loop.later)) == ([], 2)
    connection.loop.pass_time()
    assert sent == ["a", "b"]
    assert declared.has(message("b", delay=5))


def test_a_queue_that_is_refused_does_not_keep_back_one_that_is_new() -> None:
    connection = NotedConnection()
    declared, refused = noted(connection)
    sent: list[str] = []
    declared.declare(message("a"), {}, lambda: sent.append("a"))
    connection.channels[0].answer()
    declared.declare(message("b"), {}, lambda: sent.append("b"))
    connection.channels[0].refuse(406)
    assert (sent, refused) == ([], ["b"])
    connection.loop.pass_time()
    assert (sent, refused) == (["a"], ["b"])
    assert connection.channels[-1].exchanges == everything("a")


def test_a_sign_that_is_refused_is_told_to_whom_waits_for_its_queue_alone() -> None:
    connection = NotedConnection()
    declared, refused = noted(connection)
    for queue in ("a", "b"):
        declared.declare(message(queue), {}, lambda: None)
    channel = connection.channels[0]
    channel.answer()
    channel.declare_exchange = lambda *_args, **_options: channel.refuse(403)  # type: ignore[method-assign]
    connection.loop.pass_time()
    assert refused == ["a"]
    assert connection.channels[-1].exchanges == everything("b")


def test_nothing_is_asked_of_the_next_connection_for_what_was_new_on_one_that_was_lost() -> None:
    connection = NotedConnection()
    declared, _ = noted(connection)
    sent: list[str] = []
    declared.declare(message("a"), {}, lambda: sent.append("a"))
    channel = connection.channels[0]
    channel.answer()
    channel.refuse(NOT_FOUND)
    opened = len(connection.channels)
    declared.lose()
    connection.loop.pass_time()
    assert (sent, len(connection.channels)) == ([], opened)
