"""The client for asyncio: its calls, tasks and events end on the event loop, without a thread for each."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from amqp_rpc import AsyncClient, BrokerError, NotConnected, NotSent, Overloaded, RemoteError, Server, Service
from amqp_rpc.client.bridge import Bridge

Serve = Callable[..., Server]

MANY = 10_000


def refuse_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have asyncio's default thread pool refuse all work."""

    def refuse(*_: object) -> None:
        raise AssertionError("asyncio's default thread pool was used")

    monkeypatch.setattr(asyncio, "to_thread", refuse)
    monkeypatch.setattr("asyncio.base_events.BaseEventLoop._check_default_executor", refuse)


def test_ten_thousand_calls_and_tasks_are_in_flight_at_the_same_time(
    url: str, serve: Serve, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_default_threads(monkeypatch)
    queue = f"t{secrets.token_hex(6)}"

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    @service.task(queue=queue, result=False)
    def work(n: int) -> None: ...

    serve(service)

    async def main() -> None:
        async with AsyncClient(url, timeout=100) as client, asyncio.timeout(100):
            threads = threading.active_count()
            assert await asyncio.gather(*(client.call(double, n) for n in range(MANY))) == [2 * n for n in range(MANY)]
            handles = await asyncio.gather(*(client.enqueue(work, n) for n in range(MANY)))
            assert len({handle.id for handle in handles}) == MANY
            ids = await asyncio.gather(*(client.publish("tnobody", n) for n in range(MANY)))
            assert len(set(ids)) == MANY
            # The connection's own is one more.
            assert threading.active_count() <= threads + 1

    asyncio.run(main())


def test_nothing_takes_a_thread_of_asyncio(
    url: str, serve: Serve, service: Service, queue_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_default_threads(monkeypatch)
    results = f"sqlite:///{tmp_path / 'results.db'}"

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    @service.task(queue=queue_name)
    def work(n: int) -> int:
        return n

    serve(service, results=results)

    async def main() -> None:
        async with AsyncClient(url, timeout=60, results=results) as client, asyncio.timeout(60):
            assert [n async for n in client.map(double, range(5), chunksize=2)] == [0, 2, 4, 6, 8]
            handle, *_ = await client.enqueue_many(work, [(n,) for n in range(5)])
            assert await handle.result() == 0
            assert await client.task(handle.id).result() == 0
            assert await client.task(handle.id).state == "SUCCESS"
            assert await handle.ready()
            assert len(await client.publish_many([("tnobody", n) for n in range(5)])) == 5
            assert await client.queue_states([f"{queue_name}.items"]) == {f"{queue_name}.items": None}
            assert await client.dead_letters(queue_name).list() == []
            async with client.queue(f"{queue_name}.items") as items:
                await items.put(1)
                assert await items.get() == 1
                items.task_done()
                await items.join()

    asyncio.run(main())


def test_more_calls_than_there_is_room_for_wait_without_threads(
    url: str, serve: Serve, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_default_threads(monkeypatch)

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)

    async def main() -> None:
        async with AsyncClient(url, timeout=60, max_pending=10) as client, asyncio.timeout(60):
            calls = [client.submit(double, n) for n in range(1000)]
            assert await asyncio.gather(*calls) == [2 * n for n in range(1000)]
            assert [n async for n in client.map(double, range(1000), in_flight=500)] == [2 * n for n in range(1000)]

    asyncio.run(main())


def test_a_call_that_waits_for_room_ends_at_its_deadline_or_when_it_is_cancelled(
    url: str, serve: Serve, service: Service
) -> None:
    go_on = threading.Event()

    @service.rpc
    def hold() -> str:
        assert go_on.wait(30)
        return "done"

    serve(service)

    async def main() -> None:
        async with AsyncClient(url, timeout=30, max_pending=1) as client:
            first = client.submit(hold)
            with pytest.raises(Overloaded, match="1 call is in flight") as caught:
                await client.with_options(timeout=0.2).call(hold)
            assert not caught.value.may_have_run
            cancelled, last = client.submit(hold), client.submit(hold)
            assert cancelled.cancel()
            go_on.set()
            assert [await first, await last] == ["done", "done"]
            assert cancelled.cancelled()

    asyncio.run(main())


def test_a_cancelled_call_makes_room_for_the_next_one(url: str, serve: Serve, service: Service) -> None:
    go_on = threading.Event()

    @service.rpc
    def hold() -> str:
        assert go_on.wait(30)
        return "done"

    serve(service)

    async def main() -> None:
        async with AsyncClient(url, timeout=30, max_pending=1) as client:
            first, second = client.submit(hold), client.submit(hold)
            await asyncio.sleep(0)
            first.cancel()
            go_on.set()
            assert await second == "done"

    asyncio.run(main())


def test_errors_come_to_the_event_loop(url: str, serve: Serve, service: Service) -> None:
    @service.rpc
    def fail() -> None:
        raise ValueError("no")

    serve(service)

    async def main() -> None:
        async with AsyncClient(url, timeout=10) as client:
            with pytest.raises(RemoteError, match="no"):
                await client.call(fail)
            with pytest.raises(ValueError, match="no"):
                await client.submit(fail)
        async with AsyncClient("amqp://127.0.0.1:1/", timeout=5) as client:
            for awaitable in (
                client.call("fib", 1),
                client.enqueue("work"),
                client.publish("a"),
                client.queue_states(["q"]),
            ):
                with pytest.raises(NotConnected):
                    await awaitable

    asyncio.run(main())


def test_a_client_serves_one_event_loop_after_another(url: str, serve: Serve, service: Service) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    client = AsyncClient(url, timeout=20)

    async def one() -> int:
        return await client.call(double, 4)

    async def end() -> None:
        await client.close()

    assert [asyncio.run(one()), asyncio.run(one())] == [8, 8]
    asyncio.run(end())


def test_a_burst_wakes_the_event_loop_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bridge = Bridge(loop)
        futures = [loop.create_future() for _ in range(100)]
        wakes: list[object] = []

        wake = loop.call_soon_threadsafe

        def counted(*args: object) -> object:
            wakes.append(args)
            return wake(*args)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        burst = threading.Thread(target=lambda: [bridge.post(future) for future in futures])
        burst.start()
        burst.join()
        await asyncio.gather(*futures)
        assert len(wakes) == 1

    asyncio.run(main())


def test_what_arrives_for_an_event_loop_that_is_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    bridge, future = Bridge(loop), loop.create_future()
    loop.close()
    bridge.post(future)
    assert not future.done()


def test_deadlines_hold_though_the_io_thread_is_stuck(url: str, serve: Serve, service: Service) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    stuck, go_on = threading.Event(), threading.Event()

    def stick() -> None:
        stuck.set()
        go_on.wait(30)

    async def main() -> None:
        async with AsyncClient(url, timeout=20) as client:
            assert await client.call(double, 1) == 2
            client._runner.session.connection.post(stick)
            assert stuck.wait(20)
            with pytest.raises(NotSent):
                await client.with_options(timeout=0.3).call(double, 1)
            with pytest.raises(BrokerError):
                await client.with_options(timeout=0.3).enqueue("work")
            go_on.set()

    asyncio.run(main())
