"""Results and states of tasks: as they change, by id from anywhere, and while their store is away."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import NoReturn

import pika
import pytest
import redis

from amqp_rpc import (
    AsyncClient,
    CallTimeout,
    Client,
    ConfigurationError,
    Expired,
    FunctionNotFound,
    InvalidArguments,
    MaybeExecuted,
    Reject,
    RemoteError,
    ResultLost,
    Server,
    Service,
    StoreUnavailable,
    Undecodable,
)
from amqp_rpc.message import codec
from amqp_rpc.results import open_store
from amqp_rpc.results.record import Record, fingerprint
from amqp_rpc.results.sqlite import SqliteStore
from amqp_rpc.server.tasks import TaskDispatcher
from tests.programs import serving
from tests.served_by import Raw, dead_letter, declare_dead
from tests.stores import RedisServer
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.db"


@pytest.fixture(params=["sqlite", "redis"])
def results(request: pytest.FixtureRequest) -> str:
    """A store's URL."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "redis_url"))


@pytest.fixture
def keeping(url: str, results: str) -> Iterator[Client]:
    """A client with the store."""
    with Client(url, timeout=20, results=results) as client:
        yield client


@pytest.fixture
def other(url: str, results: str) -> Iterator[Client]:
    """Another client with the store: it has enqueued nothing, and gets no replies."""
    with Client(url, results=results) as client:
        yield client


def test_states_are_seen_by_id_as_they_change(
    keeping: Client, other: Client, serve: Serve, service: Service, queue: str, results: str
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)

    @service.task(queue=queue, retries=1, backoff=(1.0, 1.0))
    def work(day: date) -> date:
        begun.release()
        assert go_on.acquire(timeout=20)
        if len(tries) == 0:
            tries.append(1)
            raise OSError("not yet")
        return day

    tries: list[int] = []
    mine = keeping.enqueue(work, date(2026, 1, 31))
    theirs = other.task(mine.id, work)
    assert (theirs.state, theirs.ready(), theirs.record()) == ("PENDING", False, None)
    serve(service, results=results)
    assert begun.acquire(timeout=20)
    until(lambda: theirs.state == "STARTED")
    assert not theirs.ready()
    with pytest.raises(
        CallTimeout, match=rf"a worker started attempt 1 \d s ago, and .*queue '{queue}' has 1 consumer"
    ):
        theirs.result(timeout=0.01)
    go_on.release()
    until(lambda: theirs.state == "RETRY")
    with pytest.raises(CallTimeout, match=r"attempt 1 failed \(OSError: not yet\), and the next one is due in [012] s"):
        theirs.result(timeout=0.01)
    record = theirs.record()
    assert record is not None
    assert (record.attempt, record.error, record.function, record.queue) == (1, "OSError: not yet", "work", queue)
    assert record.next_try is not None
    assert record.next_try > record.updated
    assert (mine.state, mine.ready()) == ("RETRY", False)
    go_on.release()
    assert theirs.result(timeout=20) == date(2026, 1, 31)
    assert (theirs.state, theirs.ready(), mine.state, mine.ready()) == ("SUCCESS", True, "SUCCESS", True)
    # Without the function it is what travels.
    untyped = other.task(mine.id)
    assert untyped.result(timeout=5) == date(2026, 1, 31)
    assert (untyped.function, untyped.queue) == ("work", queue)
    again = other.task(mine.id).record()
    assert again is not None
    assert again.attempt == 2


def test_async_handlers_are_recorded_too_and_nobody_writes_on_an_owner_or_an_event_loop(
    keeping: Client, other: Client, serve: Serve, service: Service, queue: str, results: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    begun, go_on = threading.Event(), threading.Event()
    wrote: set[str] = set()
    kind = type(open_store(results))
    put = kind.put

    def watched(self: object, record: Record, *, expires: float) -> None:
        wrote.add(threading.current_thread().name)
        put(self, record, expires=expires)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "put", watched)

    @service.task(queue=queue)
    async def wait(n: int) -> int:
        import asyncio

        begun.set()
        await asyncio.to_thread(go_on.wait, 20)
        return n

    @service.task(queue=queue)
    def double(n: int) -> int:
        return 2 * n

    serve(service, results=results)
    handle = keeping.enqueue(wait, 5)
    assert begun.wait(20)
    until(lambda: other.task(handle.id).state == "STARTED")
    go_on.set()
    assert other.task(handle.id).result(timeout=20) == 5
    assert other.task(keeping.enqueue(double, 4).id).result(timeout=20) == 8
    # One with wrong arguments is refused where it is read, which is the event loop without a store.
    refused = keeping.enqueue("wait", "five", queue=queue)
    with pytest.raises(InvalidArguments):
        other.task(refused.id).result(timeout=20)
    assert wrote
    assert all(name.startswith(("amqp_rpc handler ", "asyncio_", "amqp_rpc tasks begun")) for name in wrote), wrote


