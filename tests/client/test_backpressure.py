"""Calls in flight are bounded, and errors name a broker that accepts no messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from amqp_rpc import AsyncClient, CallTimeout, Client, NotSent, Overloaded, Server, Service
from amqp_rpc.broker import Node
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.fixture
def gate(service: Service) -> threading.Event:
    """The event that the function `hold` waits for."""
    go_on = threading.Event()

    @service.rpc
    def hold() -> str:
        assert go_on.wait(30)
        return "done"

    return go_on


def test_over_the_bound_a_call_waits_until_its_deadline_and_did_not_run(
    url: str, serve: Serve, service: Service, gate: threading.Event
) -> None:
    serve(service)
    hold = service.functions["hold"].call
    with Client(url, timeout=20, max_pending=3) as client:
        held = [client.submit(hold) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 calls are in flight") as caught:
            client.call(hold, timeout=0.2)
        assert not caught.value.may_have_run
        gate.set()
        assert [future.result() for future in held] == ["done"] * 3
        assert client.call(hold) == "done"


def test_bodies_are_bounded_together(url: str, serve: Serve, service: Service, gate: threading.Event) -> None:
    @service.rpc
    def take(data: bytes) -> int:
        gate.wait(30)
        return len(data)

    serve(service)
    with Client(url, timeout=20, max_pending_bytes=1000) as client:
        first = client.submit(take, b"x" * 900)
        with pytest.raises(Overloaded, match="max_pending_bytes"):
            client.call(take, b"x" * 900, timeout=0.2)
        gate.set()
        assert first.result() == 900
        assert client.call(take, b"x" * 5000) == 5000


def test_the_asyncio_client_waits_for_room_without_blocking_the_loop(
    url: str, serve: Serve, service: Service, gate: threading.Event
) -> None:
    serve(service, prefetch=10)
    hold = service.functions["hold"].call

    async def main() -> None:
        async with AsyncClient(url, timeout=20, max_pending=2) as client:
            calls = [client.submit(hold) for _ in range(5)]
            await asyncio.sleep(0)
            gate.set()
            assert await asyncio.gather(*calls) == ["done"] * 5

    asyncio.run(main())


def test_closing_ends_those_who_wait_for_room(url: str, serve: Serve, service: Service, gate: threading.Event) -> None:
    serve(service)
    hold = service.functions["hold"].call
    client = Client(url, timeout=20, max_pending=1)
    client.submit(hold)
    ended: list[BaseException] = []

    def call() -> None:
        try:
            client.call(hold)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    client.close()
    until(lambda: len(ended) == 5)
    gate.set()


def test_under_a_memory_alarm_calls_end_in_time_and_all_recovers(node: Node) -> None:
    service = Service("tblocked")
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def quick() -> str:
        return "quick"

    @service.rpc
    def slow() -> str:
        begun.set()
        go_on.wait(30)
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
