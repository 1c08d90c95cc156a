"""Dead letters through a real broker: listed without being lost, replayed with their history, dropped."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pika
import pytest

from amqp_rpc import (
    AsyncClient,
    BrokerTimeout,
    Client,
    ConfigurationError,
    ConnectionLost,
    DeadLetter,
    DeadLetters,
    NamesAnotherQueue,
    PublishRefused,
    Reject,
    Server,
    Service,
)
from amqp_rpc.message.headers import only_carried
from amqp_rpc.message.topology import delayed_key
from amqp_rpc.ops.browse import MOST_RETURNS, Cursor
from amqp_rpc.ops.dead_letters import Progress
from tests.served_by import DEAD, Raw
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.fixture
def queue(raw: Raw) -> str:
    """A task queue of the test's own, and the queue of its dead letters as workers declare it."""
    raw.channel.confirm_delivery()
    name = f"t{secrets.token_hex(6)}"
    raw.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    declare_dead(raw, name, DEAD)
    return name


@pytest.fixture
def dead(client: Client, queue: str) -> DeadLetters:
    return client.dead_letters(queue)


def declare_dead(raw: Raw, queue: str, arguments: dict[str, object]) -> None:
    raw.channel.queue_declare(f"{queue}.dead", durable=True, arguments=arguments)
    # RabbitMQ 3.10: a new quorum queue answers a moment later.
    until(lambda: raw.count(f"{queue}.dead") == 0)


def put(raw: Raw, queue: str, /, *ids: str, body: bytes = b'[["a.png"], {"size": 3}]', **headers: Any) -> None:
    """Put letters as a worker does."""
    for number, each in enumerate(ids):
        raw.send(
            f"{queue}.dead",
            body,
            message_id=each,
            type="resize",
            content_type="application/json",
            delivery_mode=2,
            timestamp=1_700_000_000,
            headers={
                "reason": "ValueError: no",
                "queue": queue,
                "died": 1_700_000_060_000 + number,
                "attempt": 6,
                **headers,
            },
        )


def ids(letters: list[DeadLetter]) -> list[str | None]:
    return [letter.id for letter in letters]


def listed(dead: DeadLetters, count: int) -> list[DeadLetter]:
    """Wait until so many letters are there; return them."""
    return until(lambda: found if len(found := dead.list()) == count else None, what=f"{count} dead letters")


def test_a_dead_task_is_listed_with_its_details(
    client: Client, serve: Serve, service: Service, queue: str, dead: DeadLetters
) -> None:
    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def resize(path: str, size: int) -> None:
        raise ValueError("no such picture")

    began = datetime.now(UTC)
    serve(service)
    handle = client.enqueue(resize, "a.png", size=3)
    (letter,) = listed(dead, 1)
    assert (letter.id, letter.function, letter.queue) == (handle.id, "resize", queue)
    assert (letter.reason, letter.attempt, letter.crashes) == ("ValueError: no such picture", 2, 0)
    assert letter.traceback is not None
    assert 'raise ValueError("no such picture")' in letter.traceback
    assert letter.arguments == "'a.png', size=3"
    assert letter.died is not None
    assert letter.enqueued is not None
    assert began - timedelta(seconds=1) <= letter.enqueued <= letter.died <= datetime.now(UTC)
    assert (letter.history, letter.size > 0) == ([], True)


def test_a_call_that_can_t_be_answered_is_a_dead_letter_too(
    client: Client, serve: Serve, service: Service, raw: Raw
) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    raw.send(service.queue, b"\xc1", message_id="call-1", type="double", content_type="application/msgpack")
    dead = client.dead_letters(service.queue)
    (letter,) = listed(dead, 1)
    assert (letter.id, letter.function, letter.arguments) == ("call-1", "double", r"b'\xc1'")
    assert "msgpack" in letter.reason
    assert dead.replay(ids="call-1") == ["call-1"]
    (letter,) = listed(dead, 1)
    assert [death.attempt for death in letter.history] == [1]


def test_without_letters_or_without_a_queue_the_list_is_empty(client: Client, dead: DeadLetters) -> None:
    nowhere = client.dead_letters("no-such-queue")
    assert (dead.list(), dead.get("x"), dead.replay(all=True), dead.drop(all=True)) == ([], None, [], [])
    assert (nowhere.list(), nowhere.get("x"), nowhere.replay(all=True), nowhere.drop(all=True)) == ([], None, [], [])


