"""What becomes of a message that the broker does not take: said of a channel that does nothing but note it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.outbox import Outbox, Publication
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConnectionLost, PublishRefused
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.settings import broker_addresses
from tests.amqp.fake import Timers

_PRECONDITION_FAILED = 406


class NotedChannel:
    """Notes what is published; all that is asked for is there, unless the test says that it is not."""

    is_open = True

    def __init__(self, connection: NotedConnection) -> None:
        self._connection = connection
        self.confirms_of: list[Callable[[bool], object]] = connection.confirms

    def on_returned(self, _callback: object) -> None:
        """No queue is ever missing."""

    def confirms(self, then: Callable[[], object]) -> None:
        then()

    def declare(self, _queue: str, then: Callable[[object], object], *, arguments: dict[str, Any]) -> None:
        if arguments in self._connection.others:
            self._connection.closed(self, BrokerError("inequivalent arg"), _PRECONDITION_FAILED)
        else:
            then(None)

    def inspect(self, _queue: str, then: Callable[[object], object]) -> None:
        then(None)

    def inspect_exchange(self, _exchange: str, then: Callable[[], object]) -> None:
        then()

    def declare_exchange(self, _exchange: str, then: Callable[[], object]) -> None:
        then()

    def bind(self, _queue: str, _exchange: str, _key: str, then: Callable[[], object]) -> None:
        then()

    def publish_confirmed(self, _message: Message, then: Callable[[bool], object], *, mandatory: bool) -> bool:
        assert mandatory
        self.confirms_of.append(then)
        return True

    def close(self) -> None:
        """Be a probe's channel."""


class NotedConnection:
    """Opens channels, with a loop whose time passes when the test says so."""

    is_open = was_open = True
    blocked: str | None = None

    def __init__(self, *others: dict[str, Any]) -> None:
        #: Arguments that are not those of the queues that are there.
        self.others = others
        self.confirms: list[Callable[[bool], object]] = []
        self.loop = Timers()
        self._on_closed: dict[int, Callable[..., object]] = {}

    def open_channel(self, then: Callable[[NotedChannel], object], on_closed: Callable[..., object]) -> None:
        channel = NotedChannel(self)
        self._on_closed[id(channel)] = on_closed
        then(channel)

    def closed(self, channel: NotedChannel, error: BrokerError, code: int) -> None:
        self._on_closed[id(channel)](channel, error, code)


def sent(
    connection: NotedConnection, arguments: dict[str, Any], *, guessed: bool = False
) -> tuple[Outbox, Publication]:
    outbox = Outbox(broker_addresses("amqp://localhost"), reply_queue=lambda: "amq.gen-x")
    outbox.begin(cast("Connection", connection))
    message = Message("q", Properties(message_id="1", type="resize"), b"")
    publication = Publication(message, arguments, guessed=guessed, timeout=30.0, expires_at=time.monotonic() + 30.0)
    outbox.add(publication)
    outbox.send(publication)
    for _ in range(20):
        if not connection.confirms:
            connection.loop.pass_time()
    return outbox, publication


def error(publication: Publication) -> AmqpRpcError:
    assert publication.done()
    assert publication.value is not None
    return publication.value


def test_what_a_queue_without_a_bound_does_not_take_is_sent_again() -> None:
    connection = NotedConnection()
    _, publication = sent(connection, {})

    connection.confirms.pop()(False)
    assert not publication.done()
    connection.loop.pass_time()
    connection.confirms.pop()(True)

    assert publication.done()
    assert publication.value is None


def test_what_a_full_queue_refuses_will_not_run() -> None:
    connection = NotedConnection()
    _, publication = sent(connection, {"x-max-length": 1})

    connection.confirms.pop()(False)

    assert isinstance(error(publication), PublishRefused)
    assert not error(publication).may_have_run


def test_what_a_full_queue_refuses_may_run_where_it_was_sent_before_and_not_confirmed() -> None:
    connection = NotedConnection()
    outbox, publication = sent(connection, {"x-max-length": 1})
    outbox.on_lost(BrokerError("gone"))
    connection.confirms.clear()
    outbox.on_open()
    for _ in range(20):
        if not connection.confirms:
            connection.loop.pass_time()

    connection.confirms.pop()(False)

    assert isinstance(error(publication), ConnectionLost)
    assert error(publication).may_have_run


@pytest.mark.parametrize("guessed_before", [False, True])
def test_a_queue_whose_arguments_are_not_known_may_have_a_bound(guessed_before: bool) -> None:
    guess = {"x-queue-type": "quorum"}
    connection = NotedConnection(guess)
    outbox, publication = sent(connection, guess, guessed=True)
    if guessed_before:
        # The second one finds it declared, and has the same guess.
        connection.confirms.pop()(True)
        _, publication = _another(outbox, connection, guess)

    connection.confirms.pop()(False)

    assert isinstance(error(publication), PublishRefused)


def _another(outbox: Outbox, connection: NotedConnection, guess: dict[str, Any]) -> tuple[Outbox, Publication]:
    message = Message("q", Properties(message_id="2", type="resize"), b"")
    publication = Publication(message, guess, guessed=True, timeout=30.0, expires_at=time.monotonic() + 30.0)
    outbox.add(publication)
    outbox.send(publication)
    assert connection.confirms
    return outbox, publication


def held_back(connection: NotedConnection) -> tuple[Outbox, Publication]:
    """A publication that nothing keeps from being written any more; its queue was declared before."""
    outbox, _ = sent(connection, {})
    connection.confirms.pop()(True)
    connection.blocked = "memory"
    message = Message("q", Properties(message_id="2", type="resize"), b"")
    publication = Publication(message, {}, timeout=30.0, expires_at=time.monotonic() + 30.0)
    outbox.add(publication)
    outbox.send(publication)
    connection.blocked = None
    assert not connection.confirms
    return outbox, publication


def test_what_is_said_not_to_be_there_is_not_written_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = NotedConnection()
    outbox, publication = held_back(connection)
    verdict = outbox.too_late

    def too_late(publication: Publication) -> BrokerError:
        said = verdict(publication)
        # By the owner, in the middle of it.
        outbox.send_unsent()
        return said

    monkeypatch.setattr(outbox, "too_late", too_late)
    outbox.expire(publication)
    assert isinstance(error(publication), PublishRefused)
    assert not connection.confirms


def test_what_was_written_when_its_time_is_over_may_be_there() -> None:
    connection = NotedConnection()
    outbox, publication = held_back(connection)
    outbox.send_unsent()
    outbox.expire(publication)
    assert len(connection.confirms) == 1
    assert isinstance(error(publication), ConnectionLost)
