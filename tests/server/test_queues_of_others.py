"""Queues that other programs have declared: quorum for calls, not durable, bounded. They are used as they are."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqp_rpc import Client, ConfigurationError, PublishRefused, Server, Service
from amqp_rpc.service.catalog import Catalog
from tests.programs import serving
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]

#: How other programs declare their queues.
DECLARED: dict[str, dict[str, Any]] = {
    "today's tutorials": {"durable": True, "arguments": {"x-queue-type": "quorum"}},
    "older tutorials": {"durable": False},
    "deleted when unused": {"durable": False, "auto_delete": True},
    "with bounds of its own": {"durable": True, "arguments": {"x-max-length": 100, "x-message-ttl": 60_000}},
}


@pytest.fixture
def queue(raw: Raw) -> Iterator[str]:
    name = f"t{secrets.token_hex(6)}"
    yield name
    raw.channel.queue_delete(name)


@pytest.mark.parametrize("declared", DECLARED)
def test_calls_come_through_a_queue_that_another_program_has_declared(
    raw: Raw, client: Client, serve: Serve, queue: str, declared: str
) -> None:
    raw.channel.queue_declare(queue, **DECLARED[declared])
    service = Service(queue=queue, declare="passive")

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    assert client.call(double, 21) == 42
    assert client.call("double", 21, queue=queue) == 42
    assert raw.ask(queue, b"21")[1] == b"42"
    # The same declaration is still right.
    raw.channel.queue_declare(queue, **DECLARED[declared])


def test_a_queue_of_calls_may_be_quorum_as_todays_tutorials_declare_theirs(
    raw: Raw, client: Client, serve: Serve, queue: str
) -> None:
    service = Service(queue=queue, queue_type="quorum")

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    raw.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    assert client.call(double, 21) == 42


@pytest.mark.parametrize("declared", DECLARED)
def test_tasks_come_through_it_and_are_retried_and_dead_lettered(
    raw: Raw, client: Client, serve: Serve, service: Service, queue: str, declared: str
) -> None:
    raw.channel.queue_declare(queue, **DECLARED[declared])
    ran: list[str] = []

    @service.task(queue=queue, declare="passive", retries=1, backoff=(0.1, 0.1))
    def work(text: str) -> None:
        ran.append(text)
        if text == "bad":
            raise ValueError(text)

    serve(service)
    raw.send(queue, b"theirs")
    client.enqueue(work, "ours", delay=0.1)
    client.enqueue("work", "by name", queue=queue)
    client.enqueue(work, "bad")
    until(lambda: sorted(ran) == ["bad", "bad", "by name", "ours", "theirs"])
    letters = client.dead_letters(queue)
    until(lambda: [letter.reason for letter in letters.list()] == ["ValueError: bad"])
    assert letters.replay(all=True)
    until(lambda: ran.count("bad") == 4)
    raw.channel.queue_declare(queue, **DECLARED[declared])


def test_events_come_through_it(raw: Raw, client: Client, serve: Serve, service: Service, queue: str) -> None:
    raw.channel.queue_declare(queue, durable=False)
    heard: list[str] = []

    @service.subscribe(f"{queue}.paid", queue=queue, declare="passive")
    def hear(text: str) -> None:
        heard.append(text)

    serve(service)
    raw.send(queue, b"straight")
    client.publish(f"{queue}.paid", "by topic")
    until(lambda: sorted(heard) == ["by topic", "straight"])


@pytest.mark.parametrize("kind", ["calls", "tasks", "events"])
def test_a_server_whose_queue_no_program_has_declared_says_so(
    serve: Serve, service: Service, queue: str, kind: str
) -> None:
    if kind == "calls":
        service = Service(queue=queue, declare="passive")
        service.rpc(lambda_like)
    elif kind == "tasks":
        service.task(queue=queue, declare="passive")(lambda_like)
    else:
        service.subscribe("x", queue=queue, declare="passive")(lambda_like)
    with pytest.raises(ConfigurationError, match=rf"there is no queue '{queue}', and declare='passive' leaves it"):
        serve(service)


def lambda_like(text: str) -> str:
    """Stands for any function."""
    return text


def test_a_task_for_a_queue_that_does_not_exist_is_refused_at_once(
    client: Client, service: Service, queue: str
) -> None:
    @service.task(queue=queue, declare="passive")
    def work(text: str) -> None: ...

    with pytest.raises(PublishRefused, match=rf"work\(\) was not enqueued: there is no queue '{queue}'") as raised:
        client.enqueue(work, "x")
    assert not raised.value.may_have_run


def test_a_queue_that_is_deleted_is_used_again_once_it_is_declared_again(
    raw: Raw, client: Client, serve: Serve, queue: str
) -> None:
    raw.channel.queue_declare(queue)
    service = Service(queue=queue, declare="passive")

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    server = serve(service)
    raw.channel.queue_delete(queue)
    raw.channel.queue_declare(queue)
    until(lambda: server.counters["consumed"] == 2)
    assert client.call(double, 21, wait_for_server=True) == 42


@pytest.mark.parametrize(
    ("declared", "advice"),
    [
        ({"durable": False}, r"No other option makes it the same: give Service declare='passive'"),
        (
            {"durable": True, "arguments": {"x-queue-type": "quorum"}},
            r"Give Service the same queue_type= and max_length=, or",
        ),
    ],
)
def test_the_advice_for_calls_names_options_that_help(
    raw: Raw, serve: Serve, queue: str, declared: dict[str, Any], advice: str
) -> None:
    raw.channel.queue_declare(queue, **declared)
    service = Service(queue=queue)
    service.rpc(lambda_like)
    with pytest.raises(ConfigurationError, match=advice):
        serve(service)


def test_the_advice_for_tasks_of_a_queue_that_is_not_durable_names_what_helps(
    raw: Raw, client: Client, serve: Serve, service: Service, queue: str
) -> None:
    raw.channel.queue_declare(queue)

    @service.task(queue=queue)
    def work(text: str) -> None: ...

    with pytest.raises(ConfigurationError, match=r"give @service\.task declare='passive'"):
        serve(service)
    with pytest.raises(ConfigurationError, match=r"Nothing was enqueued.*give @service\.task declare='passive'"):
        client.enqueue(work, "x")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Service(queue=""),
        lambda: Service(queue="amq.mine"),
        lambda: Service(queue="amqp_rpc.mine"),
        lambda: Service(queue="mine.dead"),
        lambda: Service(queue="q" * 251),
        lambda: Service(queue=5),  # type: ignore[arg-type]
        lambda: Service(queue_type="stream"),  # type: ignore[arg-type]
        lambda: Service(declare=False),  # type: ignore[arg-type]
        lambda: Service().task(declare="pasive")(lambda_like),  # type: ignore[typeddict-item]
        lambda: Service().task(declare="passive", max_length=5)(lambda_like),
        lambda: Service().subscribe("x", declare="passive", mode="broadcast")(lambda_like),
    ],
)
def test_what_can_t_be_declared_is_refused_at_import(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_services_that_declare_one_queue_in_two_ways_are_refused() -> None:
    one, two = Service(queue="shared"), Service("b", queue="shared", declare="passive")
    one.rpc(name="a")(lambda_like)
    two.rpc(name="b")(lambda_like)
    with pytest.raises(ConfigurationError, match="two services declare queue 'shared' in two ways"):
        Catalog([one, two])


def test_a_queue_can_t_hold_calls_and_tasks() -> None:
    one, two = Service(queue="shared"), Service("b")
    one.rpc(lambda_like)
    two.task(queue="shared")(lambda_like)
    with pytest.raises(ConfigurationError, match="queue 'shared' is to hold calls, and tasks or events"):
        Catalog([one, two])


def test_a_quorum_queue_flags_a_call_whose_server_died(url: str, raw: Raw, tmp_path: Path) -> None:
    """A call that may not run twice is answered by the next server, and does not run again."""
    path = tmp_path / "ran"
    raw.channel.queue_delete("tserved.quorum")
    with serving("tests.served_quorum", url=url) as first:
        raw.send("tserved.quorum", str(path).encode(), reply_to=raw.reply_queue, correlation_id="1")
        assert first.process.wait(20) == -signal.SIGKILL
    with serving("tests.served_quorum", url=url):

        def answered() -> bool:
            raw.connection.process_data_events(0.01)
            return bool(raw.replies)

        until(answered)
    assert raw.replies[0][1].startswith(b"MaybeExecuted: the server that had the call of note_and_die_of_it() died")
    assert path.read_text().count("dying") == 1
