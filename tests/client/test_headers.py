"""Headers of the caller's own: a handler has them in ``context().headers``, on each attempt, and after a replay."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from amqp_rpc import (
    AsyncClient,
    Client,
    ConfigurationError,
    Event,
    MessageTooLarge,
    PublishRefused,
    Server,
    Service,
    context,
)
from tests.interop.programs import environment
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]

CLOSED = "amqp://127.0.0.1:1/"
MINE = {"tenant": "acme", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "n": 7, "on": True}
#: Bytes of a frame's properties, as RabbitMQ bounds them by default.
FRAME = 131_072


@pytest.fixture
def queue(raw: Raw) -> str:
    return f"t{secrets.token_hex(6)}"


def seen() -> dict[str, Any]:
    """Return the headers of the call that is handled here."""
    return context().headers


def test_a_call_has_the_headers_of_its_caller(client: Client, serve: Serve, service: Service) -> None:
    service.rpc(seen)

    @service.rpc
    async def seen_async(_n: int) -> dict[str, Any]:
        return context().headers

    serve(service)
    name = f"{service.name}.seen"
    assert client.call(name) == {}
    assert client.call(name, headers=MINE) == MINE
    assert client.submit(name, headers=MINE).result() == MINE
    assert client.with_options(headers=MINE).call(name) == MINE
    mapped = client.map(
        f"{service.name}.seen_async", range(4), chunksize=2, headers=MINE, content_type="application/json"
    )
    assert list(mapped) == [MINE] * 4
    assert client.call(name) == {}


def test_from_asyncio_it_is_the_same(url: str, serve: Serve, service: Service) -> None:
    service.rpc(seen)
    serve(service)

    async def ask() -> Any:
        async with AsyncClient(url) as client:
            return await client.call(f"{service.name}.seen", headers=MINE)

    assert asyncio.run(ask()) == MINE


def test_the_command_line_gives_them(url: str, serve: Serve, service: Service) -> None:
    service.rpc(seen)
    service.task(queue=f"{service.name}.tasks")(seen)
    serve(service)
    for words in (["call", f"{service.name}.seen"], ["enqueue", "seen", "--queue", f"{service.name}.tasks", "--wait"]):
        command = [sys.executable, "-m", "amqp_rpc", *words, "--header", "tenant=acme", "--header", "n=7"]
        printed = subprocess.run(command, env=environment(url), capture_output=True, text=True, timeout=40, check=True)
        assert json.loads(printed.stdout.splitlines()[-1]) == {"tenant": "acme", "n": 7}


def test_handlers_pass_them_on_if_they_say_so(client: Client, serve: Serve, service: Service) -> None:
    service.rpc(seen)

    @service.rpc
    def relay(on: bool) -> Any:
        return client.call(f"{service.name}.seen", headers=context().headers if on else None)

    serve(service)
    assert client.call(relay, False) == {}
    assert client.with_options(headers=MINE).call(relay, True) == MINE


def test_a_task_has_them_on_each_attempt_and_after_its_dead_letter_was_replayed(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    found: list[tuple[int, dict[str, Any]]] = []
    mended = False

    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def work(_n: int) -> None:
        found.append((context().attempt, context().headers))
        if not mended:
            raise ValueError("not yet")

    serve(service)
    client.with_options(headers=MINE, delay=0.1).enqueue(work, 1)
    letters = client.dead_letters(queue)
    until(letters.list)
    assert found == [(1, MINE), (2, MINE)]
    mended = True
    letters.replay(all=True)
    until(lambda: len(found) == 3)
    assert found[2] == (1, MINE)
    client.enqueue_many(work, [(1,), (2,)], headers=MINE)
    until(lambda: found[3:] == [(1, MINE)] * 2)


def test_an_event_handler_finds_them_in_its_event_and_in_its_context(
    client: Client, serve: Serve, service: Service
) -> None:
    found: list[dict[str, Any]] = []
    topic = f"{service.name}.paid"

    @service.subscribe(topic)
    def hear(event: Event) -> None:
        found.extend([event.headers, context().headers])

    serve(service)
    client.publish(topic, headers=MINE)
    until(lambda: found == [MINE, MINE])


@pytest.mark.parametrize("method", ["call", "submit", "enqueue"])
@pytest.mark.parametrize("headers", [{"attempt": 1}, {"deadline": 5}, {"x-death": 1}, {5: 1}, ["tenant"]])
def test_reserved_names_are_refused(method: str, headers: Any) -> None:
    with Client(CLOSED) as client, pytest.raises(ConfigurationError, match="header"):
        getattr(client, method)("fib", 30, headers=headers)


def test_headers_that_a_frame_can_t_carry_are_refused_and_the_client_goes_on(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    service.rpc(seen)
    serve(service)
    name = f"{service.name}.seen"
    client.call(name)
    for method, target in ((client.call, name), (client.enqueue, "work")):
        with pytest.raises(MessageTooLarge, match="its headers must be smaller") as raised:
            method(target, headers={"blob": "x" * FRAME}, queue=None if target == name else queue)
        assert not raised.value.may_have_run
        with pytest.raises(ConfigurationError, match="AMQP can't carry"):
            method(target, headers={"value": object()}, queue=None if target == name else queue)
    assert client.call(name, headers=MINE) == MINE


@pytest.mark.parametrize("room", [30_000, 3_000, 400])
def test_a_publishers_headers_stay_where_ours_have_little_room(
    client: Client, serve: Serve, service: Service, queue: str, room: int
) -> None:
    """The traceback and the reason become shorter, and the replay is the task that was enqueued."""
    blob = {"tenant": "acme", "blob": "x" * (FRAME - room)}
    found: list[dict[str, Any]] = []

    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def work() -> None:
        found.append(context().headers)
        if len(found) < 5:
            raise ValueError("ü" * 1_500 + "the end")

    serve(service)
    client.enqueue(work, headers=blob)
    letters = client.dead_letters(queue)
    for deaths in (1, 2):
        [letter] = until(letters.list)
        assert letter.reason.startswith("ValueError: üü")
        assert letter.traceback is None or letter.traceback.rstrip().endswith("the end")
        assert (letter.traceback is not None) is (room > 1000)
        assert len(letter.history) == (deaths - 1 if room > 10_000 else 0)
        letters.replay(all=True)
        until(lambda deaths=deaths: len(found) >= 2 * deaths + 1)  # type: ignore[misc]
    until(lambda: len(found) == 5)
    assert all(each == blob for each in found)


def test_a_letter_that_has_lost_its_publishers_headers_is_not_replayed_as_another_message(
    raw: Raw, client: Client, serve: Serve, service: Service, queue: str
) -> None:
    ran: list[dict[str, Any]] = []

    @service.task(queue=queue, retries=0)
    def work(_text: str) -> None:
        ran.append(context().headers)
        raise ValueError("no")

    serve(service)
    # A program of others fills the frame to its last bytes.
    raw.send(queue, b"theirs", headers={"blob": "x" * (FRAME - 70)}, message_id="1")
    letters = client.dead_letters(queue)
    [letter] = until(letters.list)
    with pytest.raises(PublishRefused, match=r"0 of 1 .* the others stay: dead letter \[1\] has lost the headers"):
        letters.replay(all=True)
    assert [each.id for each in letters.list()] == [letter.id]
    assert len(ran) == 1
    assert letters.drop(all=True) == ["1"]
