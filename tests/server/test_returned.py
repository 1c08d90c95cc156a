"""What a handler returns decides whether it has run: awaitables are awaited, and generators are failures."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from amqp_rpc import (
    Client,
    ConfigurationError,
    RemoteError,
    Server,
    Service,
    TimeLimitExceeded,
    context,
)
from amqp_rpc.server.invoke import exceeded, traceback_of
from tests.served_by import Raw, dead_letter
from tests.waiting import until

Serve = Callable[..., Server]
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """An ordinary decorator, without a word of ``async``."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        tenant.set("acme")
        return function(*args, **kwargs)

    return inner


class Later:
    """An awaitable of somebody's own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        return asyncio.sleep(0, self.value).__await__()


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


async def later_numbers(n: int) -> AsyncIterator[int]:
    for each in range(n):
        yield each


async def double(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


class Numbers:
    def __call__(self, n: int) -> Iterator[int]:
        yield from range(n)

    def each(self, n: int) -> Iterator[int]:
        yield from range(n)


@pytest.mark.parametrize(
    "function",
    [numbers, later_numbers, functools.partial(numbers, 1), Numbers().each, Numbers()],
    ids=["generator", "async generator", "partial", "method", "callable object"],
)
@pytest.mark.parametrize("kind", ["rpc", "task", "subscribe"])
def test_a_function_with_a_yield_is_refused_at_import(function: Any, kind: str) -> None:
    service = Service("refused")
    register = {
        "rpc": service.rpc(name="numbers"),
        "task": service.task(name="numbers"),
        "subscribe": service.subscribe("numbers", name="numbers"),
    }[kind]
    with pytest.raises(ConfigurationError, match=r"is a generator function \(it has a yield\), and streams") as no:
        register(function)
    assert "\n" not in str(no.value)


def test_a_time_limit_has_no_frame_of_this_library() -> None:
    try:
        raise exceeded("f", 1)
    except TimeLimitExceeded as error:
        late = error.with_traceback(None)
    assert traceback_of(late) == "amqp_rpc.errors.TimeLimitExceeded: f() took longer than its time limit of 1 s\n"


def test_the_traceback_of_an_async_task_with_a_time_limit_begins_at_the_handler(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw
) -> None:
    @service.task(queue=queue, retries=0, time_limit=20)
    async def fail() -> None:
        raise ValueError("bad")

    serve(service)
    with pytest.raises(ValueError, match="bad"):
        client.enqueue(fail).result(timeout=20)
    traceback = dead_letter(raw, queue).headers["traceback"]
    assert "in fail" in traceback
    assert "in invoke_async" not in traceback
    assert "in _within" not in traceback


def test_whatever_awaitable_an_ordinary_function_returns_is_awaited(
    client: Client, serve: Serve, service: Service
) -> None:
    async def hasty(n: int) -> Any:
        # An `await` was forgotten.
        return double(n)

    pool = ThreadPoolExecutor(1)
    functions: dict[str, Callable[[int], Any]] = {
        "wrapped": logged(double),
        "own": lambda n: Later(2 * n),
        "thread": lambda n: pool.submit(lambda: 2 * n),
        "hasty": hasty,
        "again": logged(hasty),
    }
    for name, function in functions.items():
        # Positional only, since lambdas have no hints.
        service.rpc(name=name)(function)
    serve(service)
    called = {name: client.call(f"{service.name}.{name}", 4) for name in functions}
    pool.shutdown()
    assert called == dict.fromkeys(functions, 8)


def test_those_of_a_chunk_are_awaited_together_and_stay_in_their_order(
    client: Client, serve: Serve, service: Service
) -> None:
    together = asyncio.Event()
    waiting = 0

    @service.rpc
    @logged
    async def meet(n: int) -> int:
        nonlocal waiting
        if n < 0:
            raise ValueError(n)
        waiting += 1
        if waiting == 3:
            together.set()
        await together.wait()
        return n

    # As many of a chunk run at once as the prefetch allows.
    serve(service, threads=1, prefetch=3)
    assert list(client.map(meet, [3, 1, 2], chunksize=3)) == [3, 1, 2]
    with pytest.raises(ValueError, match="-1"):
        list(client.map(meet, [1, -1, 2], chunksize=3))


def test_what_is_awaited_holds_no_thread_and_has_the_handlers_context(
    client: Client, serve: Serve, service: Service
) -> None:
    arrived, go = threading.Barrier(5), asyncio.Event()

    @service.rpc
    @logged
    async def wait(n: int) -> list[Any]:
        await asyncio.to_thread(arrived.wait, 20)
        await go.wait()
        return [n, tenant.get(), context().function, threading.current_thread().name]

    @service.rpc
    @logged
    async def release() -> None:
        go.set()

    serve(service, threads=1, prefetch=10)
    futures = [client.submit(wait, n) for n in range(4)]
    # All four are there at the same time, though there is one thread.
    arrived.wait(20)
    client.call(release)
    assert [future.result() for future in futures] == [[n, "acme", "wait", "amqp_rpc async handlers"] for n in range(4)]


def test_a_task_and_an_event_are_acked_when_what_they_returned_has_run(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    ran: list[Any] = []

    @service.task(queue=queue)
    @logged
    async def mail(to: str) -> str:
        await asyncio.sleep(0)
        ran.append(to)
        return to.upper()

    topic = f"t{secrets.token_hex(6)}.paid"

    @service.subscribe(topic, mode="broadcast")
    @logged
    async def ship(order: int) -> None:
        await asyncio.sleep(0)
        ran.append(order)

    serve(service)
    assert client.enqueue(mail, "ann").result(timeout=20) == "ANN"
    client.publish(topic, 7)
    assert until(lambda: ran[1:]) == [7]


def test_the_time_limit_counts_for_what_a_task_returned(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = threading.Event()

    @service.task(queue=queue, retries=0, time_limit=0.3)
    @logged
    async def stay() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @service.task(queue=queue)
    def quick() -> int:
        return 1

    serve(service, threads=1)
    handle = client.enqueue(stay)
    # Its thread is free meanwhile.
    assert client.enqueue(quick).result(timeout=20) == 1
    with pytest.raises(TimeLimitExceeded, match=r"0\.3 s"):
        handle.result(timeout=20)
    assert cancelled.wait(20)
    assert dead_letter(raw, queue).headers["reason"].startswith("TimeLimitExceeded")
    assert "can't be ended" not in caplog.text


def test_what_a_task_returns_after_its_time_limit_is_not_run(
    client: Client, serve: Serve, service: Service, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()
    ran: list[int] = []

    async def body() -> None:
        ran.append(1)

    @service.task(queue=queue, retries=0, time_limit=0.2)
    def late() -> Any:
        go.wait()
        return body()

    serve(service)
    with pytest.raises(TimeLimitExceeded):
        client.enqueue(late).result(timeout=20)
    with caplog.at_level(logging.WARNING):
        go.set()
        until(lambda: "dropped, since it failed at its time limit" in caplog.text)
    assert ran == []


UNRUN: dict[str, Callable[[], Any]] = {
    "a generator": lambda: numbers(3),
    "an async generator": lambda: later_numbers(3),
    "a map": lambda: map(str, [1]),
    "a GeneratorContextManager": contextlib.contextmanager(numbers).__get__(3, int),
    "a list with a coroutine in it": lambda: [asyncio.sleep(0)],
    "a dict with a generator in it": lambda: {"a": numbers(1)},
}


@pytest.mark.parametrize("what", UNRUN)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_call_whose_body_has_not_run_fails(client: Client, serve: Serve, service: Service, what: str) -> None:
    @service.rpc
    def work() -> Any:
        return UNRUN[what]()

    serve(service)
    with pytest.raises(RemoteError, match=rf"work\(\) returned {what}, whose body has not run"):
        client.call(work)


@pytest.mark.parametrize("what", UNRUN)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_task_whose_body_has_not_run_is_a_dead_letter_and_never_succeeded(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    raw: Raw,
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @service.task(queue=queue, result=False)
    def work() -> Any:
        return UNRUN[what]()

    server = serve(service)
    with caplog.at_level(logging.INFO, "amqp_rpc"):
        client.enqueue(work)
        reason = dead_letter(raw, queue).headers["reason"]
    assert reason.startswith(f"NotAResult: work() returned {what}, whose body has not run")
    assert "succeeded" not in caplog.text
    # No retry would change it.
    assert (server.counters["failed"], server.counters["retried"], server.counters["result"]) == (1, 0, 0)


def test_an_event_whose_body_has_not_run_is_a_dead_letter_and_never_succeeded(
    client: Client, serve: Serve, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    @service.subscribe(f"{service.name}.paid")
    def ship(_order: int) -> Any:
        return numbers(3)

    serve(service)
    with caplog.at_level(logging.INFO, "amqp_rpc"):
        client.publish(f"{service.name}.paid", 7, mandatory=True)
        letters = client.dead_letters(f"events.{service.name}.ship")
        [letter] = until(letters.list)
    assert str(letter.reason).startswith("NotAResult: ship() returned a generator, whose body has not run")
    assert "succeeded" not in caplog.text


def test_an_async_function_that_returns_a_generator_fails_as_well(
    client: Client, serve: Serve, service: Service
) -> None:
    @service.rpc
    async def work() -> Any:
        return numbers(3)

    serve(service)
    with pytest.raises(RemoteError, match="whose body has not run"):
        client.call(work)