@pytest.mark.parametrize("arguments", [DEAD, {"x-queue-type": "quorum"}, {}], ids=["ours", "quorum", "classic"])
def test_a_letter_that_was_listed_25_times_is_still_there(
    client: Client, raw: Raw, arguments: dict[str, object]
) -> None:
    name = f"t{secrets.token_hex(6)}"
    raw.channel.confirm_delivery()
    declare_dead(raw, name, arguments)
    put(raw, name, "1", "2", "3")
    dead = client.dead_letters(name)
    for _ in range(25):
        assert sorted(map(str, ids(dead.list()))) == ["1", "2", "3"]
        assert dead.get("3") is not None
    assert until(lambda: raw.count(f"{name}.dead") == 3)


def test_a_copy_of_an_often_listed_letter_keeps_all_but_the_broker_s_headers(client: Client, raw: Raw) -> None:
    name = f"t{secrets.token_hex(6)}"
    raw.channel.confirm_delivery()
    declare_dead(raw, name, {"x-queue-type": "quorum"})
    put(raw, name, "1", body=b"\xff", mine="kept")
    dead = client.dead_letters(name)
    (before,) = dead.list()
    for _ in range(2 * MOST_RETURNS):
        assert dead.list() == [before]
    properties, body = raw.get(f"{name}.dead")
    assert (body, properties.headers["mine"], properties.message_id) == (b"\xff", "kept", "1")
    assert properties.headers.get("x-delivery-count", 0) <= 2 * MOST_RETURNS


