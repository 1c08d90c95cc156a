"""CPython's tests of `concurrent.futures` pass with the futures of `Client.submit`, but for what is listed here."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.client.call import CallOptions
from amqp_rpc.client.future import PendingCall
from amqp_rpc.client.reply import Decoder
from tests.cpython import cpythons, names_of, run

Serve = Callable[..., Server]

executor_tests = cpythons("test_concurrent_futures.executor", "test_concurrent_futures")
wait_tests = cpythons("test_concurrent_futures.test_wait", "test_concurrent_futures")
completed_tests = cpythons("test_concurrent_futures.test_as_completed", "test_concurrent_futures")
future_tests = cpythons("test_concurrent_futures.test_future", "test_concurrent_futures")

LISTS = "tuples arrive as lists (docs/wire-format.md)"
OBJECTS = "an object of a class of the tests' has no form on the wire"
POOL = "about the pool of an executor, which a client has not"
NAME = "the class has another name"
#: Each difference, with its reason.
EXECUTOR = {
    "test_submit_keyword": LISTS,
    "test_map_exception": LISTS,
    "test_free_reference": OBJECTS,
    "test_max_workers_negative": POOL,
}
FUTURE = {
    "test_repr": NAME,
    "test_cancel": "a call is never RUNNING, and a cancelled one has notified its waiters",
    "test_multiple_set_result": NAME,
    "test_multiple_set_exception": NAME,
}


class Remote(Executor):
    """An executor whose functions run on a server in this process."""

    worker_count = 5

    def __init__(self, client: Client, serve: Serve, service: Service) -> None:
        calls: dict[int, partial[Any]] = {}

        @service.rpc(name="run")
        def run(number: int) -> Any:
            return calls.pop(number)()

        serve(service, threads=self.worker_count)
        self._client, self._name, self._calls = client, f"{service.name}.run", calls
        self._numbers = itertools.count()
        self._sent: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        number = next(self._numbers)
        self._calls[number] = partial(fn, *args, **kwargs)
        future = self._client.submit(self._name, number)
        self._sent.append(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT002 - as Executor has it
        if wait:
            futures.wait(self._sent)


@pytest.fixture
def remote(client: Client, serve: Serve, service: Service) -> Remote:
    return Remote(client, serve, service)


@pytest.mark.parametrize("name", names_of(executor_tests, "ExecutorTest", EXECUTOR))
def test_as_those_of_an_executor(name: str, remote: Remote) -> None:
    run(executor_tests, "ExecutorTest", name, executor=remote, executor_type=Remote, worker_count=remote.worker_count)


@pytest.mark.parametrize("name", names_of(wait_tests, "WaitTests", {}))
def test_as_futures_that_are_waited_for(name: str, remote: Remote) -> None:
    run(wait_tests, "WaitTests", name, executor=remote)


@pytest.mark.parametrize("name", names_of(completed_tests, "AsCompletedTests", {}))
def test_as_futures_in_the_order_of_their_ends(name: str, remote: Remote) -> None:
    run(completed_tests, "AsCompletedTests", name, executor=remote)


class SameThread:
    """In the place of the thread for callbacks: it calls at once."""

    @staticmethod
    def call(function: Callable[[Any], object], argument: Any) -> None:
        function(argument)


class NoCaller:
    """A client without a connection."""

    def give_up(self, call: PendingCall) -> bool:
        return not call.done()

    def ended(self) -> None:
        """Wake no thread: none waits at sockets."""

    def wait(self, call: PendingCall, until: float) -> None:
        call.wait(until)


def pending(state: str = "PENDING", exception: BaseException | None = None, result: Any = None) -> PendingCall:
    """A future of `submit`, in a state."""
    made = PendingCall("id", "rpc_queue", "charge", b"", 60.0, Decoder(None, 1000), CallOptions())
    made._caller = NoCaller()  # type: ignore[assignment] # it is all that is asked of it
    vars(made).update(_state=state, _exception=exception, _result=result)
    return made


@pytest.mark.parametrize("name", names_of(future_tests, "FutureTests", FUTURE))
def test_as_futures_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {
        "PENDING_FUTURE": pending("PENDING"),
        "RUNNING_FUTURE": pending("RUNNING"),
        "CANCELLED_FUTURE": pending("CANCELLED"),
        "CANCELLED_AND_NOTIFIED_FUTURE": pending("CANCELLED_AND_NOTIFIED"),
        "EXCEPTION_FUTURE": pending("FINISHED", exception=OSError()),
        "SUCCESSFUL_FUTURE": pending("FINISHED", result=42),
    }
    # Callbacks run on a thread of their own, a moment later; the tests look at once.
    monkeypatch.setattr("amqp_rpc.client.future._callbacks", SameThread())
    # What is logged goes to standard error, as without pytest.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for known, value in {**states, "Future": pending, "create_future": pending}.items():
        monkeypatch.setattr(future_tests, known, value)
    run(future_tests, "FutureTests", name)


def test_a_failed_call_ends_a_wait_for_the_first_exception(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def slow() -> None:
        time.sleep(2)

    @service.rpc
    def bad(n: int) -> None:
        raise ValueError(n)

    serve(service)
    sent = [client.submit(slow), client.submit(bad, 1)]
    done, waiting = futures.wait(sent, return_when=futures.FIRST_EXCEPTION, timeout=20)
    assert (done, waiting) == ({sent[1]}, {sent[0]})
    assert "state=finished raised ValueError" in repr(sent[1])
    sent[0].result()
    assert "state=finished returned NoneType" in repr(sent[0])


def test_asyncio_awaits_a_future_as_any_other(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def half(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return n // 2

    serve(service)

    async def halve(n: int) -> int:
        return await asyncio.wrap_future(client.submit(half, n))

    assert asyncio.run(halve(8)) == 4
    with pytest.raises(ValueError, match="7"):
        asyncio.run(halve(7))
