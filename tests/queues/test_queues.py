"""Queues between processes through a real broker: the standard library's promises, and the ones beyond them."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from amqp_rpc import (
    AccessRefused,
    AsyncClient,
    Client,
    ConfigurationError,
    ConnectionLost,
    NotAllAccepted,
    NotConnected,
    NotDone,
    PublishRefused,
    Queue,
    Service,
    Unencodable,
)
from amqp_rpc.amqp.declare import Declarations
from amqp_rpc.broker.node import Node
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.topology import item_arguments
from amqp_rpc.queues import get
from amqp_rpc.queues.get import Taken
from amqp_rpc.queues.put import to_answer
from amqp_rpc.queues.queue import PREFETCH
from tests.programs import ROOT
from tests.served_by import Raw
from tests.waiting import until


@pytest.fixture
def name(queue_name: str, raw: Raw) -> Iterator[str]:
    """The name of a queue that is deleted with its dead letters in the end."""
    yield queue_name
    for each in (queue_name, f"{queue_name}.dead"):
        raw.connection.channel().queue_delete(each)


@pytest.fixture
def other(url: str) -> Iterator[Client]:
    """A client with a connection of its own, as another process has it."""
    with Client(url, timeout=20) as client:
        yield client


@contextmanager
def taker(url: str, name: str, *, done: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that takes from a queue, and is done with so many items."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.taker", url, name, str(done)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def drained(items: Queue[object], *, first: float = 2.0, wait: float = 1.0) -> list[object]:
    """All that is in a queue, done; the first of it may take longer than the next."""
    found = []
    while True:
        try:
            found.append(items.get(timeout=wait if found else first))
        except queue.Empty:
            return found
        items.task_done()


def held_by(items: Queue[object]) -> Taken:
    """The item that was taken and is not done, where it is one."""
    [taken] = [each for taker in items._taken.values() for each in taker]
    return taken


def drop(client: Client) -> None:
    """Have a client lose its connection."""
    connection = client._session.connection
    assert connection is not None
    connection.post(lambda: connection._stream.abort(ConnectionAbortedError("test")))
    until(lambda: not connection.is_open, what="the connection to be lost")


# The behaviour of the standard library's queue.


def test_what_one_puts_another_takes_in_order(client: Client, other: Client, name: str) -> None:
    values = [None, 1, 2**70, 1.5, "text", b"bytes", [1, [2]], {"a": {"b": None}}, datetime.now(UTC), Decimal("1.10")]
    for value in values:
        client.queue(name).put(value)
    taking = other.queue(name)
    assert [taking.get(timeout=20) for _ in values] == values


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_more_and_more_that_comes_ahead_comes_in_order(client: Client, other: Client, name: str, kind: str) -> None:
    items = client.queue(name, queue_type=kind)
    items.put_many(range(2400))
    # In the client that put them, without receipts, and in another by turns: many items are requeued each time.
    for turn in range(6):
        with (client, other)[turn % 2].queue(name, queue_type=kind) as taking:
            for number in range(400 * turn, 400 * (turn + 1)):
                assert taking.get(timeout=20) == number
                taking.task_done()
    items.join(timeout=20)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_takers_that_follow_one_another_and_take_a_few_each_get_all_in_order(
    client: Client, other: Client, name: str, kind: str
) -> None:
    client.queue(name, queue_type=kind).put_many(range(300))
    found: list[object] = []
    for turn, count in enumerate((50, 5, 20, 2, 4, 219)):
        with (client, other)[turn % 2].queue(name, queue_type=kind) as taking:
            for _ in range(count):
                found.append(taking.get(timeout=20))
                taking.task_done()
    assert found == list(range(300))


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_what_comes_ahead_of_a_taker_that_rests_goes_back_and_comes_again_in_order(
    client: Client, other: Client, name: str, kind: str
) -> None:
    items, taking = client.queue(name, queue_type=kind), other.queue(name, queue_type=kind)
    items.put_many(range(1000))
    for number in range(700):
        assert taking.get(timeout=20) == number
        taking.task_done()
    until(lambda: taking._consumer.prefetched == 0 and taking.qsize() == 300, what="what came ahead to be back")
    for number in range(700, 1000):
        assert taking.get(timeout=20) == number
        taking.task_done()
    items.join(timeout=20)


def test_nothing_there_is_empty_at_once_or_after_the_time(client: Client, name: str) -> None:
    items = client.queue(name)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(queue.Empty):
        items.get(block=False, timeout=5)
    began = time.monotonic()
    with pytest.raises(queue.Empty):
        items.get(timeout=0.5)
    assert time.monotonic() - began >= 0.5
    assert items.empty()


def test_what_was_confirmed_is_there_for_get_nowait(client: Client, other: Client, name: str) -> None:
    putting, taking = client.queue(name), other.queue(name)
    for number in range(30):
        putting.put(number)
        assert taking.get_nowait() == number
        taking.task_done()
    with pytest.raises(queue.Empty):
        taking.get_nowait()


def test_a_queue_is_not_called_empty_before_the_broker_has_answered(client: Client, name: str) -> None:
    items = client.queue(name)
    items.put(1)
    with pytest.raises(NotConnected, match="no answer yet"):
        client.queue(name).get(timeout=1e-6)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_get_nowait_finds_the_item_that_follows_one_that_is_just_done(
    client: Client, other: Client, name: str, kind: str
) -> None:
    client.queue(name, queue_type=kind).put_many(range(20))
    taking = other.queue(name, queue_type=kind, prefetch=1)
    for number in range(20):
        # Only the broker's answer to the ack lets the next one come.
        assert taking.get_nowait() == number
        taking.task_done()


def test_a_get_waits_for_a_put(client: Client, other: Client, name: str) -> None:
    taking, found = other.queue(name), []
    waiting = threading.Thread(target=lambda: found.append(taking.get()))
    waiting.start()
    client.queue(name).put("at last")
    waiting.join(20)
    assert found == ["at last"]


def test_a_full_queue_is_full_until_something_was_taken(client: Client, other: Client, name: str) -> None:
    items, taking = client.queue(name, maxsize=2), other.queue(name, maxsize=2)

    def fill() -> int:
        # A quorum queue looks at its bound a moment later.
        for number in range(20):
            try:
                items.put_nowait(number)
            except queue.Full:
                return number
        return 20

    put = fill()
    assert 2 <= put < 20
    assert items.full()
    began = time.monotonic()
    with pytest.raises(queue.Full):
        items.put("too many", timeout=0.5)
    assert time.monotonic() - began >= 0.5
    waiting = threading.Thread(target=items.put, args=("when there is room",))
    waiting.start()
    assert drained(taking) == [*range(put), "when there is room"]
    waiting.join(20)
    assert not items.full()
    items.join(timeout=20)


def test_a_size_below_one_is_no_bound(client: Client, name: str) -> None:
    items = client.queue(name, -1)
    items.put_nowait(1)
    assert not items.full()
    assert items.maxsize == 0


def test_the_size_is_what_is_ready_and_what_has_come_here(client: Client, other: Client, name: str) -> None:
    items, taking = client.queue(name), other.queue(name)
    assert items.qsize() == 0
    items.put_many(range(10))
    until(lambda: items.qsize() == 10, what="the queue to count all")
    assert taking.get(timeout=20) == 0
    until(lambda: items.qsize() == 9, what="one less")
    with taking.get_many(4) as some:
        assert len(some) >= 1
        until(lambda: taking.qsize() == 9 - len(some), what="some less")


def test_task_done_is_of_the_oldest_that_the_thread_has_taken(client: Client, name: str, url: str) -> None:
    items = client.queue(name)
    items.put_many(["a", "b", "c"])
    assert [items.get(timeout=20) for _ in range(3)] == ["a", "b", "c"]
    items.task_done()
    items.close()
    with Client(url, timeout=20) as other:
        assert drained(other.queue(name)) == ["b", "c"]


def test_task_done_more_often_than_get_is_an_error(client: Client, name: str) -> None:
    items = client.queue(name)
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()
    items.put(1)
    items.get(timeout=20)
    items.task_done()
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


def test_task_done_of_another_thread_s_item_names_it(client: Client, name: str) -> None:
    items = client.queue(name)
    items.put_many([{"n": 1}, {"n": 2}])
    first, second = items.get(timeout=20), items.get(timeout=20)
    raised: list[Exception] = []

    def work() -> None:
        try:
            items.task_done()
        except ValueError as error:
            raised.append(error)
        items.task_done(second)
        items.task_done({"n": 1})

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert "those of other threads" in str(raised[0])
    items.join(timeout=20)
    with pytest.raises(ValueError, match="or that is done"):
        items.task_done(first)


def test_threads_that_are_done_with_equal_items_are_done_with_one_each(client: Client, name: str) -> None:
    items = client.queue(name)
    items.put_many([7, 7])
    assert [items.get(timeout=20) for _ in range(2)] == [7, 7]
    together = threading.Barrier(2)

    class Seven:
        """Equal to 7; it is compared by both at the same time, where that can be."""

        __hash__ = None

        def __eq__(self, other: object) -> bool:
            with suppress(threading.BrokenBarrierError):
                together.wait(0.5)
            return other == 7

    threads = [threading.Thread(target=items.task_done, args=(Seven(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    items.join(timeout=20)
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


def test_join_waits_until_all_that_this_object_put_is_done_wherever_it_was_taken(
    client: Client, other: Client, name: str
) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.join()
    other.queue(name).put("somebody else's")
    items.put_many(range(50))
    with pytest.raises(NotDone, match="50 items"):
        items.join(timeout=0.2)
    joined = threading.Event()
    waiting = threading.Thread(target=lambda: (items.join(), joined.set()))
    waiting.start()
    for _ in range(51):
        assert not joined.is_set()
        taking.get(timeout=20)
        taking.task_done()
    assert joined.wait(20)
    waiting.join(20)


def test_a_timeout_may_be_a_timedelta(client: Client, name: str) -> None:
    numbers = client.queue(name)
    numbers.put(1, timeout=timedelta(seconds=20))
    numbers.put_many([2], timeout=timedelta(seconds=20))
    assert numbers.get(timeout=timedelta(seconds=20)) == 1
    with numbers.get_many(1, timeout=timedelta(seconds=20)) as some:
        assert some == [2]
    with pytest.raises(queue.Empty):
        numbers.get(timeout=timedelta(0))
    with pytest.raises(NotDone, match=r"1 item was not done within 0\.05 s"):
        numbers.join(timeout=timedelta(milliseconds=50))
    numbers.task_done()
    numbers.join(timeout=timedelta(seconds=20))


def test_a_timeout_is_a_number_from_zero(client: Client, name: str) -> None:
    items = client.queue(name)
    for call in (items.get, items.join, lambda timeout: items.put(1, timeout=timeout)):
        with pytest.raises(ValueError, match="non-negative"):
            call(timeout=-1)


def test_many_threads_take_from_one_object_and_each_item_is_taken_once(
    client: Client, other: Client, name: str
) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(400))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.extend(drained(taking))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == list(range(400))
    items.join(timeout=20)


# Beyond the bound.


def test_many_items_are_taken_together_and_done_together(client: Client, other: Client, name: str) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(100))
    found: list[object] = []
    while len(found) < 100:
        with taking.get_many(40, timeout=20) as some:
            assert 1 <= len(some) <= 40
            with pytest.raises(ValueError, match="too many times"):
                taking.task_done()
            found += some
    assert found == list(range(100))
    items.join(timeout=20)
    with pytest.raises(queue.Empty), taking.get_many(5, timeout=0.1):
        pytest.fail("there is nothing left")


def test_any_number_of_items_may_be_asked_for(client: Client, other: Client, name: str) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(50))
    found: list[object] = []
    while len(found) < 50:
        # AMQP's prefetch ends at 65 535.
        with taking.get_many(70_000, timeout=20) as some:
            found += some
    assert found == list(range(50))
    items.join(timeout=20)


def test_more_items_than_a_prefetch_has_room_for_are_taken_together(
    client: Client, other: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get, "MOST_PREFETCH", 4)
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(50))
    until(lambda: items.qsize() == 50, what="the queue to count all")
    found: list[object] = []
    most = 0
    while len(found) < 50:
        with taking.get_many(1000, timeout=20) as some:
            most = max(most, len(some))
            found += some
    assert found == list(range(50))
    assert most > 4
    items.join(timeout=20)


def test_a_block_that_raises_gives_its_items_back(client: Client, other: Client, name: str) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(3))
    with pytest.raises(ZeroDivisionError), taking.get_many(3, timeout=20) as some:
        raise ZeroDivisionError
    assert some[0] == 0
    assert sorted(drained(taking)) == [0, 1, 2]


def test_closing_gives_back_what_was_taken_and_not_done(client: Client, other: Client, name: str) -> None:
    with client.queue(name) as items:
        items.put_many(range(10))
        assert [items.get(timeout=20) for _ in range(3)] == [0, 1, 2]
        items.task_done()
    with pytest.raises(ConfigurationError, match="closed"):
        items.put(1)
    with pytest.raises(ConfigurationError, match="closed"):
        items.get()
    with pytest.raises(ConfigurationError, match="closed"):
        items.join()
    with pytest.raises(ConfigurationError, match="closed"):
        items.qsize()
    items.close()
    assert sorted(drained(other.queue(name))) == list(range(1, 10))


def test_an_item_that_goes_back_often_is_not_dropped(client: Client, name: str) -> None:
    items = client.queue(name)
    items.put("patient")
    # RabbitMQ 4 drops a message of a quorum queue the 21st time, unless told otherwise.
    for _ in range(25):
        with client.queue(name) as taking:
            assert taking.get(timeout=20) == "patient"
    assert drained(items) == ["patient"]


def test_what_is_done_when_the_client_is_closed_at_once_does_not_come_again(
    url: str, client: Client, name: str
) -> None:
    items = client.queue(name)
    items.put_many(range(100))
    with Client(url, timeout=20) as other:
        taking = other.queue(name)
        for _ in range(60):
            taking.get(timeout=20)
            taking.task_done()
    assert drained(items) == list(range(60, 100))
    items.join(timeout=20)


def test_an_object_that_nobody_holds_gives_back_what_it_held(client: Client, other: Client, name: str) -> None:
    items = other.queue(name)
    items.put(1)
    assert items.get(timeout=20) == 1
    del items
    gc.collect()
    assert drained(client.queue(name)) == [1]


def test_iteration_takes_until_the_object_is_closed(client: Client, name: str) -> None:
    items = client.queue(name)
    items.put_many(range(5))
    found = []
    closing = threading.Thread(target=lambda: (until(lambda: len(found) == 5), items.close()))
    closing.start()
    for item in items:
        found.append(item)
        items.task_done()
    closing.join(20)
    assert found == list(range(5))


def test_a_queue_that_a_handler_makes_keeps_the_time_of_its_client_and_each_use_has_what_is_left_to_the_call(
    client: Client, other: Client, serve: Callable[..., object], service: Service, name: str
) -> None:
    made: list[Queue[object]] = []

    @service.rpc
    def make() -> float:
        made.append(other.queue(name))
        return to_answer(20.0)

    serve(service)
    assert 0 < client.call(make, timeout=9) < 9
    assert {each._timeout for each in (made[0], made[0]._producer, made[0]._consumer)} == {20.0}


def test_who_waits_hears_that_the_client_is_closed(url: str, name: str) -> None:
    client = Client(url, timeout=20)
    items, raised = client.queue(name), []

    def wait() -> None:
        try:
            items.get()
        except ConfigurationError as error:
            raised.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: items._consumer.consuming)
    client.close()
    waiting.join(20)
    assert "closed" in raised[0]


def test_more_items_than_fit_into_any_prefetch_can_be_taken_before_one_is_done(
    client: Client, other: Client, name: str
) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(3 * PREFETCH))
    assert [taking.get(timeout=20) for _ in range(3 * PREFETCH)] == list(range(3 * PREFETCH))
    for _ in range(3 * PREFETCH):
        taking.task_done()
    items.join(timeout=20)


def test_more_threads_than_the_prefetch_hold_an_item_each(client: Client, other: Client, name: str) -> None:
    items, taking = client.queue(name), other.queue(name)
    together = threading.Barrier(21)
    items.put_many(range(20))

    def work() -> None:
        taking.get()
        together.wait(30)
        taking.task_done()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    together.wait(30)
    for thread in threads:
        thread.join(20)
    items.join(timeout=20)


def test_a_taker_that_holds_more_items_than_the_prefetch_gets_the_next_one_at_once(
    client: Client, other: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only another consumer lets it come, not another look after some seconds.
    monkeypatch.setattr(get, "_PATIENCE", 60.0)
    items, taking = client.queue(name), other.queue(name, prefetch=3)
    items.put_many(range(9))
    assert [taking.get(timeout=20) for _ in range(4)] == [0, 1, 2, 3]
    # It came by the first consumer, and makes no room in the second one.
    taking.task_done()
    assert [taking.get(timeout=20) for _ in range(5)] == [4, 5, 6, 7, 8]
    for _ in range(8):
        taking.task_done()
    items.join(timeout=20)


def test_a_taker_that_is_busy_holds_nothing_that_another_could_take(client: Client, other: Client, name: str) -> None:
    items, busy, idle = client.queue(name), client.queue(name), other.queue(name)
    items.put_many(range(200))
    # It keeps up at first, so that many items are prefetched; and then it stays with one.
    for _ in range(100):
        busy.get(timeout=20)
        busy.task_done()
    held = busy.get(timeout=20)
    assert sorted([held, *drained(idle, first=10)]) == list(range(100, 200))
    busy.task_done()
    items.join(timeout=20)


def test_an_item_that_nobody_waits_for_any_more_goes_back(client: Client, other: Client, name: str) -> None:
    items, first, second = client.queue(name), client.queue(name), other.queue(name)
    items.put_many([1, 2])
    assert first.get(timeout=20) == 1
    first.task_done()
    assert second.get(timeout=20) == 2


def test_an_object_that_is_given_to_another_process_says_what_to_do(client: Client, name: str) -> None:
    with pytest.raises(TypeError, match="each process makes its own client"):
        pickle.dumps(client.queue(name))


def test_from_asyncio_items_are_taken_in_threads_and_done_by_their_names(client: Client, name: str) -> None:
    items = client.queue(name)

    async def work() -> list[object]:
        await asyncio.to_thread(items.put_many, range(5))
        found = [await asyncio.to_thread(items.get, timeout=20.0) for _ in range(5)]
        for item in found:
            items.task_done(item)
        await asyncio.to_thread(items.join, timeout=20.0)
        return found

    assert asyncio.run(work()) == [*range(5)]


def test_an_asyncio_task_awaits_what_a_thread_waits_for(url: str, client: Client, name: str) -> None:
    async def work() -> None:
        async with AsyncClient(url, timeout=20) as asynchronous, asynchronous.queue(name, 10) as items:
            assert repr(items) == f"AsyncQueue({name!r}, maxsize=10)"
            assert await items.empty()
            await items.put(0)
            await items.put_many(range(1, 5))
            await items.put_nowait(5)
            assert not await items.full()
            found = [await items.get(timeout=20.0), await items.get_nowait()]
            with pytest.raises(NotDone):
                await items.join(timeout=0.1)
            for _ in found:
                items.task_done()
            with pytest.raises(ValueError, match="too many times"):
                items.task_done()
            async with items.get_many(2, timeout=20.0) as some:
                found += some
            async for item in items:
                items.task_done(item)
                found.append(item)
                if len(found) == 6:
                    break
            assert found == list(range(6))
            await items.join(timeout=20.0)
            with pytest.raises(queue.Empty):
                await items.get_nowait()
        with pytest.raises(ConfigurationError, match="closed"):
            await items.get()

    asyncio.run(work())


def test_a_thousand_asyncio_tasks_wait_without_a_thread_and_each_is_done_with_its_own(
    url: str, client: Client, name: str
) -> None:
    async def work() -> list[object]:
        async with AsyncClient(url, timeout=20) as asynchronous:
            items = asynchronous.queue(name)

            async def take() -> object:
                item = await items.get()
                items.task_done()
                return item

            putting = asynchronous.queue(name)
            await putting.put(0)
            threads = threading.active_count()
            tasks = [asyncio.create_task(take()) for _ in range(1000)]
            await putting.put_many(range(1, 1000))
            found = await asyncio.gather(*tasks)
            await putting.join(timeout=20.0)
            assert threading.active_count() == threads
            return found

    assert sorted(asyncio.run(work())) == list(range(1000))


def test_an_asyncio_task_that_is_cancelled_takes_no_item(url: str, client: Client, name: str) -> None:
    async def work() -> None:
        async with AsyncClient(url, timeout=20) as asynchronous:
            items = asynchronous.queue(name)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await items.get()
            await items.put("later")
            assert await items.get(timeout=20.0) == "later"
            items.task_done()
            await items.join(timeout=20.0)

    asyncio.run(work())


def test_an_asyncio_loop_over_items_ends_when_the_object_is_closed(url: str, client: Client, name: str) -> None:
    async def work() -> list[object]:
        found: list[object] = []
        async with AsyncClient(url, timeout=20) as asynchronous:
            items = asynchronous.queue(name)

            async def take_all() -> None:
                async for item in items:
                    found.append(item)
                    items.task_done()

            taking = asyncio.create_task(take_all())
            await items.put_many(range(3))
            await items.join(timeout=20.0)
            await items.close()
            await taking
        return found

    assert asyncio.run(work()) == [0, 1, 2]


def test_ctrl_c_ends_a_get_that_waits(url: str, name: str) -> None:
    with taker(url, name) as process:
        until(lambda: consumes(url, name), timeout=30)
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.returncode in (130, -signal.SIGINT)


def consumes(url: str, name: str) -> bool:
    with Client(url) as client:
        state = client.queue_states([name])[name]
        return state is not None and state.consumers == 1


def test_what_can_not_be_put_is_said(client: Client, name: str) -> None:
    items = client.queue(name)
    with pytest.raises(Unencodable):
        items.put(object())
    with pytest.raises(Unencodable) as raised:
        items.put_many([1, object()])
    assert "1 item was put" in raised.value.__notes__[0]
    assert items.get(timeout=20) == 1
    items.task_done()
    items.join(timeout=20)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_who_ends_while_a_full_queue_has_no_room_does_not_wait_for_it(
    client: Client, name: str, error: type[BaseException]
) -> None:
    items = client.queue(name, maxsize=3, queue_type="classic")
    raised: list[BaseException] = []

    def fill() -> None:
        while True:
            items.put_nowait("before")

    with pytest.raises(queue.Full):
        fill()

    def some() -> Iterator[int]:
        yield from range(2)
        raise error

    def work() -> None:
        try:
            items.put_many(some())
        except BaseException as caught:
            raised.append(caught)

    putting = threading.Thread(target=work, daemon=True)
    putting.start()
    putting.join(20)
    assert [type(each) for each in raised] == [error]
    assert raised[0].__notes__ == [f"0 items were put into queue {name!r} before, 2 were not"]
    assert drained(items) == ["before"] * 3
    items.join(timeout=20)


def test_what_a_generator_has_put_before_it_raises_is_said(client: Client, name: str) -> None:
    items = client.queue(name)

    def some() -> Iterator[int]:
        yield from range(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        items.put_many(some())
    assert raised.value.__notes__ == [f"3 items were put into queue {name!r} before"]
    assert drained(items) == [0, 1, 2]


def test_many_items_for_a_full_queue_are_put_as_there_is_room_or_said_not_to_be(
    client: Client, other: Client, name: str
) -> None:
    items, taking = client.queue(name, maxsize=5), other.queue(name, maxsize=5)
    with pytest.raises(NotAllAccepted, match="were not put") as raised:
        items.put_many(range(50), timeout=4)
    refused = set(raised.value.errors)
    assert sorted(drained(taking)) == sorted(set(range(50)) - refused)
    items.join(timeout=20)
    waiting = threading.Thread(target=items.put_many, args=(range(100),))
    waiting.start()
    assert sorted(drained(taking)) == list(range(100))
    waiting.join(20)


def test_an_item_of_another_program_is_read_by_its_content_type(client: Client, raw: Raw, name: str) -> None:
    items = client.queue(name)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    raw.send(name, b"plain")
    raw.send(name, "tëxt".encode(), content_type="text/plain; charset=utf-8")
    raw.send(name, b'{"a": [1, null]}', content_type="application/json", reply_to=raw.reply_queue, message_id="7")
    assert [items.get(timeout=20) for _ in range(3)] == ["plain", "tëxt", {"a": [1, None]}]
    for _ in range(3):
        items.task_done()
    items.close()
    raw.connection.process_data_events(0.2)
    assert raw.replies == []
    assert raw.count(name) == 0


def test_our_items_can_be_read_by_other_programs(client: Client, raw: Raw, name: str) -> None:
    client.queue(name).put({"n": 1})
    properties, body = raw.get(name)
    assert (properties.content_type, properties.delivery_mode, properties.type) == ("application/msgpack", 2, "item")
    assert body == b"\x81\xa1n\x01"


def test_what_can_not_be_read_is_a_dead_letter_and_the_next_item_is_returned(
    client: Client, raw: Raw, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    items = client.queue(name)
    items.put("first")
    raw.send(name, b"\xc1", content_type="application/msgpack", message_id="theirs")
    raw.send(name, b"x", content_type="image/png")
    raw.send(name, b"x", content_encoding="gzip")
    raw.send(name, b"last")
    assert drained(items) == ["first", "last"]
    letters = client.dead_letters(name).list()
    assert len(letters) == 3
    assert {letter.queue for letter in letters} == {name}
    assert any("image/png" in letter.reason for letter in letters)
    assert "dead-lettered an item" in caplog.text


def test_a_get_is_over_in_time_where_a_dead_letter_takes_longer(
    client: Client, raw: Raw, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = client.queue(name)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    declare = Declarations.declare

    async def slowly(self: Declarations, message: Message, arguments: dict[str, Any] | None) -> None:
        await self._connection.pause(2.0)
        await declare(self, message, arguments)

    monkeypatch.setattr(Declarations, "declare", slowly)
    raw.send(name, b"x", content_type="image/png")
    with pytest.raises(queue.Empty):
        items.get(timeout=0.5)
    assert "dead-lettered" not in caplog.text
    until(lambda: "dead-lettered an item" in caplog.text, timeout=30, what="the dead letter")
    items.close()
    assert raw.count(name) == 0
    [letter] = client.dead_letters(name).list()
    assert "image/png" in letter.reason


@pytest.mark.parametrize("theirs", [{}, {"x-queue-type": "quorum"}, {"x-max-length": 3}])
def test_a_queue_that_another_program_declared_differently_is_said_to_be(
    client: Client, raw: Raw, name: str, theirs: dict[str, object]
) -> None:
    raw.channel.queue_declare(name, durable=True, arguments=theirs)
    items = client.queue(name)
    for use in (items.get, items.get_nowait, lambda: items.get(timeout=5), lambda: items.put(1), items.get):
        with pytest.raises(ConfigurationError, match=f"{name}' exists with other arguments .* inequivalent arg"):
            use()


def test_a_queue_that_another_connection_has_for_itself_is_said_to_be(client: Client, raw: Raw, name: str) -> None:
    raw.channel.queue_declare(name, exclusive=True)
    items = client.queue(name)
    for use in (items.get, items.get_nowait, lambda: items.put(1), items.get):
        with pytest.raises(ConfigurationError, match=f"{name}' exists with other arguments .* exclusive access"):
            use()


THEIRS: dict[str, dict[str, Any]] = {
    "classic": {"durable": True, "arguments": {"x-queue-type": "classic"}},
    "not durable": {"durable": False},
    "with a bound": {"durable": True, "arguments": {"x-max-length": 100, "x-overflow": "reject-publish"}},
    "quorum": {"durable": True, "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 5}},
}


@pytest.mark.parametrize("how", THEIRS)
def test_a_queue_that_another_program_declares_is_used_as_it_is(client: Client, raw: Raw, name: str, how: str) -> None:
    theirs = THEIRS[how]
    raw.channel.queue_declare(name, **theirs)
    raw.send(name, b"theirs")
    items = client.queue(name, declare="passive")
    items.put("one")
    items.put_many(["two", "three"])
    assert drained(items) == ["theirs", "one", "two", "three"]
    items.join(timeout=20)
    raw.send(name, b"x", content_type="image/png")
    raw.send(name, b"last")
    assert items.get(timeout=20) == "last"
    items.task_done()
    assert len(client.dead_letters(name).list()) == 1
    items.close()
    # It is as it was.
    raw.channel.queue_declare(name, **theirs)


def test_a_bound_that_another_program_has_given_its_queue_is_kept(client: Client, raw: Raw, name: str) -> None:
    raw.channel.queue_declare(name, durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    items = client.queue(name, declare="passive")
    items.put_many([1, 2], timeout=20)
    with pytest.raises(queue.Full):
        items.put_nowait(3)
    with pytest.raises(queue.Full):
        items.put(3, timeout=0.2)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(items.put, 3, timeout=20)
        assert items.get(timeout=20) == 1
        waiting.result()
    items.task_done()
    assert drained(items) == [2, 3]


def test_a_queue_that_another_program_has_not_declared_is_missing(client: Client, raw: Raw, name: str) -> None:
    items = client.queue(name, declare="passive")
    for use in (items.get, items.get_nowait, lambda: items.put(1), lambda: items.put_many([1, 2]), items.get):
        with pytest.raises(ConfigurationError, match=f"there is no queue '{name}', and declare='passive'"):
            use()
    assert items.qsize() == 0
    raw.channel.queue_declare(name, durable=True)
    items.put(1, timeout=20)
    assert items.get(timeout=20) == 1


def test_an_asyncio_client_uses_one_as_it_is(url: str, raw: Raw, name: str) -> None:
    raw.channel.queue_declare(name, durable=False)

    async def main() -> None:
        async with AsyncClient(url) as client, client.queue(name, declare="passive") as items:
            await items.put(1)
            assert await items.get(timeout=20) == 1
            items.task_done()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"declare": "no"}, '"active" .* or "passive"'),
        ({"declare": "passive", "maxsize": 5}, "another program declares"),
    ],
)
def test_who_declares_a_queue_is_said_in_one_way(client: Client, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        client.queue("x", **options)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_both_types_of_queue_do(client: Client, raw: Raw, name: str, kind: str) -> None:
    items = client.queue(name, 100, queue_type=kind)
    items.put_many(range(20))
    assert drained(items) == list(range(20))
    items.join(timeout=20)
    # As it says: the same arguments, or the broker refuses.
    raw.channel.queue_declare(name, durable=True, arguments=item_arguments(kind, maxsize=100))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("",), "has a name"),
        (("x" * 251,), "at most 255 bytes"),
        (("\ud800",), "UTF-8"),
        (("x", 1.5), "whole number"),
        (("x", 2**63), "at most"),
        (("x", 0, "stream"), "quorum"),
    ],
)
def test_a_name_or_a_size_that_there_is_not_is_said_at_once(
    client: Client, arguments: tuple[object, ...], why: str
) -> None:
    name, maxsize, kind = (*arguments, 0, "quorum")[:3] if len(arguments) < 3 else arguments
    with pytest.raises(ConfigurationError, match=why):
        client.queue(name, 0 if maxsize == "quorum" else maxsize, queue_type=kind)


def test_without_a_broker_nothing_hangs() -> None:
    with Client("amqp://127.0.0.1:1/", timeout=5) as client:
        items = client.queue("nobody")
        for use in (items.get, items.get_nowait, lambda: items.put(1), items.qsize):
            with pytest.raises(NotConnected):
                use()


# Faults.


def test_the_item_of_a_taker_that_is_killed_goes_to_another_and_join_waits_for_that(
    url: str, client: Client, name: str
) -> None:
    items = client.queue(name)
    items.put_many(["a", "b", "c"])
    with taker(url, name, done=1) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == ["a\n", "b\n"]
        with pytest.raises(NotDone):
            items.join(timeout=0.1)
        process.kill()
        process.wait(20)
    assert sorted(drained(items)) == ["b", "c"]
    items.join(timeout=20)


def test_join_is_over_when_another_process_is_done_with_what_a_killed_one_had(
    url: str, client: Client, name: str
) -> None:
    items = client.queue(name)
    items.put_many(["a", "b", "c"])
    with taker(url, name, done=1) as killed:
        assert killed.stdout is not None
        assert [killed.stdout.readline(), killed.stdout.readline()] == ["a\n", "b\n"]
        waiting = threading.Thread(target=items.join)
        waiting.start()
        killed.kill()
        killed.wait(20)
    with taker(url, name, done=3) as another:
        waiting.join(60)
        assert not waiting.is_alive()
        assert another.stdout is not None
        assert sorted(another.stdout.readline() for _ in range(2)) == ["b\n", "c\n"]


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_a_taker_takes_on_when_its_queue_is_deleted(
    client: Client, other: Client, raw: Raw, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    items, taking = client.queue(name, queue_type=kind), other.queue(name, queue_type=kind)
    items.put(1)
    assert taking.get(timeout=20) == 1
    raw.channel.queue_delete(name)
    # If a quorum queue is declared again at once, RabbitMQ 3.10 does not notify its consumers.
    until(lambda: "consumer cancelled by the broker" in caplog.text)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(taking.get(timeout=60)))
    waiting.start()
    items.put(2)
    waiting.join(60)
    assert found == [2]


def test_join_says_how_many_items_it_can_not_follow_after_a_lost_connection(
    client: Client, other: Client, name: str
) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(["one", "two", "three"])
    taking.get(timeout=20)
    taking.task_done()
    until(lambda: len(items._producer.unfinished) == 2, what="the first receipt")
    drop(client)
    with pytest.raises(ConnectionLost, match="whether 2 items are done"):
        items.join(timeout=30)
    # Once, and from then on all is as before.
    assert drained(taking) == ["two", "three"]
    items.join(timeout=20)
    items.put("after")
    with pytest.raises(NotDone):
        items.join(timeout=0.1)
    taking.get(timeout=20)
    taking.task_done()
    items.join(timeout=20)


def test_join_keeps_what_it_does_not_know_until_all_others_are_done(client: Client, name: str) -> None:
    items = client.queue(name)
    items.put("before")
    items._producer.unfinished.lose()
    items.put("after")
    with pytest.raises(NotDone, match="1 item was not done"):
        items.join(timeout=0.1)
    for _ in range(2):
        items.get(timeout=20)
        items.task_done()
    with pytest.raises(ConnectionLost, match="whether 1 item is done"):
        items.join(timeout=20)
    items.join(timeout=20)


def test_after_a_taker_s_lost_connection_its_items_are_redelivered_and_join_goes_on(
    client: Client, other: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    items, taking = client.queue(name), other.queue(name)
    items.put_many(range(3))
    assert taking.get(timeout=30) == 0
    held = held_by(taking)
    drop(other)
    until(lambda: not held.delivery.channel.is_open, what="the connection to be lost")
    with caplog.at_level(logging.WARNING, logger="amqp_rpc"):
        taking.task_done()
    assert "the broker redelivers them" in caplog.text
    with pytest.raises(NotDone, match="3 items"):
        items.join(timeout=0.1)
    assert sorted(drained(taking, first=20)) == [0, 1, 2]
    items.join(timeout=30)


def test_after_an_alarm_in_the_middle_of_the_connection_s_work_what_was_taken_is_anothers(
    client: Client, other: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """pika's object is dropped then, without a notice that its channels are closed."""
    items, taking = other.queue(name), client.queue(name)
    items.put_many(["a", "b"])
    assert taking.get(timeout=20) == "a"
    held = held_by(taking)

    def cut() -> None:
        # As a signal handler that raises would: signals come to the main thread.
        if threading.current_thread() is threading.main_thread():
            raise ZeroDivisionError

    connection = client._session.connection
    assert connection is not None
    with pytest.raises(ZeroDivisionError):
        until(lambda: connection.loop.do(cut), what="this thread to be at work")  # type: ignore[func-returns-value]
    assert not held.delivery.channel.is_open
    with caplog.at_level(logging.WARNING, logger="amqp_rpc"):
        # By the next connection; the receipt of the first would never be confirmed.
        assert sorted(str(taking.get(timeout=20)) for _ in range(2)) == ["a", "b"]
        taking.task_done()
        assert "the broker redelivers them" in caplog.text
        taking.task_done()
        taking.close()
    assert "closed before the broker had" not in caplog.text
    assert len(drained(items)) == 1


