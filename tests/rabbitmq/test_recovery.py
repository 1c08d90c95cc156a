"""What is built of recovery so far: connections come back by themselves, and calls on the way have a known fate."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from amqp_rpc import Client, MaybeExecuted, NotSent, Server, Service
from amqp_rpc.broker import Node
from tests.programs import serving
from tests.rabbitmq.conftest import Raw
from tests.waiting import until

Serve = Callable[..., Server]
NewNode = Callable[..., Node]


@pytest.mark.node
def test_server_and_client_come_back_after_a_broker_restart(new_node: NewNode) -> None:
    node = new_node()
    service = _echo()
    with Server(service, url=node.url) as server, Client(node.url, timeout=60) as client:
        assert client.call("trecovery.echo", 1) == 1
        node.stop()
        waiting = client.submit("trecovery.echo", 2, wait_for_server=True)
        node.start()
        assert waiting.result() == 2
        assert client.call("trecovery.echo", 3, wait_for_server=True) == 3
        assert server.counters["result"] == 3


@pytest.mark.node
def test_a_call_on_a_lost_connection_ends_at_once_with_maybe_executed(new_node: NewNode) -> None:
    node = new_node()
    begun, go_on = threading.Event(), threading.Event()
    service = Service("trecovery")

    @service.rpc
    def wait() -> None:
        begun.set()
        go_on.wait(30)

    with Server(service, url=node.url), Client(node.url, timeout=60) as client:
        future = client.submit(wait)
        assert begun.wait(20)
        node.kill()
        with pytest.raises(MaybeExecuted, match="It may have run") as caught:
            future.result(timeout=20)
        assert caught.value.may_have_run
        with pytest.raises(NotSent, match=r"no connection|was lost") as not_sent:
            client.call(wait, timeout=0.5)
        assert not not_sent.value.may_have_run
        go_on.set()


@pytest.mark.node
def test_an_idempotent_call_is_sent_again_over_the_new_connection(new_node: NewNode) -> None:
    node = new_node()
    begun, go_on = threading.Event(), threading.Event()
    attempts: list[int] = []
    service = Service("trecovery")

    @service.rpc(idempotent=True)
    def wait() -> str:
        attempts.append(1)
        begun.set()
        go_on.wait(30)
        return "done"

    with Server(service, url=node.url, threads=4), Client(node.url, timeout=60) as client:
        future = client.submit(wait, wait_for_server=True)
        assert begun.wait(20)
        node.ctl("close_all_connections", "test")
        until(lambda: len(attempts) > 1, what="the second attempt")
        go_on.set()
        assert future.result() == "done"


def test_a_redelivered_call_is_not_run_again_unless_it_is_idempotent(raw: Raw, serve: Serve, service: Service) -> None:
    ran: list[str] = []

    @service.rpc
    def charge() -> None:
        ran.append("charge")

    @service.rpc(idempotent=True)
    def look() -> None:
        ran.append("look")

    raw.channel.queue_declare(service.queue, durable=True)
    for function in ("charge", "look"):
        raw.send(service.queue, b"[[],{}]", content_type="application/json", type=function, reply_to=raw.reply_queue)
    # Somebody takes both and dies before it answers.
    first = [until(lambda: _take(raw, service.queue)) for _ in range(2)]
    raw.channel.basic_nack(first[-1], multiple=True, requeue=True)
    serve(service)
    until(lambda: _polled(raw) == 2)
    assert ran == ["look"]
    assert sorted(properties.type for properties, _ in raw.replies) == ["error", "result"]
    assert any(b"MaybeExecuted" in body for _, body in raw.replies)


def test_an_idempotent_call_that_kills_its_servers_ends_after_three_and_the_pool_lives(url: str) -> None:
    arguments = ("tests.served", "--processes", "2", "--threads", "1", "--prefetch", "1")
    with serving(*arguments, url=url) as server, Client(url, timeout=30) as client:
        with pytest.raises(MaybeExecuted, match=r"3 servers died, one after another, .* die_idempotent\(\)"):
            client.call("tserved.die_idempotent")
        until(lambda: server.text().count("was killed by SIGKILL") == 3, what="three deaths")
        assert client.call("tserved.pid", wait_for_server=True) > 0


def test_a_call_whose_server_dies_ends_at_once_where_another_one_is_there(url: str) -> None:
    arguments = ("tests.served", "--processes", "2", "--prefetch", "1")
    with serving(*arguments, url=url), Client(url, timeout=60) as client:
        future = client.submit("tserved.die")
        with pytest.raises(MaybeExecuted, match="the server that had the call of die"):
            future.result(timeout=20)


def test_an_idempotent_call_of_a_killed_server_is_answered_by_another_one(url: str) -> None:
    arguments = ("services.fib", "--processes", "2", "--threads", "1")
    with serving(*arguments, url=url) as server, Client(url, timeout=60) as client:
        calls = [client.submit("naive_fib", 25) for _ in range(12)]
        calls[0].result()
        os.kill(server.children()[0], signal.SIGKILL)
        assert [call.result() for call in calls] == [75025] * 12


@pytest.mark.node
def test_a_server_consumes_again_after_the_brokers_consumer_timeout(new_node: NewNode) -> None:
    """3.10 and 4.0 close the channel (406); 4.3 does so for quorum queues alone, and cancels that consumer only."""
    node = new_node()
    for setting in ("consumer_timeout", "channel_tick_interval"):
        node.ctl("eval", f"application:set_env(rabbit, {setting}, 1000).")
    go_on = threading.Event()
    service = _echo()

    @service.rpc
    def hold() -> str:
        go_on.wait(30)
        return "held"

    with Server(service, url=node.url, threads=2) as server, Client(node.url, timeout=60) as client:
        held = client.submit("trecovery.hold")
        before = server.counters["consumed"]
        until(lambda: server.counters["consumed"] > before or _is_43(node), timeout=60, what="a new consumer")
        assert client.call("trecovery.echo", 1, wait_for_server=True) == 1
        go_on.set()
        # The broker took it back and gave it out again: whoever had it first may have run it, and in fact has.
        ended = held.exception()
        assert ended is None or isinstance(ended, MaybeExecuted)
        assert client.call("trecovery.echo", 2, wait_for_server=True) == 2


def _is_43(node: Node) -> bool:
    return node.version.startswith("4.3")


def test_a_queue_that_is_deleted_is_declared_and_consumed_again(
    client: Client, raw: Raw, serve: Serve, service: Service
) -> None:
    @service.rpc
    def one() -> int:
        return 1

    serve(service)
    assert client.call(one) == 1
    raw.channel.queue_delete(service.queue)
    assert client.call(one, wait_for_server=True) == 1


def test_closing_a_client_ends_its_calls(url: str, serve: Serve, service: Service) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def wait() -> None:
        begun.set()
        go_on.wait(30)

    serve(service)
    client = Client(url)
    future = client.submit(wait)
    assert begun.wait(20)
    client.close()
    with pytest.raises(MaybeExecuted, match="client was closed"):
        future.result(timeout=10)
    go_on.set()


def _echo() -> Service:
    service = Service("trecovery")

    @service.rpc
    def echo(value: Any) -> Any:
        return value

    return service


def _take(raw: Raw, queue: str) -> int | None:
    method, _, _ = raw.channel.basic_get(queue)
    return method.delivery_tag if method else None


def _polled(raw: Raw) -> int:
    raw.connection.process_data_events(0.01)
    return len(raw.replies)
