"""A failed call is gone when its error is: no reference cycle keeps its arguments until the next garbage collection."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqp_rpc import AmqpRpcError, AsyncClient, Client, Server, Service
from tests.waiting import until

Serve = Callable[..., Server]


class Text(str):
    """An argument that can be watched."""

    __slots__ = ("__weakref__",)


@pytest.fixture
def functions(serve: Serve, service: Service) -> Iterator[dict[str, Any]]:
    go_on = threading.Event()

    @service.rpc
    def bad(text: str) -> None:
        raise ValueError(text)

    @service.rpc
    def invalid(text: int) -> None: ...

    @service.rpc
    def late(text: str) -> None:
        go_on.wait(30)

    @service.task(queue=f"{service.name}.tasks", retries=0)
    def task(text: str) -> None:
        raise ValueError(text)

    serve(service, threads=4)
    yield {"bad": bad, "invalid": f"{service.name}.invalid", "late": late, "task": task}
    go_on.set()


WAYS: dict[str, Callable[[Client, dict[str, Any], str], object]] = {
    "call": lambda client, served, text: client.call(served["bad"], text),
    "invalid": lambda client, served, text: client.call(served["invalid"], text),
    "timeout": lambda client, served, text: client.call(served["late"], text, timeout=0.05),
    "submit": lambda client, served, text: client.submit(served["bad"], text).result(),
    "late future": lambda client, served, text: client.submit(served["late"], text, timeout=0.05).result(),
    "map": lambda client, served, text: list(client.map(served["bad"], [text])),
    "chunk": lambda client, served, text: list(client.map(served["bad"], [text], chunksize=2)),
    "task": lambda client, served, text: client.enqueue(served["task"], text).result(timeout=20),
    "publish": lambda client, _served, text: client.publish("t.nobody", text, mandatory=True),
}


def fails(way: Callable[[], object]) -> None:
    try:
        way()
    except (AmqpRpcError, ValueError):
        return
    pytest.fail("it did not fail")


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("way", WAYS)
def test_what_a_failed_call_was_given_is_gone_with_its_error(
    client: Client, functions: dict[str, Any], way: str
) -> None:
    text = Text("x" * 10)
    watched = weakref.ref(text)
    fails(lambda given=text: WAYS[way](client, functions, given))
    del text
    # A thread that has just ended the call may have it for a moment more.
    until(lambda: watched() is None)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("name", ["bad", "invalid", "late"])
def test_so_it_is_with_the_asyncio_client(url: str, functions: dict[str, Any], name: str) -> None:
    async def call(text: Text, client: AsyncClient) -> None:
        try:
            await client.call(functions[name], text, timeout=0.2 if name == "late" else 20)
        except (AmqpRpcError, ValueError):
            return
        pytest.fail("it did not fail")

    async def main() -> object:
        async with AsyncClient(url, timeout=20) as client:
            text = Text("x" * 10)
            watched = weakref.ref(text)
            await call(text, client)
            del text
            # asyncio itself has the call until this step of the task ends; the I/O thread, for a moment more.
            async with asyncio.timeout(20):
                while watched() is not None:  # noqa: ASYNC110 - an object that is freed sets no event
                    await asyncio.sleep(0)
            return watched()

    assert asyncio.run(main()) is None
