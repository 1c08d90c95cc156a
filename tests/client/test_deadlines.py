"""Deadlines travel: late work is not started, a handler sees what is left, and its own calls inherit it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from amqp_rpc import (
    AsyncClient,
    CallTimeout,
    Client,
    ConfigurationError,
    NotConnected,
    NotSent,
    RemoteError,
    Server,
    Service,
    Unroutable,
    context,
)
from tests.forwarding import forwarding
from tests.served_by import Raw

Serve = Callable[..., Server]


def test_a_handler_sees_the_call_that_it_handles(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def look() -> list[object]:
        call = context()
        return [call.function, call.attempt, call.redelivered, bool(call.message_id), call.remaining()]

    @service.rpc
    async def look_later() -> float:
        await asyncio.sleep(0)
        left = context().remaining()
        assert left is not None
        return left

    serve(service)
    function, attempt, redelivered, identified, left = client.call(look, timeout=9)
    assert (function, attempt, redelivered, identified) == ("look", 1, False, True)
    assert 0 < left < 9
    assert 0 < client.call(look_later, timeout=9) < 9
    assert 9 < client.call(f"{service.name}.look_later") < 20


def test_outside_of_a_handler_there_is_no_context() -> None:
    with pytest.raises(ConfigurationError, match="no call is being handled"):
        context()


def test_calls_of_a_handler_inherit_what_is_left(
    url: str, client: Client, raw: Raw, serve: Serve, service: Service
) -> None:
    with Client(url, timeout=30) as inner:

        @service.rpc
        def left() -> float | None:
            return context().remaining()

        @service.rpc
        def through() -> float | None:
            return inner.call(left)

        @service.rpc
        def too_late() -> None:
            deadline = context().deadline
            assert deadline is not None
            while time.time() < deadline:
                pass
            inner.call(left)

        serve(service)
        through_two = client.call(through, timeout=5)
        assert through_two is not None
        assert 0 < through_two < 5
        soon = {"deadline": int((time.time() + 0.2) * 1000)}
        _, error = raw.ask(service.queue, b"[[],{}]", content_type="application/json", type="too_late", headers=soon)
        assert json.loads(error)["type"] == "amqp_rpc.errors.NotSent"


def test_an_error_of_a_handlers_own_call_is_a_remote_error_to_its_caller(
    url: str, client: Client, serve: Serve, service: Service
) -> None:
    with Client(url) as inner:

        @service.rpc
        def ask_nobody() -> None:
            inner.call("nobody.home")

        serve(service)
        with pytest.raises(Unroutable) as caught:
            client.call(ask_nobody)
        assert isinstance(caught.value, RemoteError)
        assert caught.value.may_have_run, "the inner call did not run, but this one did"


def test_expired_work_is_not_started_but_counted(raw: Raw, serve: Serve, service: Service) -> None:
    ran = []

    @service.rpc
    def note() -> None:
        ran.append(1)

    server = serve(service)
    late = {"deadline": int((time.time() - 5) * 1000)}
    properties, body = raw.ask(service.queue, b"[[],{}]", content_type="application/json", headers=late)
    assert properties.type == "error"
    assert b"Expired" in body
    assert (ran, server.counters["expired"]) == ([], 1)


def test_a_clock_that_is_off_by_less_than_a_second_does_no_harm(raw: Raw, serve: Serve, service: Service) -> None:
    @service.rpc
    def one() -> int:
        return 1

    serve(service)
    late = {"deadline": int((time.time() - 0.5) * 1000)}
    assert raw.ask(service.queue, b"[[],{}]", content_type="application/json", headers=late)[1] == b"1"


def test_an_awaited_call_ends_in_time_while_the_brokers_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **_named: answered.wait(30) and [])

    async def call() -> None:
        async with AsyncClient("amqp://slow.invalid", timeout=0.3) as client:
            with pytest.raises(NotSent, match=r"not sent within 0\.3 s: no connection to .*slow\.invalid"):
                # Should the owner be stuck, only the end of the look-up would end this.
                await asyncio.wait_for(client.call("fib", 1), 10)

    asyncio.run(call())
    answered.set()


def test_deadlines_hold_after_a_first_attempt_to_connect_that_failed(url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        later = free.getsockname()
    there = urlsplit(url)
    first_nobody = there._replace(netloc=f"guest:guest@127.0.0.1:{later[1]}").geturl()
    go_on = threading.Event()
    service = Service("tlate")

    @service.rpc
    def hold() -> None:
        go_on.wait(30)

    async def main() -> None:
        async with AsyncClient(first_nobody, timeout=1) as client:
            with pytest.raises(NotConnected):
                await client.call(hold)
            with forwarding(later, (str(there.hostname), there.port or 5672)), Server(service, url=url):
                with pytest.raises(CallTimeout):
                    await asyncio.wait_for(client.call(hold), 15)
                go_on.set()

    asyncio.run(main())
