"""Events that a program listens to without a service: from when, what they have, and what ends it."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from amqp_rpc import AsyncClient, Client, ConfigurationError, Event, Exchange, NotConnected
from tests.served_by import Raw
from tests.waiting import until

NOWHERE = "amqp://127.0.0.1:1/"


def test_what_is_published_from_then_on_comes_in_its_order(client: Client, queue_name: str) -> None:
    client.publish(f"{queue_name}.early", 0)
    with client.listen(f"{queue_name}.*") as events:
        client.publish(f"{queue_name}.a", {"n": 1}, headers={"tenant": "eu"})
        client.publish(f"{queue_name}.b", "text")
        client.publish("another.topic", 3)
        identity = client.publish(f"{queue_name}.c", [1, 2])
        got = [next(events) for _ in range(3)]
    assert all(isinstance(event, Event) for event in got)
    assert [event.topic.rpartition(".")[2] for event in got] == ["a", "b", "c"]
    assert [event.payload for event in got] == [{"n": 1}, "text", [1, 2]]
    assert (got[0].headers, got[2].id) == ({"tenant": "eu"}, identity)


def test_a_loop_that_is_left_closes_it(client: Client, queue_name: str) -> None:
    before = threading.active_count()

    def first() -> None:
        for event in client.listen(queue_name):
            answers.append(event.payload)
            break

    answers: list[Any] = []
    thread = threading.Thread(target=first)
    thread.start()

    def published() -> bool:
        client.publish(queue_name, 5)
        return bool(answers)

    until(published)
    thread.join(20)
    gc.collect()
    # The client's own connection has one.
    until(lambda: threading.active_count() <= before + 1, what="the end of its thread")
    assert answers == [5]


def test_closing_it_or_its_client_ends_a_loop_that_waits(url: str, queue_name: str) -> None:
    with Client(url) as client:
        ends = []
        for end in ("events", "client"):
            events = client.listen(queue_name)
            waits = threading.Thread(target=lambda events=events: ends.append(list(events)))
            waits.start()
            (events if end == "events" else client).close()
            waits.join(20)
            assert not waits.is_alive()
            assert list(events) == []
    assert ends == [[], []]


def test_bytes_that_can_t_be_read_come_as_they_are(client: Client, queue_name: str, raw: Raw) -> None:
    exchange = Exchange(queue_name, "fanout", durable=False)
    with client.listen(exchange=exchange) as events:
        raw.channel.basic_publish(queue_name, "", b"\xff\x00")
        assert next(events).payload == b"\xff\x00"
    raw.channel.exchange_delete(queue_name)


def test_what_can_t_be_listened_to_is_refused_at_once(client: Client, queue_name: str) -> None:
    with pytest.raises(ConfigurationError):
        client.listen("a..b")
    with pytest.raises(ConfigurationError, match=r"amq\.direct"):
        client.listen("a", exchange="amq.direct")
    with Client(NOWHERE) as nobody, pytest.raises(NotConnected):
        nobody.listen(queue_name)


def test_asyncio_listens_without_a_thread_of_its_own(url: str, queue_name: str) -> None:
    async def ask() -> list[Any]:
        got = []
        async with AsyncClient(url) as client:
            async with client.listen(f"{queue_name}.*") as events:
                await client.publish(f"{queue_name}.a", 1)
                await client.publish(f"{queue_name}.b", 2)
                async for event in events:
                    got.append((event.topic.rpartition(".")[2], event.payload))
                    if len(got) == 2:
                        break
            assert [event async for event in events] == []
        return got

    assert asyncio.run(ask()) == [("a", 1), ("b", 2)]


def test_cancelling_loses_no_event_and_closing_ends_what_waits(url: str, queue_name: str) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with AsyncClient(url) as client:
            events = client.listen(queue_name)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.2)
            async with events:
                await client.publish(queue_name, 1)
                first = (await anext(events)).payload
                waits = asyncio.ensure_future(anext(events, None))
                await asyncio.sleep(0)
            await asyncio.wait_for(waits, 20)

            async def all_of(events: Any) -> list[Any]:
                return [event async for event in events]

            task = asyncio.ensure_future(all_of(client.listen(queue_name)))
            await asyncio.sleep(0)
        return first, await asyncio.wait_for(task, 20)

    assert asyncio.run(ask()) == (1, [])


def test_asyncio_says_at_once_what_can_t_be_listened_to() -> None:
    async def ask() -> None:
        async with AsyncClient(NOWHERE) as client:
            with pytest.raises(NotConnected):
                async for _ in client.listen("a"):
                    pass
            with pytest.raises(NotConnected):
                async with client.listen("a"):
                    pass

    asyncio.run(ask())
