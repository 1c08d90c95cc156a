"""A session: one-shot scripts over a fake connection, and over a real one."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from amqp_rpc.amqp import session as session_module
from amqp_rpc.amqp.channel import ChannelClosed
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.amqp.publisher import Publication, Publisher
from amqp_rpc.amqp.reply_queue import Receiver, ReplyQueue
from amqp_rpc.amqp.session import ScriptRun, Session
from amqp_rpc.errors import BrokerError, BrokerTimeout, ConfigurationError, ConnectionLost, NotConnected
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.settings import broker_addresses
from tests.amqp.fake import FakeConnection
from tests.waiting import until


def session_at(url: str) -> Session:
    addresses = broker_addresses(url)
    publisher = Publisher(addresses)
    return Session(addresses, publisher, ReplyQueue(publisher), name="test", heartbeat=60.0)


def run(session: Session, coroutine: Any) -> Any:
    return session.finish(session.script(coroutine, timeout=20.0))


@pytest.fixture
def nowhere():
    """A session that has no connection: each test gives its scripts a fake one."""
    return session_at("amqp://localhost:1")


def started(session: Session, connection: FakeConnection, coroutine: Any) -> ScriptRun[Any]:
    run = ScriptRun(session, coroutine, 5.0)
    run.begin(cast("Connection", connection))
    run.on_open()
    return run


async def look(connection: FakeConnection, queue: str = "q") -> int:
    with await connection.open_channel() as channel:
        state = await channel.inspect(queue)
    return state.messages


def test_of_ids_none_says_anything_about_another(nowhere):
    made = [nowhere.identity() for _ in range(2000)]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    # 128 random bits: neither half repeats.
    assert len({each[:16] for each in made}) == len({each[16:] for each in made}) == 2000
    numbers = [int(each, 16) for each in made]
    assert {abs(one - other) < 2**64 for one, other in itertools.pairwise(numbers)} == {False}


def test_threads_that_make_ids_at_the_same_time_make_different_ones(nowhere):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [nowhere.identity() for _ in range(1000)], range(8)))
    assert len({each for some in made for each in some}) == 8000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_of_a_process_make_different_ids():
    """A session may be used in a child if it was not in the parent; else it is refused there."""
    unused, used = session_at("amqp://localhost:1"), session_at("amqp://localhost:1")
    used.identity()
    context = multiprocessing.get_context("fork")
    made = context.SimpleQueue()

    def child() -> None:
        with pytest.raises(ConfigurationError, match="before fork"):
            used.identity()
        made.put([unused.identity() for _ in range(300)])

    children = [context.Process(target=child) for _ in range(3)]
    for each in children:
        each.start()
    ids = [identity for _ in children for identity in made.get()]
    for each in children:
        each.join(30)
    assert [each.exitcode for each in children] == [0] * 3
    ids += [unused.identity() for _ in range(300)]
    assert len(set(ids)) == 1200


def test_a_script_runs_once_there_is_a_connection_and_has_a_result(nowhere):
    connection = FakeConnection()
    connection.messages["q"] = 3
    connection.is_open = False
    run = started(nowhere, connection, look(connection))
    assert not run.done()
    connection.reopen()
    run.on_open()
    run.on_open()
    assert (run.done(), run.result()) == (True, 3)
    assert [channel.is_open for channel in connection.channels] == [False]
    assert connection.loop.later == []


def test_a_channel_that_the_broker_closes_is_its_error(nowhere):
    connection = FakeConnection(there=set())
    run = started(nowhere, connection, look(connection))
    with pytest.raises(BrokerError, match="404"):
        run.result()


def test_a_script_that_handles_the_code_has_a_result_all_the_same(nowhere):
    connection = FakeConnection(there=set())

    async def handled() -> int:
        try:
            return await look(connection)
        except ChannelClosed as closed:
            return -closed.code

    assert started(nowhere, connection, handled()).result() == -ReplyCode.NOT_FOUND


def test_an_error_of_its_own_is_raised_to_the_thread_that_waits(nowhere):
    connection = FakeConnection()

    async def faulty() -> None:
        raise ConfigurationError("no such thing")

    with pytest.raises(ConfigurationError, match="no such thing"):
        started(nowhere, connection, faulty()).result()


def test_a_lost_connection_ends_it_and_nothing_dangles(nowhere):
    connection = FakeConnection()
    connection.hold("q")
    run = started(nowhere, connection, look(connection))
    connection.lose()
    run.on_lost(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost, match="gone"):
        run.result()
    assert (connection.scripts, connection.loop.later) == (set(), [])


def test_one_that_has_not_begun_waits_for_the_next_connection(nowhere):
    connection = FakeConnection()
    connection.is_open = False
    run = started(nowhere, connection, look(connection))
    run.on_lost(ConnectionLost("gone"))
    assert not run.done()
    connection.reopen()
    run.on_open()
    assert run.result() == 0


def test_a_first_connection_that_fails_ends_it(nowhere):
    connection = FakeConnection()
    connection.is_open = connection.was_open = False
    run = started(nowhere, connection, look(connection))
    run.on_lost(NotConnected("no broker there"))
    with pytest.raises(NotConnected, match="no broker there"):
        run.result()


@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (lambda connection: setattr(connection, "is_open", False), NotConnected, "no connection .* within 5 s"),
        (lambda connection: setattr(connection, "blocked", "memory"), BrokerError, r"takes no messages \(memory\)"),
        (lambda _connection: None, BrokerError, "not done within 5 s; give it more time"),
    ],
)
def test_when_its_time_is_over_it_says_why(nowhere, prepare, error, words):
    connection = FakeConnection()
    connection.hold("q")
    prepare(connection)
    run = started(nowhere, connection, look(connection))
    connection.loop.pass_time()
    with pytest.raises(error, match=words):
        run.result()
    assert connection.scripts == set()


def test_one_that_is_stopped_is_closed(nowhere):
    connection = FakeConnection()
    connection.hold("q")
    run = started(nowhere, connection, look(connection))
    run.stop()
    assert (run.done(), connection.scripts, connection.channels[0].is_open) == (True, set(), False)


def test_one_whose_process_was_stopped_meanwhile_ends_with_its_time(nowhere, monkeypatch):
    """Its thread may go on before the I/O thread, which would have ended it."""
    connection = FakeConnection()
    connection.hold("q")
    monkeypatch.setattr(session_module, "_VERDICT", 0.0)
    monkeypatch.setattr(nowhere, "_enter", lambda run: run.begin(cast("Connection", connection)) or run.on_open())
    with pytest.raises(BrokerTimeout, match="it was not done within"):
        nowhere.finish(nowhere.script(look(connection), timeout=0.01))
    assert (connection.scripts, connection.channels[0].is_open) == (set(), False)


def test_without_a_broker_the_first_use_fails_and_the_next_tries_again(nowhere):
    for _ in range(2):
        with pytest.raises(NotConnected):
            run(nowhere, look(nowhere))
    nowhere.finish(nowhere.close(1.0))
    with pytest.raises(ConfigurationError, match="closed"):
        run(nowhere, look(nowhere))


# On RabbitMQ.


@pytest.fixture
def session(url):
    made = session_at(url)
    yield made
    made.finish(made.close(5.0))


def test_scripts_of_many_threads_share_the_connection(session, raw):
    raw.channel.queue_declare("session_one")
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(session, look(session, "session_one")))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0] * 8
    raw.channel.queue_delete("session_one")


def test_the_refusal_of_one_script_leaves_the_others(session):
    for name in ("no_such_queue", "amq.no_such"):
        with pytest.raises(BrokerError, match="404"):
            run(session, look(session, name))
    assert run(session, identity()) == "still here"


async def identity() -> str:
    return "still here"


def with_reply_queue(session: Session) -> None:
    """Have the session declare its reply queue, as the first message that asks for a reply does."""

    async def need() -> None:
        session.reply_queue.need()

    run(session, need())
    until(lambda: session.reply_queue.address)


def test_a_message_is_published_with_its_queue_and_confirmed(session, raw):
    publication = Publication(Message("session_two", Properties(message_id="1"), b"x"), {}, timeout=20.0)
    session.publish(publication)
    session.finish(session.confirm(publication))
    assert raw.count("session_two") == 1
    for name in ("session_two", "session_two.dead"):
        raw.channel.queue_delete(name)


def test_replies_go_to_the_receiver_of_their_type(session, raw):
    got: list[bytes] = []

    class News(Receiver):
        def received(self, delivery):
            got.append(delivery.body)

        def lost(self):
            got.append(b"lost")

    assert session.reply_queue.receiver("news", News) is session.reply_queue.receiver("news", News)
    with_reply_queue(session)
    for kind, body in (("other", b"dropped"), ("news", b"kept")):
        raw.send(session.reply_queue.address, body, type=kind)
    until(lambda: got)
    assert got == [b"kept"]
    session.reply_queue.connection.post(session.reply_queue.connection._interrupted, KeyboardInterrupt())
    until(lambda: len(got) > 1)
    assert got == [b"kept", b"lost"]


def test_of_many_replies_that_nobody_asked_for_the_log_has_few_lines(session, raw, caplog):
    with_reply_queue(session)
    kept: list[bytes] = []

    class Last(Receiver):
        def received(self, delivery):
            kept.append(delivery.body)

        def lost(self): ...

    session.reply_queue.receiver("last", Last)
    with caplog.at_level(logging.DEBUG, "amqp_rpc.amqp.reply_queue"):
        for number in range(2000):
            raw.send(session.reply_queue.address, b"x", type="result", correlation_id=f"{number}\n" + "x" * 200)
        raw.send(session.reply_queue.address, b"x", type="last")
        until(lambda: kept)
    lines = [record.getMessage() for record in caplog.records if "late or unknown" in record.getMessage()]
    assert 0 < len(lines) < 10
    assert all(len(line) < 300 and "\n" not in line for line in lines)


def test_a_keeper_follows_each_connection(session, raw):
    class Noted(Keeper):
        opened = 0

        async def set_up(self, channel):
            await channel.declare("session_three")

        def ready(self):
            self.opened += 1

    keeper = Noted("queue session_three")
    session.keep(keeper)
    until(lambda: keeper.opened == 1)
    keeper.connection.post(keeper.connection._interrupted, KeyboardInterrupt())
    until(lambda: keeper.opened == 2)
    raw.channel.queue_delete("session_three")


def test_a_script_that_a_signal_cuts_off_on_the_main_thread_is_dropped_with_its_connection(session):
    with_reply_queue(session)
    closed: list[str] = []

    async def cut_off() -> None:
        for _ in range(3):
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            await session.pause(0.001)

    async def other() -> None:
        try:
            await session.pause(3600.0)
        finally:
            closed.append("closed")

    # No thread waits for this one: then the main thread leads at the sockets.
    session.connection.post(lambda: session.connection.run(other()))

    def ask_often() -> None:
        # The I/O thread leaves the sockets for such a thread.
        for _ in range(2000):
            run(session, cut_off())

    with pytest.raises(KeyboardInterrupt):
        ask_often()
    # The connection is made again.
    assert run(session, identity()) == "still here"
    assert closed == ["closed"]


def test_a_channel_that_outlives_its_connection_fails_the_next_script(session):
    async def opened() -> Any:
        return await session.open_channel()

    channel = run(session, opened())
    session.connection.post(session.connection._pika.close)
    until(lambda: not channel.is_open)

    async def late() -> None:
        await channel.inspect("any")

    with pytest.raises(BrokerError, match=r"lost|closed"):
        run(session, late())


def test_a_process_that_gets_no_thread_is_not_connected(nowhere, monkeypatch):
    """Python 3.12 refuses one at exit, and the system may at any time."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as no_threads:
        no_threads.setattr(threading.Thread, "start", refuse)
        with pytest.raises(NotConnected, match="can't create new thread at interpreter shutdown") as caught:
            run(nowhere, look(FakeConnection()))
    assert not caught.value.may_have_run
    with pytest.raises(NotConnected, match="connection refused"):
        run(nowhere, look(FakeConnection()))