def test_filters_select_by_id_function_and_time_and_the_limit_holds(raw: Raw, queue: str, dead: DeadLetters) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for hour in range(3):
        put(raw, queue, str(hour), died=int((noon + timedelta(hours=hour)).timestamp() * 1000))
    one = noon + timedelta(hours=1)
    assert ids(dead.list()) == ["0", "1", "2"]
    assert ids(dead.list(ids=["2", "0", "nope"])) == ["0", "2"]
    assert ids(dead.list(before=one)) == ["0"]
    assert ids(dead.list(after=one)) == ["1", "2"]
    assert ids(dead.list(after=one, before=noon + timedelta(hours=2))) == ["1"]
    assert len(dead.list(function="resize", limit=2)) == 2
    assert dead.list(function="other") == []
    letter = dead.get("1")
    assert letter is not None
    assert letter.died == one
    with pytest.raises(ConfigurationError, match="before has no time zone"):
        dead.list(before=datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


def test_a_replay_runs_the_same_task_again_and_a_next_death_remembers_the_first(
    client: Client, serve: Serve, service: Service, queue: str, dead: DeadLetters
) -> None:
    why = ["first", "second"]

    @service.task(queue=queue, retries=3)
    def fail() -> None:
        raise Reject(why.pop(0))

    serve(service)
    handle = client.enqueue(fail)
    (first,) = listed(dead, 1)
    assert dead.replay(ids=[handle.id]) == [handle.id]
    (second,) = until(lambda: [each for each in dead.list() if each.history], what="the second death")
    assert (second.id, second.reason, second.attempt) == (handle.id, "rejected: second", 1)
    assert [(death.died, death.reason, death.attempt) for death in second.history] == [
        (first.died, "rejected: first", 1)
    ]
    assert (second.enqueued, second.size) == (first.enqueued, first.size)


def test_a_replayed_message_is_the_old_one_without_what_its_death_wrote(
    raw: Raw, queue: str, dead: DeadLetters
) -> None:
    put(raw, queue, "1", traceback="T", crashes=4, error="E", mine="kept", deadline=5)
    assert dead.replay(all=True) == ["1"]
    properties, body = raw.get(queue)
    assert (properties.message_id, properties.type, properties.timestamp) == ("1", "resize", 1_700_000_000)
    assert (properties.delivery_mode, properties.expiration, body) == (2, None, b'[["a.png"], {"size": 3}]')
    history = json.loads(properties.headers.pop("history"))
    assert history == [{"died": 1_700_000_060_000, "reason": "ValueError: no", "attempt": 6}]
    assert only_carried(properties.headers) == {"attempt": 1, "mine": "kept"}


def test_an_expired_task_runs_when_it_is_replayed(
    client: Client, serve: Serve, service: Service, queue: str, dead: DeadLetters
) -> None:
    ran = []

    @service.task(queue=queue)
    def late() -> None:
        ran.append(1)

    client.enqueue(late, expires=0.001)
    serve(service, clock_skew=0)
    (letter,) = listed(dead, 1)
    assert "Expired" in letter.reason
    assert ran == []
    dead.replay(all=True)
    until(lambda: ran, what="the task")


def test_letters_that_have_one_id_are_all_replayed_and_all_stay_in_a_list(
    raw: Raw, queue: str, dead: DeadLetters
) -> None:
    """Programs that number their messages from 1 give equal ids, and a crash at a bad moment makes one letter two."""
    for body in (b"a", b"b", b"b"):
        headers = {"queue": queue, "reason": "R"}
        raw.send(f"{queue}.dead", body, message_id="1", type="resize", delivery_mode=2, headers=headers)
    # Often enough for each to be replaced by a copy.
    for _ in range(MOST_RETURNS + 2):
        assert [letter.id for letter in dead.list()] == ["1"] * 3
    assert dead.replay(all=True) == ["1"] * 3
    assert [raw.get(queue)[1] for _ in range(3)] == [b"a", b"b", b"b"]
    assert dead.list() == []


def test_a_letter_that_dies_again_at_once_is_replayed_once(
    client: Client, serve: Serve, service: Service, queue: str, dead: DeadLetters
) -> None:
    ran = []

    @service.task(queue=queue)
    def fail(n: int) -> None:
        ran.append(n)
        raise Reject("never")

    serve(service)
    handles = [client.enqueue(fail, n) for n in range(150)]
    until(lambda: len(ran) == 150)
    listed_all = until(lambda: found if len(found := dead.list(limit=None)) == 150 else None)
    assert sorted(map(str, ids(listed_all))) == sorted(handle.id for handle in handles)
    assert len(dead.replay(function="fail")) == 150
    until(lambda: len(dead.list(limit=None)) == 150, what="their second deaths")
    assert sorted(ran) == sorted([*range(150)] * 2)


def test_only_selected_letters_are_replayed_or_dropped(raw: Raw, queue: str, dead: DeadLetters) -> None:
    put(raw, queue, "1", "2", "3", "4")
    assert dead.replay(ids=["2"]) == ["2"]
    assert dead.drop(ids="3") == ["3"]
    assert ids(dead.list()) == ["1", "4"]
    assert dead.drop(after=datetime(2020, 1, 1, tzinfo=UTC)) == ["1", "4"]
    assert dead.list() == []
    assert raw.get(queue)[0].message_id == "2"
    assert raw.count(queue) == 0


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_a_selection_or_all_is_needed(dead: DeadLetters, verb: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{verb} which"):
        getattr(dead, verb)()
    with pytest.raises(ConfigurationError, match="no other filter"):
        getattr(dead, verb)(all=True, function="resize")


def test_a_letter_that_the_broker_refuses_stays_a_dead_letter(client: Client, raw: Raw) -> None:
    name = f"t{secrets.token_hex(6)}"
    raw.channel.confirm_delivery()
    declare_dead(raw, name, DEAD)
    put(raw, name, "1", "2")
    dead = client.dead_letters(name)
    with pytest.raises(PublishRefused, match=rf"0 of 2 dead letters were replayed.*there is no queue '{name}'"):
        dead.replay(all=True)
    assert ids(dead.list()) == ["1", "2"]
    # A full queue takes what it has room for.
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    raw.channel.queue_declare(name, durable=True, arguments=full)
    with pytest.raises(PublishRefused, match=r"1 of 2 dead letters were replayed.*takes no more"):
        dead.replay(all=True)
    assert len(dead.list()) == 1


def test_messages_without_properties_are_listed_replayed_and_dropped(raw: Raw, queue: str, dead: DeadLetters) -> None:
    raw.send(f"{queue}.dead", b"what is this")
    raw.send(f"{queue}.dead", b"[", content_type="application/json", headers={"history": "{", "died": "x", "queue": 5})
    first, second = listed(dead, 2)
    assert (first.id, first.function, first.died, first.reason) == (None, None, None, "not known")
    assert (first.arguments, second.arguments, second.history) == ("'what is this'", "b'['", [])
    assert dead.list(before=datetime.now(UTC)) == []
    assert len(dead.replay(all=True)) == 2
    assert {raw.get(queue)[1], raw.get(queue)[1]} == {b"what is this", b"["}
    raw.send(f"{queue}.dead", b"what is this")
    listed(dead, 1)
    assert dead.drop(all=True) == [""]


def test_a_second_reader_does_not_see_letters_that_the_first_one_holds(
    client: Client, url: str, raw: Raw, queue: str, dead: DeadLetters
) -> None:
    put(raw, queue, "1", "2", "3")
    assert len(listed(dead, 3)) == 3
    with held(client, dead, 2), Client(url) as other:
        assert ids(other.dead_letters(queue).list()) == ["3"]
    assert ids(dead.list()) == ["1", "2", "3"]


def test_a_connection_that_is_lost_loses_no_letter(client: Client, raw: Raw, queue: str, dead: DeadLetters) -> None:
    put(raw, queue, "1", "2")
    listed(dead, 2)
    connection = client._session.connection
    assert connection is not None
    with pytest.raises(ConnectionLost), held(client, dead, 1):
        connection.post(connection._pika.close)
    assert sorted(map(str, ids(listed(dead, 2)))) == ["1", "2"]


@contextmanager
def held(client: Client, dead: DeadLetters, count: int) -> Iterator[None]:
    """Hold so many letters, as a method does while it reads; then raise its error."""
    session = client._session
    reached, go_on = threading.Event(), threading.Event()

    async def hold() -> None:
        async with Cursor(session, dead.dead_letter_queue, window=count) as cursor:
            for _ in range(count):
                letter = await cursor.next()
                assert letter is not None
                await cursor.keep(letter)
            reached.set()
            while not go_on.is_set():
                await session.pause(0.01)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(session.finish, session.script(hold(), timeout=20))
        try:
            until(lambda: reached.is_set() or holding.done())
            yield
        finally:
            go_on.set()
        holding.result(20)


def test_a_worker_uses_a_dead_letter_queue_that_exists_with_other_arguments(
    client: Client, serve: Serve, service: Service, raw: Raw
) -> None:
    name = f"t{secrets.token_hex(6)}"
    declare_dead(raw, name, {"x-queue-type": "quorum", "x-max-length": 1000})

    @service.task(queue=name)
    def fail() -> None:
        raise Reject("no")

    serve(service)
    handle = client.enqueue(fail)
    (letter,) = listed(client.dead_letters(name), 1)
    assert letter.id == handle.id


def test_states_of_queues_are_their_messages_and_consumers(
    client: Client, serve: Serve, service: Service, raw: Raw, queue: str
) -> None:
    @service.task(queue=queue)
    def nothing() -> None: ...

    for _ in range(3):
        raw.channel.basic_publish("", f"{queue}.dead", b"", pika.BasicProperties())
    serve(service)
    states = client.queue_states([queue, "no-such-queue", f"{queue}.dead"])
    here, nowhere, dead = states.values()
    assert nowhere is None
    assert here is not None
    assert dead is not None
    assert (here.name, here.messages, here.consumers) == (queue, 0, 1)
    assert until(lambda: client.queue_states([f"{queue}.dead"])[f"{queue}.dead"].messages == 3)  # type: ignore[union-attr]


def test_dead_letters_and_queue_states_are_awaited(url: str, raw: Raw, queue: str) -> None:
    put(raw, queue, "a", "b", "c")

    async def see_to() -> None:
        async with AsyncClient(url, timeout=20) as client:
            dead = client.dead_letters(queue)
            assert [letter.id for letter in await dead.list()] == ["a", "b", "c"]
            assert [letter.id for letter in await dead.list(ids=["b"])] == ["b"]
            found = await dead.get("c")
            assert found is not None
            assert found.reason == "ValueError: no"
            with pytest.raises(ConfigurationError, match="drop which"):
                await dead.drop()
            assert await dead.replay(ids="a") == ["a"]
            assert await dead.drop(function="resize") == ["b", "c"]
            assert await dead.list() == []
            states = await client.queue_states([queue, f"{queue}.nowhere"])
            assert states[f"{queue}.nowhere"] is None

    asyncio.run(see_to())
    assert raw.get(queue)[0].message_id == "a"


def many(raw: Raw, queue: str, count: int) -> None:
    put(raw, queue, *map(str, range(count)))
    until(lambda: raw.count(f"{queue}.dead") == count)


def test_long_work_reports_the_ids_as_they_are_confirmed(raw: Raw, queue: str, dead: DeadLetters) -> None:
    many(raw, queue, 250)
    reports: list[Progress] = []
    replayed = dead.replay(all=True, progress=reports.append)
    assert len(reports) >= 2
    assert [each for report in reports for each in report.ids] == replayed == list(map(str, range(250)))
    assert {report.total for report in reports} == {250}
    assert [report.seen for report in reports] == sorted(report.seen for report in reports)
    assert reports[-1].seen == 250


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_a_report_of_false_ends_it_early_and_what_was_done_is_known_exactly(
    raw: Raw, queue: str, dead: DeadLetters, verb: str
) -> None:
    many(raw, queue, 250)
    done = getattr(dead, verb)(all=True, progress=lambda _: False)
    assert 0 < len(done) < 250
    until(lambda: raw.count(f"{queue}.dead") == 250 - len(done))
    if verb == "replay":
        until(lambda: raw.count(queue) == len(done))
    assert sorted(done + ids(dead.list(limit=None)), key=int) == list(map(str, range(250)))


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_time_that_is_over_is_an_error_with_the_ids_of_what_was_done(
    client: Client, raw: Raw, queue: str, verb: str
) -> None:
    many(raw, queue, 250)
    hurried = client.dead_letters(queue, timeout=0.5)
    with pytest.raises(BrokerTimeout, match=rf"\d+ of 250 dead letters were {verb}\w+ within 0.5 s") as raised:
        # The time is over in the middle.
        getattr(hurried, verb)(all=True, progress=lambda _: time.sleep(0.6))
    done = raised.value.ids
    assert 0 < len(done) < 250
    assert raised.value.may_have_run == (verb == "replay")
    until(lambda: raw.count(f"{queue}.dead") == 250 - len(done))
    with pytest.raises(BrokerTimeout, match=rf"\d+ of {250 - len(done)} dead letters were read within 0.5 s"):
        hurried.list(limit=None, progress=lambda _: time.sleep(0.6))


def test_long_work_has_no_deadline_of_its_own_but_each_answer_has(url: str, raw: Raw, queue: str) -> None:
    many(raw, queue, 150)
    with Client(url, timeout=0.5) as client:
        dead = client.dead_letters(queue)
        assert len(dead.list(limit=None, progress=lambda _: time.sleep(0.7))) == 150


def test_a_report_that_raises_raises_at_the_end_of_what_is_under_way(raw: Raw, queue: str, dead: DeadLetters) -> None:
    many(raw, queue, 150)
    seen: list[str] = []

    def report(progress: Progress) -> None:
        seen.extend(progress.ids)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dead.replay(all=True, progress=report)
    until(lambda: raw.count(queue) == len(seen))


def test_a_connection_that_is_lost_in_the_middle_says_what_was_done(
    client: Client, raw: Raw, queue: str, dead: DeadLetters
) -> None:
    many(raw, queue, 250)

    def cut(_: Progress) -> None:
        connection = client._session.connection
        assert connection is not None
        connection.post(connection._pika.close)

    with pytest.raises(ConnectionLost) as raised:
        dead.replay(all=True, progress=cut)
    assert 0 < len(raised.value.ids) < 250


def test_a_letter_that_names_another_queue_stays_unless_that_is_said(raw: Raw, queue: str, dead: DeadLetters) -> None:
    put(raw, queue, "mine")
    put(raw, queue, "forged", queue="payments")
    until(lambda: raw.count(f"{queue}.dead") == 2)
    with pytest.raises(NamesAnotherQueue, match="1 of 2 dead letters were replayed; the others stay: ") as caught:
        dead.replay(all=True)
    assert (caught.value.ids, caught.value.queues) == (("mine",), {"payments": ["forged"]})
    with pytest.raises(ConfigurationError, match="to= is a queue, by its name, not ''"):
        dead.replay(all=True, to="")
    assert dead.replay(all=True, to=queue) == ["forged"]
    until(lambda: raw.count(queue) == 2)


def test_a_letter_with_the_key_of_a_delayed_message_is_one_of_its_queue(
    raw: Raw, queue: str, dead: DeadLetters
) -> None:
    raw.channel.exchange_declare(f"{queue}.x", "fanout")
    raw.channel.queue_bind(f"{queue}.dead", f"{queue}.x")
    properties = pika.BasicProperties(message_id="1", content_type="application/json")
    raw.channel.basic_publish(f"{queue}.x", delayed_key(1, "payments"), b"[[], {}]", properties)
    raw.channel.exchange_delete(f"{queue}.x")
    (letter,) = until(dead.list)
    assert letter.queue == queue
    assert dead.replay(all=True) == ["1"]
    until(lambda: raw.count(queue) == 1)