def test_what_is_done_while_its_putter_is_away_is_not_known_when_it_is_back(node: Node, queue_name: str) -> None:
    with Client(node.url, timeout=60) as client, Client(node.url, timeout=60) as other:
        items, taking = client.queue(queue_name), other.queue(queue_name)
        items.put_many(range(20))
        # Of the two connections it is the putter's that breaks, and stays away while all is done.
        connection = client._session.connection
        assert connection is not None
        pause = threading.Event()
        connection.post(lambda: (connection._stream.abort(ConnectionAbortedError("test")), pause.wait(60)))
        assert drained(taking, wait=2) == list(range(20))
        other.close()
        pause.set()
        with pytest.raises(ConnectionLost, match="whether 20 items are done"):
            items.join(timeout=30)


@pytest.mark.ends_node
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_items_survive_the_end_of_the_broker_and_join_says_what_it_can_not_know(
    node: Node, queue_name: str, end: str
) -> None:
    with Client(node.url, timeout=60) as client, Client(node.url, timeout=60) as other:
        items, taking = client.queue(queue_name), other.queue(queue_name)
        items.put_many(range(100))
        held = [taking.get(timeout=30) for _ in range(10)]
        for _ in range(5):
            taking.task_done()
        getattr(node, end)()
        node.start()
        for _ in range(5):
            taking.task_done()
        found = drained(taking, first=30)
        # The last acks may be lost; all other items arrive, and the open ones come again.
        assert set(range(100)) - set(held[:5]) <= set(found) <= set(range(100))
        # Of the five that were done before, any number may be known.
        with pytest.raises(ConnectionLost, match=r"whether (9[5-9]|100) items are done"):
            items.join(timeout=60)
        items.put("after")
        assert taking.get(timeout=30) == "after"
        taking.task_done()
        items.join(timeout=60)


