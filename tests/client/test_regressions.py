"""Faults that reviews have found: each was a hang, a loss or a wrong text once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import socket
import threading
from collections.abc import Callable

import pytest

from amqp_rpc import AsyncClient, CallTimeout, Client, NotConnected, Server, Service
from amqp_rpc.broker import Node
from amqp_rpc.message.topology import dead_letter_queue
from services import fib
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]


def test_a_burst_on_a_fresh_client_is_answered_whole(url: str, serve: Serve) -> None:
    serve(fib.service)
    with Client(url, timeout=60) as client:
        assert [f.result() for f in [client.submit("fib", 10) for _ in range(8000)]] == [55] * 8000


def test_deadlines_hold_after_a_first_attempt_to_connect_that_failed(new_node: Callable[..., Node]) -> None:
    node = new_node(start=False)
    go_on = threading.Event()
    service = Service("tlate")

    @service.rpc
    def hold() -> None:
        go_on.wait(30)

    async def main() -> None:
        async with AsyncClient(node.url, timeout=1) as client:
            with pytest.raises(NotConnected):
                await client.call(hold)
            await asyncio.to_thread(node.start)
            with Server(service, url=node.url):
                with pytest.raises(CallTimeout):
                    await asyncio.wait_for(client.call(hold), 15)
                go_on.set()

    asyncio.run(main())


def test_a_cancelled_call_ends_the_wait_of_concurrent_futures(client: Client, serve: Serve, service: Service) -> None:
    go_on = threading.Event()

    @service.rpc
    def hold() -> None:
        go_on.wait(30)

    serve(service)
    future = client.submit(hold)
    future.cancel()
    assert concurrent.futures.wait([future], timeout=10).done == {future}
    go_on.set()


def test_every_late_call_of_many_has_our_error(client: Client, serve: Serve, service: Service) -> None:
    go_on = threading.Event()

    @service.rpc
    def hold() -> None:
        go_on.wait(30)

    serve(service)
    futures = [client.submit(hold, timeout=0.5) for _ in range(5000)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(lambda future: future.exception(), futures))
    assert {type(error).__name__ for error in errors} <= {"CallTimeout", "NotSent"}
    go_on.set()


def test_headers_with_odd_names_are_dead_lettered_and_settled(raw: Raw, serve: Serve, service: Service) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service, threads=2)
    raw.channel.queue_declare(dead_letter_queue(service.queue), durable=True)
    for _ in range(3):
        raw.send(service.queue, b"x", headers={b"\xff\xfe": "v"})
    for _ in range(3):
        assert raw.get(dead_letter_queue(service.queue))[1] == b"x"
    assert raw.ask(service.queue, b"21")[1] == b"42"


def test_a_dead_letter_queue_with_other_arguments_is_used_as_it_is(raw: Raw, serve: Serve, service: Service) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service, threads=2)
    raw.channel.queue_declare(dead_letter_queue(service.queue), durable=True, arguments={"x-max-length": 100})
    for _ in range(5):
        raw.send(service.queue, b"x")
    for _ in range(5):
        assert raw.get(dead_letter_queue(service.queue))[1] == b"x"
    assert raw.ask(service.queue, b"21")[1] == b"42"


def test_a_forged_direct_reply_name_costs_nobody_else_a_reply(url: str, raw: Raw, serve: Serve) -> None:
    serve(fib.service)
    with Client(url, timeout=20) as client:
        futures = []
        for number in range(500):
            if number % 100 == 50:
                raw.send(fib.service.queue, b"3", reply_to="amq.rabbitmq.reply-to.g1h2AA.AAAA")
            futures.append(client.submit("fib", 10))
        assert [future.result() for future in futures] == [55] * 500


def test_a_server_may_be_stopped_twice_and_says_the_same(client: Client, serve: Serve, service: Service) -> None:
    """Its event loop is closed by then."""
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    async def one() -> int:
        return 1

    @service.rpc
    def hold() -> None:
        begun.set()
        go_on.wait(30)

    server = serve(service)
    assert client.call(one) == 1
    client.submit(hold)
    assert begun.wait(20)
    assert not server.stop(drain_timeout=0.01)
    go_on.set()
    until(lambda: server._pool.event_loop is not None and server._pool.event_loop.is_closed())
    assert not server.stop()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stops = [pool.submit(server.stop) for _ in range(3)]
        assert [stop.result(timeout=20) for stop in stops] == [False] * 3


def test_a_server_that_is_stopped_while_it_declares_is_quiet(
    new_node: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()

    @service.task(queue="tquiet")
    def work() -> None:
        """Nothing to do."""

    # The levels of delay are declared one after another, a hundred steps.
    with Server(service, url=new_node().url):
        pass
    assert [record for record in caplog.records if record.name.startswith("amqp_rpc")] == []


def test_a_callback_may_call(client: Client, serve: Serve) -> None:
    serve(fib.service)
    results: list[int] = []
    client.submit("fib", 10).add_done_callback(lambda future: results.append(client.call("fib", future.result())))
    until(lambda: results)
    assert results == [fib.fib(55)]


def test_an_interrupted_call_is_given_up(client: Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("amqp_rpc.client.future.PendingCall.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.call(f"{service.name}.charge", 5, wait_for_server=True)
    assert len(client._session.pending) == 0


def test_a_client_that_nobody_holds_takes_its_thread_with_it(url: str, serve: Serve) -> None:
    serve(fib.service)
    before = threading.active_count()
    for _ in range(5):
        assert Client(url).call("fib", 10) == 55
    gc.collect()
    until(lambda: threading.active_count() <= before, what="the threads to end")


def test_closing_while_connecting_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for _ in range(20):
            client = Client(f"amqp://127.0.0.1:{silent.getsockname()[1]}")
            client.submit("fib", 1)
            client.close()
    assert [record for record in caplog.records if record.name.startswith("amqp_rpc")] == []
