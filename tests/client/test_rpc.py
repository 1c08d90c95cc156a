"""Calls and their server, queue and connection: missing ones are errors at once, lost ones have a known outcome."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest

from amqp_rpc import (
    AccessRefused,
    CallTimeout,
    Client,
    ConfigurationError,
    MaybeExecuted,
    NoServer,
    NotConnected,
    NotSent,
    Server,
    Service,
    Unroutable,
)
from amqp_rpc.broker import Node
from amqp_rpc.client import servers
from chaos.proxy import Proxy
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
        go_on.wait(100)

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
        go_on.wait(100)
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
    node_with: Callable[..., Node], service: Service
) -> None:
    """3.10 and 4.0 close the channel (406); 4.3 does so for quorum queues alone, and cancels that consumer only."""
    node = node_with(parameters={"rabbit": {"consumer_timeout": "1000", "channel_tick_interval": "1000"}})
    go_on = threading.Event()
    echo = _echo(service)

    @service.rpc
    def hold() -> str:
        go_on.wait(100)
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
    channel.queue_declare(service.queue, durable=True, arguments={"x-queue-type": "classic"})
    channel.basic_publish("", service.queue, b"")
    gap.close()
    node.stop()
    node.start()
    ran: list[int] = []
    go_on = threading.Event()

    @service.rpc
    def once() -> None:
        ran.append(1)
        go_on.wait(100)

    # Through it the first server alone is cut off, at once and for good.
    proxy = Proxy(urlsplit(node.url).port)
    behind = node.url.replace(f":{urlsplit(node.url).port}", f":{proxy.port}")
    with Server(service, url=behind, threads=1), Client(node.url, timeout=60) as client:
        first = client.submit(once)
        until(lambda: ran, what="the call on the first server")
        with Server(service, url=node.url, threads=1):
            # The broker gives its delivery to the other one, which must not run it.
            proxy.close()
            with pytest.raises(MaybeExecuted, match="the server that had the call of once"):
                first.result()
            go_on.set()
    assert len(ran) == 1


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
        go_on.wait(100)

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


def test_a_queue_that_does_not_exist_is_unroutable(client: Client) -> None:
    with pytest.raises(Unroutable, match=r"no queue 'rpc_queue\.nobody'") as caught:
        client.call("nobody.fib", 30)
    assert not caught.value.may_have_run


def test_a_queue_without_consumers_has_no_server_and_nothing_is_sent(
    client: Client, raw: Raw, service: Service
) -> None:
    raw.channel.queue_declare(service.queue, durable=True)
    with pytest.raises(NoServer, match="has no consumers") as caught:
        client.call(f"{service.name}.fib", 30)
    assert not caught.value.may_have_run
    assert raw.count(service.queue) == 0


def test_a_server_that_has_stopped_is_missed_by_the_next_call(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def one() -> int:
        return 1

    server = serve(service)
    assert client.call(one) == 1
    server.stop()
    # A proof of a server lasts 0.1 s.
    threading.Event().wait(0.15)
    with pytest.raises(NoServer):
        client.call(one)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_call_waits_for_a_server_that_comes_back_at_once_and_an_idempotent_one_for_a_restart(
    client: Client, serve: Serve, service: Service, monkeypatch: pytest.MonkeyPatch, *, idempotent: bool
) -> None:
    monkeypatch.setattr(servers, "_RECONNECTING", 0.1 if idempotent else 20.0)

    @service.rpc(idempotent=idempotent)
    def one() -> int:
        return 1

    server = serve(service)
    assert client.call(one) == 1
    server.stop()
    future = client.submit(one)
    if idempotent:
        # Longer than a call waits that may not run twice.
        with pytest.raises(TimeoutError):
            future.result(timeout=0.5)
    serve(service)
    assert future.result(timeout=20) == 1


@pytest.mark.parametrize("queue_exists", [True, False])
def test_a_call_can_wait_for_its_server(
    client: Client, serve: Serve, service: Service, raw: Raw, *, queue_exists: bool
) -> None:
    @service.rpc
    def one() -> int:
        return 1

    if queue_exists:
        raw.channel.queue_declare(service.queue, durable=True)
    future = client.submit(one, wait_for_server=True)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.3)
    serve(service)
    assert future.result() == 1


def test_waiting_for_a_server_ends_at_the_timeout(client: Client) -> None:
    with pytest.raises(NoServer, match=r"no server within 0\.3 s"):
        client.call("nobody.fib", 30, wait_for_server=True, timeout=0.3)


def test_one_missing_queue_does_not_disturb_calls_to_another(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def one() -> int:
        return 1

    serve(service)
    lost = [client.submit(f"nobody{n}.fib") for n in range(20)]
    assert client.call(one) == 1
    assert all(isinstance(future.exception(), Unroutable) for future in lost)
    assert client.call(one) == 1


def test_no_broker_at_that_port_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with Client(f"amqp://127.0.0.1:{free.getsockname()[1]}", timeout=20) as client:
            with pytest.raises(NotConnected, match="connection refused") as caught:
                client.call("fib", 30)
            assert not caught.value.may_have_run
            with pytest.raises(ConnectionError):
                client.call("fib", 30)


def test_a_port_that_says_nothing_ends_the_call_at_its_timeout() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Client(f"amqp://127.0.0.1:{silent.getsockname()[1]}") as client,
        pytest.raises(NotSent, match=r"within 0\.3 s"),
    ):
        client.call("fib", 30, timeout=0.3)


def test_a_port_that_speaks_something_else_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"amqp://127.0.0.1:{web.getsockname()[1]}"
        with Client(url, timeout=20) as client, pytest.raises(NotConnected, match="does not speak AMQP"):
            client.call("fib", 30)


def test_a_wrong_password_is_refused_and_never_printed(url: str) -> None:
    wrong = url.replace(":guest@", ":secret@")
    with (
        Client(wrong, timeout=20) as client,
        pytest.raises(AccessRefused, match="wrong user name or password") as caught,
    ):
        client.call("fib", 30)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(client)
    with pytest.raises(AccessRefused) as refused:
        Server(_service(), url=wrong).start()
    assert "secret" not in str(refused.value)


def test_a_wrong_virtual_host_is_refused(url: str) -> None:
    with Client(f"{url}nowhere", timeout=20) as client, pytest.raises(AccessRefused, match="virtual host 'nowhere'"):
        client.call("fib", 30)


def test_a_user_who_may_not_have_a_reply_queue_is_told_at_once(node: Node) -> None:
    node.ctl("add_user", "limited", "limited")
    node.ctl("set_permissions", "limited", "^rpc_queue", ".*", ".*")
    with Client(node.url.replace("guest:guest", "limited:limited"), timeout=60) as client:
        for _ in range(2):
            with pytest.raises(AccessRefused, match=r"403 ACCESS_REFUSED .* refused for user 'limited'") as caught:
                client.call("fib", 30)
            assert not caught.value.may_have_run


def test_an_unknown_host_is_said() -> None:
    with Client("amqp://nobody.invalid", timeout=20) as client, pytest.raises(NotConnected, match="name is not known"):
        client.call("fib", 30)


@pytest.mark.parametrize("wrong", ["http://localhost", "localhost:5672", "amqp://", "amqp://host:port", "amqp://h?x=1"])
def test_what_is_no_url_is_a_configuration_error(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not an AMQP URL|not read"):
        Client(wrong)


def test_a_queue_with_other_arguments_is_a_configuration_error(url: str, raw: Raw) -> None:
    service = _service()
    raw.channel.queue_declare(service.queue, durable=True, arguments={"x-max-length": 10})
    try:
        with pytest.raises(ConfigurationError, match=re.escape(service.queue)):
            Server(service, url=url).start()
    finally:
        raw.channel.queue_delete(service.queue)


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    with pytest.raises(ConfigurationError, match="closed"):
        client.call("fib", 30)
    client.close()


def _service() -> Service:
    service = Service("tpresence")

    @service.rpc
    def one() -> int:
        return 1

    return service


def test_under_a_memory_alarm_calls_end_in_time_and_all_recovers(node: Node) -> None:
    service = Service("tblocked")
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def quick() -> str:
        return "quick"

    @service.rpc
    def slow() -> str:
        begun.set()
        go_on.wait(100)
        return "slow"

    with Server(service, url=node.url) as server, Client(node.url, timeout=60) as client:
        assert client.call(quick) == "quick"
        under_way = client.submit(slow)
        assert begun.wait(20)
        node.ctl("set_vm_memory_high_watermark", "0.0000001")
        # The broker says that it takes nothing only when it is sent something.
        with pytest.raises((CallTimeout, NotSent)):
            client.call(quick, timeout=0.5)
        with pytest.raises(NotSent, match=r"takes no messages \(.*memory") as caught:
            client.call(quick, timeout=0.5)
        assert not caught.value.may_have_run
        go_on.set()
        until(lambda: server.counters["result"] >= 2, what="the handler to end under the alarm")
        waiting = client.submit(quick)
        node.ctl("set_vm_memory_high_watermark", "0.4")
        assert waiting.result() == "quick"
        assert under_way.result() == "slow"
        assert client.call(quick) == "quick"
