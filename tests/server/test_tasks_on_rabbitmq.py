"""Tasks through a real broker: accepted, run, tried again, delayed in the broker, and never lost."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqp_rpc import Client, ConfigurationError, Reject, RemoteError, Retry, Server, Service, context
from amqp_rpc.amqp.channel import Channel
from amqp_rpc.message.envelope import Message, task_properties
from amqp_rpc.server import consumers
from amqp_rpc.server.invoke import Answer, Settings
from amqp_rpc.server.tasks import TaskDispatcher, TaskInvocation
from tests.served_by import Raw, dead_letter
from tests.waiting import until

Serve = Callable[..., Server]


def test_a_task_runs_and_its_result_comes_to_who_enqueued_it(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    @service.task(queue=queue)
    def resize(path: str, size: int = 1) -> str:
        return f"{path} {size}"

    serve(service)
    handle = client.enqueue(resize, "a.png", size=3)
    assert handle.result(timeout=10) == "a.png 3"
    assert (handle.state, handle.queue, handle.function) == ("SUCCESS", queue, "resize")
    assert client.enqueue("resize", "b.png", queue=queue).result(timeout=10) == "b.png 1"


def test_a_task_is_accepted_before_any_worker_was_started(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    @service.task(queue=queue)
    async def double(n: int) -> int:
        return 2 * n

    handles = [client.enqueue(double, n) for n in range(20)]
    assert [handle.state for handle in handles] == ["PENDING"] * 20
    serve(service)
    assert [handle.result(timeout=20) for handle in handles] == [2 * n for n in range(20)]


def test_a_task_of_a_service_without_a_queue_is_in_the_service_s(
    client: Client, serve: Serve, service: Service
) -> None:
    @service.task
    def name() -> str:
        return context().function

    serve(service)
    assert client.enqueue(f"{service.name}.name").result(timeout=10) == "name"


def test_a_task_that_fails_is_tried_again_no_earlier_than_its_delay(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    tries: list[tuple[float, int]] = []

    @service.task(queue=queue, retries=2, backoff=(0.5, 60.0))
    def flaky() -> str:
        tries.append((time.monotonic(), context().attempt))
        if len(tries) < 3:
            raise OSError("not yet")
        return "done"

    serve(service)
    assert client.enqueue(flaky).result(timeout=20) == "done"
    assert [attempt for _, attempt in tries] == [1, 2, 3]
    assert tries[1][0] - tries[0][0] >= 0.4  # a fifth less by jitter
    assert tries[2][0] - tries[1][0] >= 0.8


def test_a_task_that_fails_every_time_is_a_dead_letter_with_all_that_is_known(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw
) -> None:
    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def fail(why: str) -> None:
        raise ValueError(why)

    serve(service)
    handle = client.enqueue(fail, "broken")
    with pytest.raises(RemoteError, match="broken") as raised:
        handle.result(timeout=20)
    assert isinstance(raised.value, ValueError)
    assert handle.state == "FAILURE"
    properties = dead_letter(raw, queue)
    headers = properties.headers
    assert (headers["reason"], headers["queue"], headers["attempt"]) == ("ValueError: broken", queue, 2)
    assert "raise ValueError(why)" in headers["traceback"]
    assert properties.message_id == handle.id


@pytest.mark.parametrize(
    ("error", "tries", "reason"),
    [
        (Reject("no such customer"), 1, "rejected: no such customer"),
        (KeyError("not worth it"), 1, "KeyError"),
        (Retry("busy", after=0.1), 3, "Retry: busy"),
        (SystemExit(3), 3, "SystemExit: 3"),
    ],
)
def test_a_handler_says_whether_it_is_tried_again(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw, error: BaseException, tries: int, reason: str
) -> None:
    ran = []

    @service.task(queue=queue, retries=2, backoff=(0.1, 0.1), retry_for=(OSError,))
    def fail() -> None:
        ran.append(1)
        raise error

    serve(service)
    client.enqueue(fail)
    properties = dead_letter(raw, queue)
    assert properties.headers["reason"].startswith(reason)
    assert len(ran) == tries


def test_a_delayed_task_comes_in_its_time_and_holds_nobody_up(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    ran: list[str] = []

    @service.task(queue=queue)
    def note(name: str) -> float:
        ran.append(name)
        return time.monotonic()

    serve(service)
    # The levels of delay are there, so that what follows is enqueued in a moment.
    client.enqueue(note, "first", delay=0.1).result(timeout=20)
    far = client.enqueue(note, "far", delay=3600)
    began = time.monotonic()
    later = client.enqueue(note, "later", delay=4.0)
    at = client.enqueue(note, "at", eta=datetime.now(UTC) + timedelta(seconds=2))
    client.enqueue(note, "now")
    assert at.result(timeout=20) - began >= 1.99
    assert later.result(timeout=20) - began >= 4
    # Each has waited for its own time alone, and none for an hour.
    assert ran == ["first", "now", "at", "later"]
    assert far.state == "PENDING"


def test_an_expired_task_is_not_started_but_a_dead_letter(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw
) -> None:
    @service.task(queue=queue)
    def late() -> None:
        pytest.fail("it was started")

    client.enqueue(late, delay=0.2, expires=0.2)
    serve(service, clock_skew=0)
    properties = dead_letter(raw, queue)
    assert properties.headers["reason"].startswith("Expired")


def test_a_queue_of_the_other_type_is_refused_with_its_name_and_taken_for_a_name_as_text(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    @service.task(queue=queue, queue_type="classic")
    def work() -> int:
        return 1

    serve(service)

    other = Service("other")

    @other.task(queue=queue, name="work")
    def same() -> int:
        return 2

    with pytest.raises(ConfigurationError, match=f"queue '{queue}' exists with other arguments"):
        client.enqueue(same)
    assert client.enqueue("work", queue=queue).result(timeout=10) == 1


def test_the_tutorials_text_bodies_are_tasks(serve: Serve, service: Service, queue: str, raw: Raw) -> None:
    got: list[str] = []
    there = threading.Event()

    @service.task(queue=queue)
    def callback(body: str) -> None:
        got.append(body)
        there.set()

    serve(service)
    raw.send(queue, b"Fifth message.....", delivery_mode=2)
    assert there.wait(10)
    assert got == ["Fifth message....."]


def test_a_queue_that_is_made_anew_with_another_type_is_complained_of_once_and_consumed_when_that_is_mended(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    raw: Raw,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @service.task(queue=queue)
    def work() -> int:
        return 1

    tried: list[int] = []

    def soon(times: int, *, first: float, most: float) -> float:
        assert first < most
        tried.append(times)
        return 0.05

    serve(service)
    monkeypatch.setattr(consumers, "backoff", soon)
    raw.channel.queue_delete(queue)
    raw.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "classic"})
    until(lambda: len(tried) >= 4, what="four tries")
    # The pauses grow with these refusals.
    assert tried[:4] == [1, 2, 3, 4]
    said = [record for record in caplog.records if "exists with other arguments" in record.message]
    assert [record.levelname for record in said] == ["ERROR"]
    assert "x-queue-type" in said[0].message
    assert "Give @service.task the same queue_type=" in said[0].message
    raw.channel.queue_delete(queue)
    until(lambda: f"queue {queue}: works again" in caplog.text)
    assert client.enqueue(work).result(timeout=20) == 1
    # A second fault is logged again.
    raw.channel.queue_delete(queue)
    raw.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "classic"})
    until(lambda: len([record for record in caplog.records if "exists with other arguments" in record.message]) == 2)


def test_a_task_whose_queue_was_deleted_since_it_was_declared_is_published_again(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw
) -> None:
    @service.task(queue=queue)
    def one() -> int:
        return 1

    client.enqueue(one)
    raw.channel.queue_delete(queue)
    handle = client.enqueue(one)
    serve(service)
    assert handle.result(timeout=10) == 1


def test_a_task_that_a_worker_of_a_classic_queue_died_with_is_never_dropped_by_the_broker() -> None:
    """Its time may be over before it comes back: then it is a dead letter, and not gone."""
    service = Service()

    @service.task(queue="q", queue_type="classic")
    def work() -> None:
        """Nothing to do."""

    tasks = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(1000, tracebacks=True))
    properties = task_properties(function="work", identity="1", expires=time.time() + 60, now=time.time())
    answer = tasks.accept(properties, b"\x92\x90\x80", redelivered=True)
    assert isinstance(answer, Answer)
    assert answer.again is not None
    assert (answer.again.properties.expiration, answer.again.properties.delivery_mode) == (None, 2)
    assert (answer.again.properties.headers or {})["crashes"] == 1


def test_tasks_that_came_back_together_from_two_workers_that_died_come_again_at_times_of_their_own() -> None:
    """Else what kills each worker takes with it whatever the worker had beside it, until all are dead letters."""
    service = Service()

    @service.task(queue="q")
    def work() -> None:
        """Nothing to do."""

    tasks = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(1000, tracebacks=True))

    def again(crashed: int, counted: int) -> Any:
        properties = task_properties(function="work", identity="1", expires=None, now=time.time())
        properties.headers = {**(properties.headers or {}), "crashes": crashed, "x-delivery-count": counted}
        return tasks.accept(properties, b"\x92\x90\x80", redelivered=True)

    assert isinstance(again(0, 1), TaskInvocation)
    for crashed, counted in [(0, 2), (1, 1), (2, 1), (6, 1)]:
        messages = [again(crashed, counted).again for _ in range(50)]
        assert {message.properties.headers["crashes"] for message in messages} == {crashed + counted}
        assert all("x-delivery-count" not in message.properties.headers for message in messages)
        assert min(message.delay for message in messages) >= 5
        assert len({message.delay for message in messages}) > 5
    assert again(7, 1).dead_letter is not None


def test_a_dead_letter_that_the_broker_does_not_take_is_kept_until_it_does(
    client: Client, serve: Serve, service: Service, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"t{secrets.token_hex(6)}"
    one_place = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
    raw.channel.queue_declare(f"{name}.dead", durable=True, arguments=one_place)

    @service.task(queue=name, queue_type="classic")
    def refuse(n: int) -> None:
        raise Reject(f"no {n}")

    serve(service)
    client.enqueue(refuse, 1)
    until(lambda: raw.channel.queue_declare(f"{name}.dead", passive=True).method.message_count)
    client.enqueue(refuse, 2)
    until(lambda: "stays unacked, since the broker refuses its copy" in caplog.text)
    reasons = []

    def both() -> bool:
        method, properties, _ = raw.channel.basic_get(f"{name}.dead", auto_ack=True)
        if method is not None:
            reasons.append(properties.headers["reason"])
        return len(reasons) == 2

    until(both)
    assert reasons == ["rejected: no 1", "rejected: no 2"]
    raw.channel.queue_delete(f"{name}.dead")


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("x" * 1_000_000, "ValueError: xxx"),
        ("\U0001f600" * 1_000_000, "ValueError: \U0001f600"),
        ("half a pair: \ud83d", r"ValueError: half a pair: \ud83d"),
    ],
    ids=["huge", "huge and four bytes each", "no text"],
)
def test_whatever_a_handler_raises_its_task_is_a_dead_letter_that_fits_into_a_frame(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw, why: str, reason: str
) -> None:
    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def fail() -> None:
        raise ValueError(why)

    server = serve(service)
    handle = client.enqueue(fail)
    headers = dead_letter(raw, queue).headers
    assert headers["reason"].startswith(reason)
    # Cut, and it says how long it was.
    assert len(headers["reason"].partition("… (")[0]) <= 1000
    assert len(headers["reason"]) < 1030
    assert "ValueError" in headers["traceback"] or len(headers["traceback"]) == 20_000
    assert headers["attempt"] == 2
    with pytest.raises(RemoteError):
        handle.result(timeout=20)
    # A frame that is too large ends the connection (501), and everything again from the start.
    assert server.counters["consumed"] == 1
    assert server.counters["failed"] == 1


@pytest.mark.parametrize(
    "foreign",
    [{"theirs": "x" * 130_000}, {"theirs": "x" * 100_000}, {"theirs": [2**40] * 14_000}],
    ids=["all but a frame", "much", "numbers"],
)
def test_a_task_that_came_with_huge_headers_is_tried_again_and_a_dead_letter(
    serve: Serve, service: Service, queue: str, raw: Raw, foreign: dict[str, Any]
) -> None:
    tries: list[int] = []

    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def fail() -> None:
        tries.append(context().attempt)
        raise ValueError("\U0001f600" * 20_000)

    server = serve(service)
    raw.send(queue, b"\x92\x90\x80", type="fail", message_id="1", content_type="application/msgpack", headers=foreign)
    properties = dead_letter(raw, queue)
    assert properties.message_id == "1"
    assert properties.headers["reason"].startswith("ValueError: \U0001f600")
    assert (properties.headers["attempt"], properties.headers["queue"]) == (2, queue)
    assert tries == [1, 2]
    until(lambda: not server._state.unacked)
    assert server.counters["consumed"] == 1


def test_what_can_t_be_written_keeps_its_task_with_the_broker_and_harms_no_other(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    @service.task(queue=queue, retries=0)
    def fail(why: str) -> None:
        raise ValueError(why)

    server = serve(service, threads=2)
    client.enqueue(fail, "first")
    until(lambda: raw.channel.basic_get(f"{queue}.dead", auto_ack=True)[0])
    # There is nothing that gets here by itself.
    publish = Channel.publish

    def broken(channel: Channel, message: Message, *, mandatory: bool = False) -> bool:
        if "broken" in str((message.properties.headers or {}).get("reason")):
            raise ValueError("no way to write it")
        return publish(channel, message, mandatory=mandatory)

    monkeypatch.setattr(Channel, "publish", broken)
    kept = client.enqueue(fail, "broken")
    until(lambda: f"the outcome of task [{kept.id}] could not be written" in caplog.text)
    client.enqueue(fail, "after")
    assert dead_letter(raw, queue).headers["reason"] == "ValueError: after"
    until(lambda: len(server._state.unacked) == 1)
    monkeypatch.undo()
    server.stop(drain_timeout=0.1)
    # It comes back when the worker ends.
    assert raw.get(queue)[0].message_id == kept.id