@pytest.mark.parametrize("kept", [True, False])
def test_what_makes_a_dead_letter_is_raised_with_a_store_and_without_one(
    url: str, serve: Serve, service: Service, queue: str, sqlite_url: str, raw: Raw, kept: bool
) -> None:
    @service.task(queue=queue, retries=0)
    def fail(why: str) -> None:
        raise {"reject": Reject("no such customer"), "value": ValueError("broken")}[why]

    with Client(url, results=sqlite_url if kept else "") as client:
        serve(service, results=sqlite_url if kept else "", clock_skew=0)
        for arguments, error, says in (
            (("fail", "reject"), Reject, "no such customer"),
            (("fail", "value"), ValueError, "broken"),
            (("fail", 5), InvalidArguments, "why"),
            (("nobody",), FunctionNotFound, "nobody"),
        ):
            handle = client.enqueue(*arguments, queue=queue)
            with pytest.raises(error, match=says):
                handle.result(timeout=20)
            assert handle.state == "FAILURE"
            if kept:
                asked = client.task(handle.id)
                assert asked.state == "FAILURE"
                with pytest.raises(error, match=says):
                    asked.result(timeout=5)
        late = client.enqueue("fail", "value", queue=queue, delay=0.2, expires=0.2)
        with pytest.raises(Expired, match="did not run"):
            late.result(timeout=20)
        raw.send(queue, b"\xc1", type="fail", message_id="bad", content_type="application/msgpack")
        if kept:
            with pytest.raises(Undecodable):
                client.task("bad").result(timeout=20)


