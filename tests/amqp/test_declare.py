"""Queues and exchanges that are declared before messages are published, on a channel that does nothing but note it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declare import Declarations, Refused, other_arguments
from amqp_rpc.errors import BrokerError
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode
from tests.amqp.fake import FakeConnection

DELAY = topology.lasting("delay")


def declarations(connection: FakeConnection) -> Declarations:
    return Declarations(cast("Connection", connection))


def run(connection: FakeConnection, coroutine: Any) -> list[Any]:
    """Run a script; the list gets its result when it has ended."""
    results: list[Any] = []

    async def script() -> None:
        try:
            results.append(await coroutine)
        except Refused as refused:
            results.append(refused)

    connection.run(script())
    return results


def message(queue: str, *, delay: int = 0) -> Message:
    return Message(queue, Properties(), b"", delay=delay)


def queues(connection: FakeConnection) -> list[str]:
    return [queue for channel in connection.channels for queue in channel.queues]


def exchanges(connection: FakeConnection) -> list[str]:
    return [exchange for channel in connection.channels for exchange in channel.exchanges]


def test_new_queues_last_together_before_the_preparation_ends():
    connection = FakeConnection(there={DELAY})
    ended = run(connection, declarations(connection).prepare({"a": {}, "b": {}}))
    assert {"a", "a.dead", "b", "b.dead"} <= set(queues(connection))
    assert (ended, exchanges(connection), len(connection.loop.later)) == ([], [], 1)
    connection.loop.pass_time()
    assert (ended, exchanges(connection)) == ([[]], [topology.lasting("a"), topology.lasting("b")])


def test_queues_that_a_server_has_prepared_need_no_wait():
    connection = FakeConnection(there={DELAY, topology.lasting("a")})
    ended = run(connection, declarations(connection).prepare({"a": {}}))
    assert ended == [[]]
    assert connection.loop.later == []
    # A queue that was deleted exists again with the next server.
    assert {"a", topology.arrivals_queue("a")} <= set(queues(connection))


def test_new_delay_queues_need_a_wait_as_well():
    connection = FakeConnection(there={topology.lasting("a")})
    known = declarations(connection)
    ended = run(connection, known.prepare({"a": {}}))
    assert (ended, len(connection.loop.later)) == ([], 1)
    connection.loop.pass_time()
    assert exchanges(connection)[-1] == DELAY
    assert known.has(message("a", delay=5))


def test_a_queue_that_is_refused_keeps_no_other_from_being_prepared():
    connection = FakeConnection(there={DELAY})
    connection.arguments["a"] = {"x-max-length": 1}
    [refusals] = [run(connection, declarations(connection).prepare({"a": {}, "b": {}}))]
    connection.loop.pass_time()
    assert [(refused.what, refused.code) for refused in refusals[0]] == [("a", 406)]
    assert exchanges(connection) == [topology.lasting("b")]


def test_a_user_who_may_not_ask_for_a_marker_is_no_worse_off():
    connection = FakeConnection(there={DELAY})
    connection.refuse(topology.lasting("a"), ReplyCode.ACCESS_REFUSED)
    assert run(connection, declarations(connection).prepare({"a": {}})) == [[]]


def test_a_preparation_ends_with_its_connection():
    connection = FakeConnection(there={DELAY})
    ended = run(connection, declarations(connection).prepare({"a": {}}))
    connection.lose()
    opened = len(connection.channels)
    connection.loop.pass_time()
    assert (ended, len(connection.channels), connection.scripts) == ([], opened, set())


def test_delay_queues_are_declared_once_for_two_queues():
    connection = FakeConnection(there=set())
    known = declarations(connection)
    for queue in ("a", "b"):
        assert run(connection, known.declare(message(queue, delay=1), {})) == [None]
    counts = [queues(connection).count(topology.delay(level)) for level in range(topology.LEVELS)]
    assert counts == [1] * topology.LEVELS
    assert known.has(message("b", delay=5))


def test_a_deleted_exchange_behind_the_delay_queues_has_all_of_them_declared_again():
    connection = FakeConnection(there={DELAY})
    known = declarations(connection)
    connection.refuse(topology.arrivals_queue("a"), ReplyCode.NOT_FOUND)
    [refused] = run(connection, known.declare(message("a", delay=1), {}))
    assert isinstance(refused, Refused)
    assert topology.delay(0) not in queues(connection)
    connection.refuse(topology.arrivals_queue("a"), None)
    assert run(connection, known.declare(message("a", delay=1), {})) == [None]
    assert topology.delay(0) in queues(connection)


def test_a_returned_message_has_its_queue_declared_again():
    connection = FakeConnection()
    known = declarations(connection)
    run(connection, known.declare(message("a"), {}))
    known.forget(message("a"))
    assert not known.has(message("a"))


def test_a_queue_of_another_program_is_left_alone():
    connection = FakeConnection()
    known = declarations(connection)
    run(connection, known.declare(message("a"), None))
    assert queues(connection) == []
    assert known.has(message("a"))


def test_a_queue_that_expires_is_declared_for_each_message():
    connection = FakeConnection()
    known = declarations(connection)
    key = topology.unique("q", b"key", 60.0)
    for _ in range(2):
        run(connection, known.declare(message(key), topology.unique_arguments(60.0)))
    assert queues(connection) == [key, key]
    assert not known.has(message(key))


@pytest.mark.parametrize("code", [ReplyCode.RESOURCE_LOCKED, ReplyCode.PRECONDITION_FAILED])
def test_a_refusal_says_what_was_refused_and_the_next_message_has_another_channel(code):
    connection = FakeConnection()
    known = declarations(connection)
    connection.refuse("a", code)
    [refused] = run(connection, known.declare(message("a"), {}))
    assert (refused.what, refused.code, type(refused.error)) == ("a", code, BrokerError)
    assert run(connection, known.declare(message("b"), {})) == [None]
    assert [channel.is_open for channel in connection.channels if channel.queues] == [False, True]


def test_nothing_more_is_asked_for_while_the_connection_is_closing():
    connection = FakeConnection()
    connection.hold("a")
    known = declarations(connection)
    ended = run(connection, known.declare(message("a"), {}))
    # The channels of a connection that says good-bye are open until it was answered.
    connection.is_open = False
    connection.answer()
    assert (ended, queues(connection), len(connection.channels)) == ([], ["a"], 1)


def test_a_limit_of_the_virtual_host_is_not_told_as_other_arguments() -> None:
    limit = BrokerError("406 PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (45) is reached")
    assert str(other_arguments("q", limit, than="ours", remedy="Delete it")) == f"the broker refuses queue 'q': {limit}"
