"""What a type checker knows of calls: `mypy --strict` must accept this file as it is. It is never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, assert_type

from amqp_rpc import AsyncClient, Client, Queue, Service, register_error

service = Service("billing")


@dataclass
class Receipt:
    """A result of its own type."""

    amount: int


@service.rpc
def fib(n: int) -> int:
    """Take one argument."""
    return n


@service.rpc(name="pay", idempotent=True)
def charge(card: str, amount: int = 1, *, note: str | None = None) -> Receipt:
    """Take several, some by name."""
    return Receipt(amount)


@service.rpc
async def wait(seconds: float) -> str:
    """Be awaited on the server."""
    return str(seconds)


@service.rpc()
def nothing() -> None:
    """Return nothing."""


@register_error
class CardDeclined(Exception):
    """An error of its own."""

    def __init__(self, card: str) -> None:
        super().__init__(card)
        self.card = card


# Decorated, a function is what it was.
assert_type(fib(30), int)
assert_type(charge("card", note="hi"), Receipt)
as_before: Callable[[int], int] = fib
assert_type(CardDeclined("card").card, str)


def calls(client: Client) -> None:
    """Call and submit."""
    assert_type(client.call(fib, 30), int)
    assert_type(client.call(fib, n=30), int)
    assert_type(client.call(fib, 30, timeout=2.5), int)
    assert_type(client.call(fib, 30, timeout=2), int)
    assert_type(client.call(fib, 30, wait_for_server=True), int)
    assert_type(client.call(fib, 30, timeout=2.5, wait_for_server=True), int)
    assert_type(client.call(charge, "card", 5, note="hi"), Receipt)
    assert_type(client.call(wait, 1.5), str)
    assert_type(client.call(wait, 1.5, timeout=2.5), str)
    client.call(nothing)

    assert_type(client.submit(fib, 30), Future[int])
    assert_type(client.submit(fib, 30, timeout=2.5), Future[int])
    assert_type(client.submit(fib, 30, wait_for_server=True), Future[int])
    assert_type(client.submit(wait, 1.5), Future[str])
    assert_type(client.submit(charge, "card").result(), Receipt)

    assert_type(client.call("fib", 30), Any)
    assert_type(client.call("billing.charge", amount=3, timeout=1.0, idempotent=True, wait_for_server=True), Any)
    assert_type(client.submit("fib", 30, timeout=1), Future[Any])


def maps(client: Client) -> None:
    """Map."""
    assert_type(client.map(fib, range(10)), Iterator[int])
    assert_type(client.map(fib, range(10), chunksize=10, in_flight=5, timeout=2.5, wait_for_server=True), Iterator[int])
    assert_type(client.map(wait, [1.5]), Iterator[str])
    assert_type(client.map(charge, ["card"], [5]), Iterator[Receipt])
    assert_type(client.map("fib", range(10)), Iterator[Any])


async def awaited(client: AsyncClient) -> None:
    """Do the same from asyncio."""
    assert_type(await client.call(fib, 30), int)
    assert_type(await client.call(fib, 30, timeout=2.5), int)
    assert_type(await client.call(fib, 30, wait_for_server=True), int)
    assert_type(await client.call(wait, 1.5, idempotent=True), str)
    assert_type(await client.call(wait, 1.5), str)
    assert_type(await client.call(wait, 1.5, timeout=2.5), str)
    assert_type(await client.call("fib", 30, timeout=2.5), Any)
    assert_type(client.submit(fib, 30), asyncio.Future[int])
    assert_type(client.submit(wait, 1.5, timeout=2.5), asyncio.Future[str])
    assert_type(client.map(fib, range(10)), AsyncIterator[int])
    assert_type(client.map("fib", range(10)), AsyncIterator[Any])
    assert_type([n async for n in client.map(fib, range(10))], list[int])


def queues(client: Client) -> None:
    """Put and take."""
    numbers: Queue[int] = client.queue("numbers", 5)
    assert_type(client.queue("numbers", maxsize=5, queue_type="classic"), Queue[Any])
    assert_type(numbers.get(), int)
    assert_type(numbers.get(timeout=2.5), int)
    assert_type(numbers.get_nowait(), int)
    assert_type(list(numbers), list[int])
    numbers.put(1)
    numbers.put(1, False)
    numbers.put(1, timeout=None)
    numbers.put_many(range(3))
    numbers.task_done()
    numbers.task_done(1)
    numbers.join()
    assert_type(numbers.qsize(), int)
    assert_type(numbers.empty() or numbers.full(), bool)
    with numbers as same, numbers.get_many(5) as some:
        assert_type(same, Queue[int])
        assert_type(some, list[int])
    # What takes the standard library's may take ours as far as it puts and takes.
    putting: Callable[[int], None] = numbers.put
    putting(1)


def contexts() -> None:
    """Keep their own type as context managers."""
    with Client("amqp://localhost", timeout=2.5, heartbeat=5, max_message_size=1000) as client:
        assert_type(client, Client)


async def async_contexts() -> None:
    """The same for asyncio."""
    async with AsyncClient() as client:
        assert_type(client, AsyncClient)
