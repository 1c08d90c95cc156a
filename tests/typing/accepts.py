"""Calls and their types: `mypy --strict` must accept this file as it is. It is never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, assert_type

from amqp_rpc import (
    AsyncClient,
    AsyncDeadLetters,
    AsyncQueue,
    AsyncTaskHandle,
    Client,
    DeadLetter,
    Event,
    Exchange,
    Queue,
    Service,
    TaskHandle,
    register_error,
)

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


@service.task(queue="thumbnails", retries=3, backoff=(1.0, 60.0), retry_for=(OSError,), time_limit=60)
def resize(path: str, size: int = 128) -> bytes:
    """Be work that can wait."""
    return path.encode() * size


@service.task
async def notify(to: str, *, urgent: bool = False) -> Receipt:
    """Be such work as a coroutine."""
    return Receipt(len(to) + urgent)


@service.every("1h")
@service.task
def clean_up() -> None:
    """Be due by itself."""


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
assert_type(resize("a.png"), bytes)
task_as_before: Callable[[str], bytes] = resize
assert_type(clean_up(), None)
assert_type(CardDeclined("card").card, str)


def calls(client: Client) -> None:
    """Call and submit."""
    assert_type(client.call(fib, 30), int)
    assert_type(client.call(fib, n=30), int)
    assert_type(client.call(charge, "card", 5, note="hi"), Receipt)
    assert_type(client.call(wait, 1.5), str)
    client.call(nothing)

    assert_type(client.submit(fib, 30), Future[int])
    assert_type(client.submit(wait, 1.5), Future[str])
    assert_type(client.submit(charge, "card").result(), Receipt)

    assert_type(client.call("fib", 30), Any)
    assert_type(client.call("billing.charge", amount=3, timeout=1.0, idempotent=True, wait_for_server=True), Any)
    assert_type(client.submit("fib", 30, timeout=1), Future[Any])


def options(client: Client) -> None:
    """Call and submit with options."""
    assert_type(client.with_options(timeout=2.5).call(fib, 30), int)
    assert_type(client.with_options(timeout=2).call(fib, n=30), int)
    assert_type(client.with_options(timeout=2.5, idempotent=True, wait_for_server=True).call(fib, 30), int)
    assert_type(client.with_options(timeout=2.5).call(charge, "card", 5, note="hi"), Receipt)
    assert_type(client.with_options(timeout=2.5).call(wait, 1.5), str)
    assert_type(client.with_options(timeout=2.5).submit(fib, 30), Future[int])
    assert_type(client.with_options(wait_for_server=True).submit(wait, 1.5), Future[str])
    assert_type(client.with_options(timeout=2.5).call("fib", 30, timeout=5), Any)
    assert_type(client.with_options(queue="sums", content_type="text/plain").call(fib, 30), int)
    assert_type(client.with_options(headers={"tenant": "acme", "n": 7}).submit(fib, 30), Future[int])
    assert_type(client.call("fib", 30, queue="sums", content_type="application/json", headers={"n": 7}), Any)
    assert_type(client.with_options(timeout=2.5).map(fib, range(10)), Iterator[int])
    assert_type(client.with_options(timeout=2.5).map(wait, [1.5], chunksize=10), Iterator[str])


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
    assert_type(await client.call(wait, 1.5), str)
    patient = client.with_options(timeout=60.0, wait_for_server=True)
    assert_type(await patient.call(fib, 30), int)
    assert_type(await patient.call(wait, 1.5), str)
    assert_type(patient.submit(wait, 1.5), asyncio.Future[str])
    assert_type(patient.map(fib, range(10)), AsyncIterator[int])
    assert_type(await client.call("fib", 30, timeout=2.5), Any)
    assert_type(client.submit(fib, 30), asyncio.Future[int])
    assert_type(client.submit(wait, 1.5), asyncio.Future[str])
    assert_type(client.map(fib, range(10)), AsyncIterator[int])
    assert_type(client.map("fib", range(10)), AsyncIterator[Any])
    assert_type([n async for n in client.map(fib, range(10))], list[int])


def tasks(client: Client) -> None:
    """Enqueue."""
    assert_type(client.enqueue(resize, "a.png"), TaskHandle[bytes])
    assert_type(client.enqueue(resize, "a.png", size=3), TaskHandle[bytes])
    assert_type(client.enqueue(notify, "ann"), TaskHandle[Receipt])
    assert_type(client.enqueue(clean_up), TaskHandle[None])
    assert_type(client.with_options(delay=2.5).enqueue(resize, "a.png"), TaskHandle[bytes])
    assert_type(client.with_options(eta=datetime.now(UTC)).enqueue(resize, "a.png"), TaskHandle[bytes])
    assert_type(client.with_options(expires=60.0, priority=9).enqueue(notify, "ann", urgent=True), TaskHandle[Receipt])
    assert_type(client.with_options(unique_for=60.0, unique_key="ann").enqueue(notify, "ann"), TaskHandle[Receipt])
    assert_type(client.with_options(queue="others", timeout=5.0).enqueue(resize, "a.png"), TaskHandle[bytes])
    assert_type(client.with_options(content_type="text/plain").enqueue(resize, "a.png"), TaskHandle[bytes])
    assert_type(client.enqueue("resize", "a.png", size=3, queue="thumbnails", delay=1), TaskHandle[Any])

    handle = client.enqueue(resize, "a.png")
    assert_type(handle.result(), bytes)
    assert_type(handle.result(timeout=5), bytes)
    assert_type(handle.id, str)
    assert_type(handle.ready(), bool)
    assert_type(handle.state, Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE"])
    assert_type(client.enqueue("resize").result(), Any)

    many = client.enqueue_many(resize, [("a.png",), {"path": "b.png", "size": 3}], priority=5)
    assert_type(many, list[TaskHandle[Any]])
    client.enqueue_many("resize", (("a.png", n) for n in range(3)), queue="thumbnails", delay=1.0)
    assert_type(client.task(handle.id, resize), TaskHandle[bytes])
    assert_type(client.task(handle.id, notify), TaskHandle[Receipt])
    assert_type(client.task(handle.id), TaskHandle[Any])


async def awaited_tasks(client: AsyncClient) -> None:
    """Enqueue from asyncio."""
    handle = await client.enqueue(resize, "a.png", size=3)
    assert_type(await handle.result(timeout=5), bytes)
    assert_type(await handle.ready(), bool)
    assert_type(await (await client.enqueue(notify, "ann")).result(), Receipt)
    assert_type(await (await client.with_options(delay=1.0).enqueue(notify, "ann")).result(), Receipt)
    assert_type(await (await client.enqueue("resize", "a.png", queue="thumbnails")).result(), Any)
    many = await client.enqueue_many(resize, [("a.png",), ("b.png",)], delay=1.0)
    assert_type([await each.result() for each in many], list[Any])


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
    # Code for the standard library's queue accepts ours, as far as it puts and gets.
    putting: Callable[[int], None] = numbers.put
    putting(1)


async def awaited_queues(client: AsyncClient) -> None:
    """Put and take from asyncio."""
    numbers: AsyncQueue[int] = client.queue("numbers", 5, queue_type="classic")
    assert_type(await numbers.get(timeout=2.5), int)
    assert_type(await numbers.get_nowait(), int)
    assert_type([number async for number in numbers], list[int])
    assert_type(await numbers.put(1, timeout=2.5), None)
    assert_type(await numbers.qsize(), int)
    numbers.task_done(1)
    async with numbers as same, numbers.get_many(5) as some:
        assert_type(same, AsyncQueue[int])
        assert_type(some, list[int])


async def awaited_dead_letters(client: AsyncClient) -> None:
    """Ask for dead letters from asyncio."""
    letters = client.dead_letters("thumbnails", timeout=2.5)
    assert_type(letters, AsyncDeadLetters)
    assert_type(await letters.get("id"), DeadLetter | None)
    assert_type(await letters.drop(all=True), list[str])
    assert_type(client.task("id", resize), AsyncTaskHandle[bytes])
    assert_type(client.task("id", notify), AsyncTaskHandle[Receipt])
    assert_type(client.task("id"), AsyncTaskHandle[Any])
    assert_type(await client.task("id").state, Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE"])


@service.subscribe("orders.*.paid", "orders.#", mode="broadcast", retries=3, backoff=(0.1, 60.0), max_length=10)
def on_paid(order: dict[str, int], event: Event) -> int:
    """Be told of events."""
    return order["id"]


@service.subscribe(exchange=Exchange("docs", "headers"), headers={"format": "pdf", "pages": 3})
async def on_pdf(path: str) -> None:
    """Be told of others."""


def events(client: Client) -> None:
    """Publish."""
    event = Event("a", {}, None, None, False)
    assert_type(on_paid({"id": 1}, event), int)
    assert_type(event.time, datetime | None)
    assert_type(client.publish("orders.eu.paid", {"id": 1}), str)
    assert_type(client.publish("error", exchange=Exchange("logs", "direct"), mandatory=True, timeout=5), str)
    assert_type(client.publish("a", "x", headers={"n": 1}, content_type="application/json", expires=5.0), str)
    assert_type(client.publish_many((f"a.{n}", n) for n in range(3)), list[str])


async def awaited_events(client: AsyncClient) -> None:
    """Publish from asyncio."""
    assert_type(await client.publish("orders.eu.paid", {"id": 1}, exchange="others"), str)
    assert_type(await client.publish_many([("a", 1)], mandatory=True), list[str])


def contexts() -> None:
    """Keep their own type as context managers."""
    with Client("amqp://localhost", timeout=2.5, heartbeat=5, max_message_size=1000) as client:
        assert_type(client, Client)
    with Client(cacertfile="ca.pem", certfile=Path("ann.pem"), auth_mechanism="external") as client:
        assert_type(client, Client)


async def async_contexts() -> None:
    """The same for asyncio."""
    async with AsyncClient(["amqp://a", "amqp://b"], timeout=2.5, results="sqlite:///a.db") as client:
        assert_type(client, AsyncClient)
    async with AsyncClient(verify="verify_none", ssl_context=None) as client:
        assert_type(client, AsyncClient)