@pytest.mark.ends_node
def test_what_is_put_while_the_broker_is_away_is_there_when_it_is_back(node: Node, queue_name: str) -> None:
    with Client(node.url, timeout=90) as client:
        items = client.queue(queue_name)
        items.put(1)
        assert items.get(timeout=30) == 1
        node.stop()
        with pytest.raises(NotConnected):
            items.get(timeout=0.5)
        with pytest.raises(NotConnected):
            items.put(2, timeout=0.5)
        waiting = threading.Thread(target=items.put, args=(3,))
        waiting.start()
        node.start()
        waiting.join(90)
        found = drained(items, first=30)
        assert 3 in found
        assert set(found) <= {1, 3}


def test_a_user_needs_permission_for_the_queue_and_for_a_reply_queue(node: Node) -> None:
    node.ctl("add_user", "tmine", "secret")
    url = node.url.replace("guest:guest", "tmine:secret")
    node.ctl("set_permissions", "tmine", "^(amq.gen|mine)", ".*", ".*")
    with Client(url, timeout=60) as client:
        client.queue("mine").put(1)
        assert drained(client.queue("mine")) == [1]
        for use in (lambda: client.queue("others").put(1), client.queue("others").get):
            with pytest.raises(AccessRefused, match=r"403 ACCESS_REFUSED"):
                use()
    node.ctl("set_permissions", "tmine", "^mine", ".*", ".*")
    with Client(url, timeout=60) as client:
        for _ in range(2):
            with pytest.raises(AccessRefused, match=r"403 ACCESS_REFUSED"):
                client.queue("mine").put(1)


def test_a_broker_that_takes_no_messages_is_said_to_be(node: Node, queue_name: str) -> None:
    with Client(node.url, timeout=60) as client:
        items = client.queue(queue_name)
        items.put(1)
        node.ctl("set_vm_memory_high_watermark", "absolute", "1")
        # The first may go out before the broker says so: then it is not known whether it has it.
        with pytest.raises((ConnectionLost, PublishRefused)):
            items.put(2, timeout=1)
        with pytest.raises(PublishRefused, match="takes no messages"):
            items.put(2, timeout=1)
        node.ctl("set_vm_memory_high_watermark", "0.8")
        items.put(3, timeout=60)
        assert 3 in drained(items, first=20)
