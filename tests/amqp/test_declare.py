"""Queues and exchanges that are declared before messages are published, on a channel that does nothing but note it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declare import Declarations, Refused, other_arguments
from amqp_rpc.errors import BrokerError
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.exchanges import Exchange
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


def test_a_server_that_may_not_configure_the_marker_of_its_queue_waits_at_each_start():
    connection = FakeConnection(there={DELAY})
    connection.refuse(topology.lasting("a"), ReplyCode.ACCESS_REFUSED)
    ended = run(connection, declarations(connection).prepare({"a": {}}))
    assert ended == []
    connection.loop.pass_time()
    assert ended == [[]]


def test_a_server_that_may_not_configure_a_queue_uses_the_one_that_is_there_and_needs_its_dead_letter_queue():
    connection = FakeConnection(there={DELAY, topology.lasting("a"), "a", topology.arrivals_queue("a")})
    for name in ("a", "a.dead", topology.arrivals_queue("a")):
        connection.refuse(name, ReplyCode.ACCESS_REFUSED)
    [[refused]] = run(connection, declarations(connection).prepare({"a": {}}))
    assert (refused.what, refused.code) == ("a.dead", ReplyCode.ACCESS_REFUSED)
    assert run(connection, declarations(connection).declare(message("a", delay=1), {})) == [None]


def test_what_a_user_may_not_declare_is_asked_for_the_next_time_and_declared_only_where_it_is_gone():
    connection = FakeConnection(there={"a"})
    connection.refuse("a", ReplyCode.ACCESS_REFUSED)
    known = declarations(connection)
    for _ in range(3):
        assert run(connection, known.declare(message("a"), {})) == [None]
        known.forget(message("a"))
    assert queues(connection) == ["a"]
    connection.there = set()
    [refused] = run(connection, known.declare(message("a"), {}))
    assert (refused.what, queues(connection)) == ("a", ["a", "a"])


def test_an_exchange_that_is_there_needs_no_right_to_configure_it():
    event = Message("t", Properties(), b"", exchange=Exchange("x"))
    connection = FakeConnection(there={"x"})
    connection.refuse("x", ReplyCode.ACCESS_REFUSED)
    known = declarations(connection)
    assert run(connection, known.declare(event, {})) == [None]
    assert known.has(event)
    connection.there = set()
    known.distrust()
    [refused] = run(connection, known.declare(event, {}))
    assert refused.code == ReplyCode.ACCESS_REFUSED


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


class TestAbandoned:
    """Messages whose delay is over, and for which no queue is there."""

    @staticmethod
    def look(*waiting: str) -> tuple[FakeConnection, Declarations]:
        """A first delay over a connection, to a broker where messages for these queues wait."""
        connection = FakeConnection(there={DELAY, topology.ABANDONED})
        connection.messages[topology.ABANDONED] = len(waiting)
        known = declarations(connection)
        run(connection, known.declare(message("a", delay=1), {}))
        for each in waiting:
            properties = Properties(message_id=each, headers={"x-death": [], "tenant": 7})
            key = topology.delayed_key(1, each)
            connection.channels[-1].deliver(topology.ABANDONED, Message(key, properties, b"body"))
        return connection, known

    def test_each_is_published_to_the_exchange_of_arrivals_as_it_was_and_acked_after_its_confirm(self) -> None:
        connection, _ = self.look("b", "c")
        connection.loop.pass_time()
        channel = connection.channels[-1]
        keys = [topology.delayed_key(1, each) for each in ("b", "c")]
        assert [(each.exchange, each.routing_key) for each in channel.published] == [
            (Exchange(topology.ARRIVALS), key) for key in keys
        ]
        assert [each.properties.headers for each in channel.published] == [{"tenant": 7}] * 2
        assert channel.acked == []
        channel.confirm()
        channel.confirm()
        assert channel.acked == [1, 2]
        assert not channel.is_open

    def test_one_that_no_queue_took_or_that_the_broker_refused_stays(self) -> None:
        connection, _ = self.look("b", "c", "d")
        connection.loop.pass_time()
        channel = connection.channels[-1]
        channel.give_back(channel.published[0])
        channel.confirm()
        channel.nack()
        channel.confirm()
        assert channel.acked == [3]

    def test_one_that_can_t_be_written_stays_and_the_next_one_goes(self, caplog: pytest.LogCaptureFixture) -> None:
        connection, _ = self.look("b", "c")
        channel = connection.channels[-1]
        channel.unwritable[topology.delayed_key(1, "b")] = ValueError("no type of AMQP")
        connection.loop.pass_time()
        channel.confirm()
        assert channel.acked == [2]
        assert "message [b] stays" in caplog.text

    def test_what_is_left_is_in_the_log_with_the_command_that_shows_it(self, caplog: pytest.LogCaptureFixture) -> None:
        connection, _ = self.look("b")
        connection.loop.pass_time()
        connection.channels[-1].confirm()
        assert f"`amqp-rpc dlq list {topology.UNROUTED}`" in caplog.text

    def test_the_declaration_waits_for_the_broker_a_moment_and_not_longer(self) -> None:
        connection = FakeConnection(there={DELAY, topology.ABANDONED})
        connection.messages[topology.ABANDONED] = 1
        ended = run(connection, declarations(connection).declare(message("a", delay=1), {}))
        for _ in range(200):
            if not ended:
                connection.loop.pass_time()
        assert ended == [None]

    def test_there_is_one_look_for_each_connection_and_one_for_each_new_queue_of_arrivals(self) -> None:
        connection = FakeConnection(there={DELAY, topology.ABANDONED, *map(topology.arrivals_queue, "ab")})
        known = declarations(connection)

        def looks(queue: str) -> int:
            run(connection, known.declare(message(queue, delay=1), {}))
            requests = [request for channel in connection.channels for request in channel.requests]
            return requests.count(("inspect", topology.ABANDONED))

        assert [looks(queue) for queue in ("a", "b", "new")] == [1, 1, 2]

    def test_a_server_looks_once_all_its_queues_are_there(self) -> None:
        connection = FakeConnection(there={DELAY, topology.ABANDONED, *map(topology.lasting, "ab")})
        known = declarations(connection)
        assert run(connection, known.prepare({"a": {}, "b": {}})) == [[]]
        requests = [request for channel in connection.channels for request in channel.requests]
        assert requests.count(("inspect", topology.ABANDONED)) == 1
        assert requests.index(("inspect", topology.ABANDONED)) > requests.index(
            ("declare", topology.arrivals_queue("b"))
        )

    def test_a_user_who_may_not_read_them_is_no_worse_off(self) -> None:
        connection = FakeConnection(there={DELAY})
        connection.refuse(topology.ABANDONED, ReplyCode.ACCESS_REFUSED)
        assert run(connection, declarations(connection).declare(message("a", delay=1), {})) == [None]