def test_a_task_that_ends_its_workers_is_a_failure_that_says_so(
    url: str, raw: Raw, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By processes that know the store from the environment; the supervisor hands it on without showing it."""
    declare_dead(raw, "tserved_tasks")
    monkeypatch.setenv("AMQP_RPC_RESULTS", sqlite_url)
    monkeypatch.setenv("TEST_MOST_CRASHES", "3")
    with serving("tests.served", "--processes", "4", url=url) as server, Client(url) as client:
        assert sqlite_url in server.text()
        handle = client.enqueue("note_and_die", str(tmp_path / "ran"), queue="tserved_tasks")
        with pytest.raises(MaybeExecuted, match="3 workers died"):
            handle.result(timeout=100)
        assert client.task(handle.id).state == "FAILURE"
        for child in server.children():
            assert sqlite_url not in Path(f"/proc/{child}/cmdline").read_text()


def test_a_task_is_asked_for_from_another_process(
    keeping: Client, serve: Serve, service: Service, queue: str, results: str, url: str
) -> None:
    @service.task(queue=queue)
    def double(n: int) -> int:
        return 2 * n

    serve(service, results=results)
    handle = keeping.enqueue(double, 21)
    program = (
        "import sys; from amqp_rpc import Client\n"
        "with Client(sys.argv[1], results=sys.argv[2]) as client:\n"
        "    task = client.task(sys.argv[3])\n"
        "    print(task.result(timeout=20), task.state)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, url, results, handle.id],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert ended.stdout.split() == ["42", "SUCCESS"]


def test_a_task_that_was_enqueued_by_another_program_is_recorded_though_nobody_gets_a_reply(
    other: Client, serve: Serve, service: Service, queue: str, results: str, raw: Raw
) -> None:
    @service.task(queue=queue, retries=0)
    def callback(body: str) -> str:
        if body == "bad":
            raise ValueError(body)
        return body.upper()

    serve(service, results=results)
    raw.send(queue, b"hello", message_id="first" + queue)
    raw.send(queue, b"bad", message_id="second" + queue)
    raw.send(queue, b"no id, no record")
    assert other.task("first" + queue).result(timeout=20) == "HELLO"
    with pytest.raises(RemoteError, match="bad"):
        other.task("second" + queue).result(timeout=20)


def test_the_handle_of_a_client_that_has_lost_its_connection_gets_its_result_from_the_store(
    url: str, serve: Serve, service: Service, queue: str, results: str
) -> None:
    @service.task(queue=queue)
    def one() -> int:
        return 1

    with Client(url, results=results) as client:
        handle = client.enqueue(one)
    serve(service, results=results)
    assert handle.result(timeout=20) == 1
    assert handle.state == "SUCCESS"


def test_what_is_known_of_a_task_expires(
    keeping: Client, other: Client, serve: Serve, service: Service, queue: str, results: str
) -> None:
    @service.task(queue=queue)
    def one() -> int:
        return 1

    serve(service, results=results, result_expires=1.0)
    handle = keeping.enqueue(one)
    assert handle.result(timeout=20) == 1
    asked = other.task(handle.id)
    until(lambda: asked.record() is None, what="the end of its time")
    assert other.task(handle.id).state == "PENDING"
    # A handle that has the result keeps it.
    assert (handle.state, handle.result(timeout=1)) == ("SUCCESS", 1)


def test_a_redelivered_task_that_has_succeeded_is_answered_and_not_run_again(
    keeping: Client, serve: Serve, service: Service, queue: str, results: str, raw: Raw,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ran: list[int] = []

    @service.task(queue=queue)
    def work(n: int) -> int:
        ran.append(n)
        return n

    store = open_store(results)
    assert store is not None
    handles = [keeping.enqueue(work, n) for n in (1, 2)]
    # Both have had a worker that died; the first task's after it had recorded the end.
    for _ in handles:
        until(lambda: raw.channel.basic_get(queue)[0])
    raw.channel.basic_nack(0, multiple=True, requeue=True)
    first, second = handles
    done = Record(
        first.id,
        fingerprint(queue, "work", "application/msgpack", b"\x92\x91\x01\x80"),
        "SUCCESS",
        "work",
        queue,
        1,
        time.time(),
        kind="result",
        content_type="application/msgpack",
        body=b"\x65",
    )
    store.put(done, expires=60)
    store.put(Record(second.id, done.fingerprint, "STARTED", "work", queue, 1, time.time()), expires=60)
    store.close()
    with caplog.at_level(logging.WARNING, "amqp_rpc"):
        server = serve(service, results=results)
        assert [handle.result(timeout=20) for handle in handles] == [0x65, 2]
        until(lambda: server.counters["repeated"] == 1)
    assert ran == [2]
    assert "it is not run again" in caplog.text
    # Without its own store the client would have got it as well, and nothing is left in the queue.
    assert first._reply.done()
    until(lambda: raw.count(queue) == 0)


def test_the_store_is_not_asked_on_the_event_loop(
    client: Client, serve: Serve, service: Service, queue: str, sqlite_url: str, raw: Raw,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[str] = []
    get = SqliteStore.get

    def watched(self: SqliteStore, *key: str) -> Record | None:
        asked.append(threading.current_thread().name)
        return get(self, *key)

    monkeypatch.setattr(SqliteStore, "get", watched)

    @service.task(queue=queue)
    async def work() -> int:
        return 1

    handle = client.enqueue(work)
    until(lambda: raw.channel.basic_get(queue)[0])
    raw.channel.basic_nack(0, multiple=True, requeue=True)
    serve(service, results=sqlite_url)
    assert handle.result(timeout=20) == 1
    # A first delivery costs no look-up.
    assert client.enqueue(work).result(timeout=20) == 1
    assert len(asked) == 1
    assert asked[0].startswith("asyncio_")


def test_a_result_that_a_worker_gives_again_comes_over_the_reply_queue(
    client: Client, serve: Serve, service: Service, queue: str, sqlite_url: str, raw: Raw
) -> None:
    @service.task(queue=queue)
    def work() -> str:
        return "it was run again"

    handle = client.enqueue(work)
    until(lambda: raw.channel.basic_get(queue)[0])
    raw.channel.basic_nack(0, multiple=True, requeue=True)
    store = open_store(sqlite_url)
    assert store is not None
    told = {"kind": "result", "content_type": "application/json", "body": b'"x"'}
    known_as = fingerprint(queue, "work", "application/msgpack", b"\x92\x90\x80")
    store.put(Record(handle.id, known_as, "SUCCESS", "work", queue, 1, 0.0, **told), expires=60)
    store.close()
    serve(service, results=sqlite_url)
    assert handle.result(timeout=20) == "x"


def comes_again(raw: Raw, queue: str) -> None:
    """Have the message of a queue delivered again, as after the death of its worker."""
    until(lambda: raw.channel.basic_get(queue)[0])
    raw.channel.basic_nack(0, multiple=True, requeue=True)


@pytest.mark.parametrize("identity", [secrets.token_hex(2), secrets.token_hex(16)], ids=["a number", "one like ours"])
def test_two_programs_that_give_the_same_ids_lose_no_task_and_get_no_result_of_the_other(
    other: Client, serve: Serve, service: Service, queue: str, results: str, raw: Raw, identity: str
) -> None:
    """Their ids may look like ours: then function, queue and body decide."""
    charged: list[str] = []

    @service.task(queue=queue)
    def fine(x: str) -> str:
        return x

    @service.task(queue=queue)
    def charge(x: str) -> str:
        charged.append(x)
        return f"charged {x}"

    server = serve(service, results=results)
    theirs = {"content_type": "application/json", "message_id": identity, "delivery_mode": 2}
    raw.send(queue, b'[["a secret"], {}]', type="fine", **theirs)
    assert other.task(identity).result(timeout=20) == "a secret"
    server.stop()
    for body in (b'[["mine"], {}]', b'[["mine too"], {}]'):
        replies = {"reply_to": raw.reply_queue, "correlation_id": "c"}
        raw.send(queue, body, type="charge", **theirs, **replies)
        comes_again(raw, queue)
        server = serve(service, results=results)
        before = len(raw.replies)
        until(lambda before=before: raw._poll(before), what="the reply")
        server.stop()
    assert charged == ["mine", "mine too"]
    assert [reply for _, reply in raw.replies] == [b'"charged mine"', b'"charged mine too"']
    # By the id alone, the first one.
    assert other.task(identity).result(timeout=20) == "a secret"


def test_a_task_with_a_foreign_id_that_comes_again_is_run_again(
    serve: Serve, service: Service, queue: str, results: str, raw: Raw
) -> None:
    """At least once: two programs may send the same, and mean two tasks."""
    ran: list[int] = []

    @service.task(queue=queue)
    def work(n: int) -> None:
        ran.append(n)

    serve(service, results=results).stop()
    for times in (1, 2):
        raw.send(queue, b"[[1], {}]", type="work", content_type="application/json", message_id="7", delivery_mode=2)
        comes_again(raw, queue)
        server = serve(service, results=results)
        until(lambda times=times: len(ran) == times)
        server.stop()


def test_a_forged_id_neither_returns_nor_replaces_a_result(
    keeping: Client, other: Client, serve: Serve, service: Service, queue: str, results: str, raw: Raw
) -> None:
    ran: list[str] = []

    @service.task(queue=queue)
    def fine(x: str) -> str:
        ran.append(x)
        return x

    waiting = keeping.enqueue(fine, "good")
    # The forged one is faster.
    method, _, body = until(lambda: got if (got := raw.channel.basic_get(queue))[0] else None)
    forged = {"type": "fine", "content_type": "application/msgpack", "message_id": waiting.id, "delivery_mode": 2}
    raw.send(queue, body.replace(b"good", b"EVIL"), **forged, reply_to=raw.reply_queue, correlation_id="c")
    serve(service, results=results)
    before = len(raw.replies)
    until(lambda: raw._poll(before), what="the reply to the forged one")
    assert raw.replies[-1][1] == body[2:-1].replace(b"good", b"EVIL")
    assert (waiting.record(), waiting.state) == (None, "PENDING")
    raw.channel.basic_nack(method.delivery_tag, requeue=True)
    assert waiting.result(timeout=20) == "good"
    with_store_alone = keeping.enqueue(fine, "mine")
    assert other.task(with_store_alone.id).result(timeout=20) == "mine"
    raw.send(queue, body.replace(b"good", b"EVIL"), **{**forged, "message_id": with_store_alone.id})
    until(lambda: ran.count("EVIL") == 2)
    keeping.enqueue(fine, "last").result(timeout=20)
    until(lambda: raw.count(queue) == 0)
    assert other.task(with_store_alone.id).result(timeout=20) == "mine"
    record = with_store_alone.record()
    assert record is not None
    assert record.body == codec.encode("mine", codec.MSGPACK, limit=100)


def test_an_event_with_the_id_of_a_task_that_has_succeeded_is_handled(
    keeping: Client, serve: Serve, service: Service, queue: str, results: str, raw: Raw
) -> None:
    heard: list[str] = []

    @service.task(queue=queue)
    def work() -> int:
        return 1

    @service.subscribe(f"{queue}.#")
    def hear(word: str) -> None:
        heard.append(word)

    server = serve(service, results=results)
    handle = keeping.enqueue(work)
    assert handle.result(timeout=20) == 1
    server.stop()
    properties = pika.BasicProperties(message_id=handle.id, delivery_mode=2)
    raw.channel.basic_publish("amqp_rpc.events", f"{queue}.x", b"news", properties)
    comes_again(raw, f"events.{service.name}.hear")
    serve(service, results=results)
    until(lambda: heard == ["news"])


def test_what_another_program_has_written_into_the_store_is_said_to_be_no_record(url: str, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).hset("amqp_rpc:task:odd", mapping={"first": "f", "f": b"\x91\x01"})
    with Client(url, results=redis_url) as client:
        task = client.task("odd")
        for asked in (task.result, task.ready, task.record, lambda: task.state):
            with pytest.raises(Undecodable, match="no record of a task"):
                asked()
        redis.Redis.from_url(redis_url).set("amqp_rpc:task:odder", b"text")
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            client.task("odder").record()


def test_tasks_run_while_the_store_is_away_and_their_states_are_written_when_it_is_back(
    url: str, serve: Serve, service: Service, queue: str, redis_server: RedisServer, raw: Raw,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    @service.task(queue=queue, retries=0)
    def half(n: int) -> int:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    with Client(url, results=redis_server.url) as client, caplog.at_level(logging.WARNING, "amqp_rpc"):
        serve(service, results=redis_server.url)
        assert client.enqueue(half, 2).result(timeout=20) == 1
        redis_server.kill()
        handles = [client.enqueue(half, n) for n in range(6)]
        # Their replies come all the same.
        assert [handle.result(timeout=20) for handle in handles[::2]] == [0, 1, 2]
        for handle in handles[1::2]:
            with pytest.raises(ValueError, match="is odd"):
                handle.result(timeout=20)
        until(lambda: raw.count(queue) == 0)
        asked = [client.task(handle.id) for handle in handles]
        with pytest.raises(StoreUnavailable, match=str(redis_server.port)):
            _ = asked[0].state
        with pytest.raises(TimeoutError, match=f"no result of task .*{redis_server.port}"):
            asked[0].result(timeout=0.1)
        redis_server.start()
        until(lambda: [task.state for task in asked] == ["SUCCESS", "FAILURE"] * 3)
        # Nothing is lost: the worker has kept it.
        assert [task.result(timeout=5) for task in asked[::2]] == [0, 1, 2]
        with pytest.raises(ValueError, match="5 is odd"):
            asked[5].result(timeout=5)
        # From then on all is kept.
        assert client.task(client.enqueue(half, 8).id).result(timeout=20) == 4
    said = [record.message for record in caplog.records if "store of results" in record.message]
    assert len(said) == 2
    assert "Tasks run on; their results are kept here until it is back, up to 64 MiB of them" in said[0]
    assert said[1] == "The store of results is back; 0 results were lost"


def test_a_result_that_there_was_no_room_for_is_lost_and_its_end_is_known(
    url: str, serve: Serve, service: Service, queue: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqp_rpc.results.recorder.MOST_BYTES", 10)

    @service.task(queue=queue)
    def large(n: int) -> str:
        return "x" * n

    with Client(url, results=redis_server.url) as client:
        serve(service, results=redis_server.url)
        assert client.enqueue(large, 2).result(timeout=20) == "xx"
        redis_server.kill()
        small, lost = (client.enqueue(large, n) for n in (2, 20))
        assert [small.result(timeout=20), lost.result(timeout=20)] == ["xx", "x" * 20]
        redis_server.start()
        until(lambda: client.task(lost.id).state == "SUCCESS")
        assert client.task(small.id).result(timeout=20) == "xx"
        with pytest.raises(ResultLost, match=r"large\(\) .* ended \(SUCCESS\); its result is lost"):
            client.task(lost.id).result(timeout=5)


def test_tasks_run_when_the_file_can_t_be_written(
    url: str, service: Service, queue: str, tmp_path: Path, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results.db").write_bytes(b"this is no database" * 100)
    results = f"sqlite:///{tmp_path}/results.db"

    @service.task(queue=queue)
    async def double(n: int) -> int:
        return 2 * n

    with Client(url, results=results) as client, Server(service, url=url, results=results):
        handles = [client.enqueue(double, n) for n in range(5)]
        assert [handle.result(timeout=20) for handle in handles] == [0, 2, 4, 6, 8]
        with pytest.raises(StoreUnavailable, match="not a database"):
            client.task(handles[0].id).ready()
        until(lambda: raw.count(queue) == 0)
    assert caplog.text.count("Tasks run on") == 1
    assert "5 tasks' states are lost" in caplog.text


def test_a_store_that_raises_anything_makes_no_dead_letter_and_costs_no_result(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    raw: Raw,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @service.task(queue=queue)
    def double(n: int) -> int:
        return 2 * n

    def broken(*_args: object, **_kwargs: object) -> None:
        raise TypeError("what nobody has thought of")

    server = serve(service, results=sqlite_url)
    assert server.results is not None
    monkeypatch.setattr(type(server.results), "put", broken)
    handles = [client.enqueue(double, n) for n in range(5)]
    assert [handle.result(timeout=20) for handle in handles] == [0, 2, 4, 6, 8]
    until(lambda: raw.count(queue) == 0)
    assert raw.count(f"{queue}.dead") == 0
    assert (server.counters["result"], server.counters["dead_letters"]) == (5, 0)
    assert caplog.text.count("Tasks run on") == 1


def test_a_file_that_is_locked_for_longer_than_a_write_waits_loses_nothing(
    url: str, serve: Serve, service: Service, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqp_rpc.results.sqlite._BUSY_TIMEOUT", 0.2)
    monkeypatch.setattr("amqp_rpc.results.recorder.LOOK_AGAIN", 0.1)
    results = f"sqlite:///{tmp_path}/results.db"

    @service.task(queue=queue)
    def double(n: int) -> int:
        return 2 * n

    with Client(url, results=results) as client:
        server = serve(service, results=results)
        assert client.enqueue(double, 1).result(timeout=20) == 2
        other = sqlite3.connect(tmp_path / "results.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        handles = [client.enqueue(double, n) for n in range(200)]
        # All have run while it was locked.
        until(lambda: server.counters["result"] == 201)
        other.execute("ROLLBACK")
        other.close()
        asked = [client.task(handle.id) for handle in handles]
        until(lambda: asked[-1].state == "SUCCESS")
        assert [task.result(timeout=20) for task in asked] == [2 * n for n in range(200)]


def test_a_store_that_is_not_there_is_reported_at_the_start(
    serve: Serve, service: Service, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    @service.task(queue=queue)
    def double(n: int) -> int:
        return 2 * n

    serve(service, results="redis://127.0.0.1:1/0")
    until(lambda: "the store of results 'redis://127.0.0.1:1/0' can't be used" in caplog.text)


def test_a_worker_that_ends_writes_what_it_remembers(
    url: str, serve: Serve, service: Service, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqp_rpc.results.recorder.LOOK_AGAIN", 600.0)
    path = tmp_path / "results.db"
    path.mkdir()
    results = f"sqlite:///{path}"

    @service.task(queue=queue)
    def one() -> int:
        return 1

    with Client(url, results=results) as client:
        server = serve(service, results=results)
        handle = client.enqueue(one)
        assert handle.result(timeout=20) == 1
        path.rmdir()
        server.stop()
        assert client.task(handle.id).state == "SUCCESS"


def test_without_a_store_a_task_can_t_be_asked_for_by_id(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="by its id only where results are kept"):
        client.task("x")


def test_what_names_no_task_is_refused(url: str, sqlite_url: str, service: Service) -> None:
    with Client(url, results=sqlite_url) as client:
        with pytest.raises(ConfigurationError, match="is no task of any service"):
            client.task("x", print)
        with pytest.raises(ConfigurationError, match="a task's id is the text"):
            client.task("")
        with pytest.raises(
            CallTimeout, match=r"no result of task \[never\] within 0.05 s: the store has no record of it: .*wrong$"
        ):
            client.task("never").result(timeout=0.05)


def test_a_task_whose_workers_keep_no_results_is_not_said_to_go_on(
    url: str, serve: Serve, service: Service, queue: str, sqlite_url: str
) -> None:
    @service.task(queue=queue)
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    with Client(url, results=sqlite_url) as client:
        done = client.enqueue(double, 2)
        assert done.result() == 4
        said = (
            r"the store has no record of it: no worker with the same results= has started it.*queue '{}' has 1 consumer"
        )
        with pytest.raises(CallTimeout, match=said.format(queue)):
            client.task(done.id, double).result(timeout=0.01)


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_store_that_makes_no_sense_is_refused_where_it_is_given(make: type[Client], url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no store of results"):
        make(url, results="results.db")
    with pytest.raises(ConfigurationError, match="names no store of results"):
        Server(Service(), results="results.db")
    with pytest.raises(ConfigurationError, match="result_expires"):
        Server(Service(), result_expires=0)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["on a thread", "async def"])
def test_a_task_that_meets_a_defect_of_the_worker_s_own_is_recorded_and_told_as_a_failure(
    url: str, serve: Serve, service: Service, queue: str, sqlite_url: str, raw: Raw, monkeypatch: pytest.MonkeyPatch,
    asynchronous: bool,
) -> None:  # fmt: skip
    def broken(*_arguments: object, **_options: object) -> NoReturn:
        raise RuntimeError("a defect")

    monkeypatch.setattr(TaskDispatcher, "answer", broken)

    if asynchronous:

        @service.task(queue=queue)
        async def work() -> None:
            """Nothing to do."""
    else:

        @service.task(queue=queue)  # type: ignore[no-redef]
        def work() -> None:
            """Nothing to do."""

    server = serve(service, results=sqlite_url)
    with Client(url, results=sqlite_url) as client:
        handle = client.enqueue("work", queue=queue)
        with pytest.raises(MaybeExecuted, match="a defect"):
            handle.result(timeout=20)
        until(lambda: client.task(handle.id).state == "FAILURE")
    assert "a defect" in dead_letter(raw, queue).headers["reason"]
    until(lambda: not server._state.unacked)
    assert server.counters["dead_letters"] == 1


def test_calls_are_not_recorded(
    client: Client, serve: Serve, service: Service, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @service.rpc
    def one() -> int:
        return 1

    put: list[Record] = []
    monkeypatch.setattr(SqliteStore, "put", lambda _self, record, **_: put.append(record))
    serve(service, results=sqlite_url)
    assert client.call(one) == 1
    assert put == []


def test_somebody_can_be_called_when_a_task_has_ended(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    @service.task(queue=queue)
    def one() -> int:
        return 1

    told = threading.Event()
    handle = client.enqueue(one)
    handle.add_done_callback(told.set)
    assert not told.is_set()
    serve(service)
    assert told.wait(20)
    assert handle.result(timeout=1) == 1


def test_of_a_task_without_result_nobody_is_told_but_the_dead_letters(
    url: str, serve: Serve, service: Service, raw: Raw, queue: str, sqlite_url: str
) -> None:
    ran: list[int] = []

    @service.task(queue=queue, retries=0, result=False)
    def note(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        ran.append(n)
        return n

    serve(service, results=sqlite_url)
    with Client(url, results=sqlite_url) as client:
        handle = client.enqueue(note, 1)
        by_name = client.enqueue("note", 2, queue=queue)
        client.enqueue(note, -1)
        letters = client.dead_letters(queue)
        until(lambda: len(ran) == 2 and letters.list())

        assert [letter.reason for letter in letters.list()] == ["ValueError: -1"]
        for asked in (handle.result, handle.ready, handle.record, lambda: handle.state, client.task("x", note).result):
            with pytest.raises(ConfigurationError, match=r"note\(\) is registered with result=False"):
                asked()
        # A handle by name can't know that; no worker sends it anything.
        assert by_name.state == "PENDING"
        assert by_name.record() is None


def test_who_names_a_task_without_result_wrongly_is_told_so(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    @service.task(queue=queue, result=False)
    def note(n: int) -> None:
        pass

    serve(service)

    with pytest.raises(InvalidArguments, match="'n': expected int"):
        client.enqueue("note", "x", queue=queue).result(timeout=10)
