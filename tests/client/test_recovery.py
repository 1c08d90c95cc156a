"""Recovery: connections come back by themselves, and calls in flight have a known outcome."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pytest

from amqp_rpc import Client, MaybeExecuted, NotSent, Server, Service
from amqp_rpc.broker import Node
from tests.programs import serving
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.mark.ends_node
def test_server_and_client_come_back_after_a_broker_restart(node: Node, service: Service) -> None:
    echo = _echo(service)
    with Server(service, url=node.url) as server, Client(node.url, timeout=60) as client:
        assert client.call(echo, 1) == 1
        node.stop()
        waiting = client.submit(echo, 2, wait_for_server=True)
        node.start()
        assert waiting.result() == 2
        assert client.call(echo, 3, wait_for_server=True) == 3
        assert server.counters["result"] == 3


@pytest.mark.ends_node
def test_a_call_on_a_lost_connection_ends_at_once_with_maybe_executed(node: Node, service: Service) -> None:
    begun, go_on = threading.Event(), threading.Event()

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


def test_an_idempotent_call_is_sent_again_over_the_new_connection(node: Node, service: Service) -> None:
    begun, go_on = threading.Event(), threading.Event()
    attempts: list[int] = []

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
    # A server receives both and dies before it replies.
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


def test_a_server_consumes_again_after_the_brokers_consumer_timeout(
    new_node: Callable[..., Node], service: Service
) -> None:
    """3.10 and 4.0 close the channel (406); 4.3 does so for quorum queues alone, and cancels that consumer only."""
    node = new_node(parameters={"rabbit": {"consumer_timeout": "1000", "channel_tick_interval": "1000"}})
    go_on = threading.Event()
    echo = _echo(service)

    @service.rpc
    def hold() -> str:
        go_on.wait(30)
        return "held"

    with Server(service, url=node.url, threads=2) as server, Client(node.url, timeout=60) as client:
        held = client.submit(hold)
        before = server.counters["consumed"]
        until(lambda: server.counters["consumed"] > before or _is_43(node), timeout=60, what="a new consumer")
        assert client.call(echo, 1, wait_for_server=True) == 1
        go_on.set()
        # The broker redelivered it: the first server may have run it, and in fact has.
        ended = held.exception()
        assert ended is None or isinstance(ended, MaybeExecuted)
        assert client.call(echo, 2, wait_for_server=True) == 2


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


@pytest.mark.ends_node
def test_a_queue_that_forgets_to_mark_redeliveries_is_made_anew_so_that_nothing_runs_twice(
    node: Node, service: Service
) -> None:
    """RabbitMQ 3.10 to 4.0 never mark again after a clean stop with a transient message in the queue."""
    gap = pika.BlockingConnection(pika.URLParameters(node.url))
    channel = gap.channel()
    channel.confirm_delivery()
    channel.queue_declare(service.queue, durable=True)
    channel.basic_publish("", service.queue, b"")
    gap.close()
    node.stop()
    node.start()
    ran: list[int] = []
    go_on = threading.Event()

    @service.rpc
    def once() -> None:
        ran.append(1)
        go_on.wait(30)

    with Server(service, url=node.url, threads=1), Client(node.url, timeout=60) as client:
        first = client.submit(once)
        until(lambda: ran, what="the call on the first server")
        with Server(service, url=node.url, threads=1) as other:
            # Only the first server's connections: its deliveries are given to the other one, which must not run them.
            for line in node.ctl("list_connections", "pid", "client_properties").splitlines():
                if line.startswith("<") and "(calls)" in line:
                    node.ctl("close_connection", line.split()[0], "test")
            with pytest.raises(MaybeExecuted, match="the server that had the call of once"):
                first.result()
            go_on.set()
            assert len(ran) == 1
            assert other.counters["consumed"] > 0


@pytest.mark.timeout(120)
def test_a_connection_on_which_nothing_but_calls_arrives_is_not_taken_for_dead(
    url: str, serve: Serve, service: Service
) -> None:
    @service.rpc
    def one() -> int:
        return 1

    # pika looks every six seconds then, and the broker sends no heartbeats beside its other traffic.
    server = serve(service, heartbeat=1)
    with Client(url, heartbeat=1) as client:
        client.call(one)
        reply_queue = client._session.reply_queue.address
        end = time.monotonic() + 14
        while time.monotonic() < end:
            assert client.call(one) == 1
            threading.Event().wait(0.02)
        assert client._session.reply_queue.address == reply_queue
        assert server.counters["consumed"] == 1


def test_a_queue_that_marks_is_left_as_it_is(node: Node, service: Service) -> None:
    echo = _echo(service)
    for _ in range(2):
        with Server(service, url=node.url) as server, Client(node.url, timeout=60) as client:
            assert client.call(echo, 1) == 1
            assert server.counters == {"consumed": 1, "result": 1}
            bound = pika.BlockingConnection(pika.URLParameters(node.url))
            # It would be gone with the queue.
            bound.channel().queue_bind(service.queue, "amq.topic", "kept")
            bound.close()
    assert "kept" in node.ctl("list_bindings", "routing_key")


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


def _echo(service: Service) -> Any:
    @service.rpc
    def echo(value: Any) -> Any:
        return value

    return echo


def _take(raw: Raw, queue: str) -> int | None:
    method, _, _ = raw.channel.basic_get(queue)
    return method.delivery_tag if method else None


def _polled(raw: Raw) -> int:
    raw.connection.process_data_events(0.01)
    return len(raw.replies)
