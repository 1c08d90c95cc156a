"""A queue of calls with a bound: a caller with very many calls fills it, and every other one is told so at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqp_rpc import AsyncClient, Client, Server, Service
from amqp_rpc.broker import Node
from amqp_rpc.client import servers
from amqp_rpc.errors import AmqpRpcError, MaybeExecuted, Overloaded
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]

#: Calls that may wait in the queue.
BOUND = 3


class Busy:
    """A service whose queue has a bound, and whose calls wait for the test."""

    def __init__(self, name: str, queue_type: Any = "classic") -> None:
        self.service = Service(name, max_length=BOUND, queue_type=queue_type)
        self.begun, self.release = threading.Event(), threading.Event()
        self.ran: list[int] = []

        @self.service.rpc
        def work(n: int) -> int:
            self.begun.set()
            self.release.wait(60)
            self.ran.append(n)
            return n

        self.call = f"{name}.work"


@pytest.fixture(params=["classic", "quorum"])
def busy(request: pytest.FixtureRequest, service: Service) -> Iterator[Busy]:
    assert service.name is not None
    made = Busy(service.name, request.param)
    yield made
    made.release.set()


def fill(client: Client, busy: Busy) -> tuple[list[Any], AmqpRpcError]:
    """Send calls until one is refused; return those that wait, and the error. A quorum queue takes some more."""
    calls = [client.submit(busy.call, 0, timeout=60)]
    assert busy.begun.wait(20)
    refused: list[AmqpRpcError] = []

    def another() -> bool:
        call = client.submit(busy.call, len(calls), timeout=60)
        try:
            call.result(timeout=0.2)
        except TimeoutError:
            calls.append(call)
        except AmqpRpcError as error:
            refused.append(error)
        return bool(refused)

    until(another, what="a refusal")
    return calls, refused[0]


def test_a_call_to_a_full_queue_ends_at_once_and_did_not_run_and_the_others_go_on(
    client: Client, serve: Serve, busy: Busy, raw: Raw
) -> None:
    serve(busy.service, threads=1)
    calls, error = fill(client, busy)
    assert type(error) is Overloaded
    assert not error.may_have_run
    assert f"queue {busy.service.queue!r} is full" in str(error)
    assert raw.count(busy.service.queue) >= BOUND
    busy.release.set()
    assert [call.result() for call in calls] == list(range(len(calls)))
    assert client.call(busy.call, 1000) == 1000
    assert busy.ran == [*range(len(calls)), 1000]


def test_a_caller_with_very_many_calls_does_not_make_others_wait_behind_all_of_them(
    client: Client, serve: Serve, service: Service, raw: Raw
) -> None:
    assert service.name is not None
    busy = Busy(service.name)
    serve(busy.service, threads=1)
    busy.release.set()
    for n in range(2000):
        raw.send(busy.service.queue, b"[[%d],{}]" % -n, type="work", content_type="application/json")

    def answered() -> bool:
        try:
            return bool(client.call(busy.call, 7) == 7)
        except Overloaded:
            return False

    until(answered, what="room")
    # At most those that were in the queue and the server when there was room for it.
    assert len(busy.ran) < 2000


def test_the_calls_of_asyncio_and_of_a_map_are_told_as_well(serve: Serve, url: str, client: Client, busy: Busy) -> None:
    serve(busy.service, threads=1)
    fill(client, busy)

    async def ask() -> None:
        async with AsyncClient(url, timeout=20) as asking:
            with pytest.raises(Overloaded, match="is full"):
                await asking.call(busy.call, 1)

    asyncio.run(ask())
    with Client(url, timeout=20) as other, pytest.raises(Overloaded, match="is full"):
        list(other.map(busy.call, range(4), chunksize=2))


def test_after_a_lost_connection_the_broker_confirms_again(node: Node, service: Service) -> None:
    assert service.name is not None
    busy = Busy(service.name)
    with Server(busy.service, url=node.url, threads=1), Client(node.url, timeout=60) as client:
        calls, _ = fill(client, busy)
        node.ctl("close_all_connections", "test")
        for call in calls:
            with pytest.raises(MaybeExecuted):
                call.result(timeout=20)
        busy.release.set()
        until(lambda: client.call(busy.call, 1, wait_for_server=True) == 1)
        busy.release.clear()
        busy.begun.clear()
        _, error = fill(client, busy)
        assert type(error) is Overloaded
        busy.release.set()


def test_a_queue_that_gets_a_bound_later_is_seen_to_have_one(
    client: Client, serve: Serve, service: Service, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "BOUND_LASTS", 0.1)

    @service.rpc
    def work(n: int) -> int:
        return n

    assert service.name is not None
    first = serve(service)
    assert client.call(work, 1) == 1
    first.stop()
    raw.channel.queue_delete(service.queue)
    busy = Busy(service.name)
    serve(busy.service, threads=1)
    _, error = fill(client, busy)
    assert type(error) is Overloaded
    busy.release.set()
