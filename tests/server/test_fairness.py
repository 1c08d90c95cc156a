"""A worker that is busy with a slow task has no other one meanwhile: what waits, waits where a free worker takes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from amqp_rpc import Client, Server, Service, context
from tests.programs import serving
from tests.served_by import Raw, declare_dead
from tests.server.test_time_limits import LIMITED, lines
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_while_one_server_is_busy_the_other_one_gets_all_tasks(
    client: Client, serve: Serve, raw: Raw, queue: str, release: threading.Event, queue_type: str, asynchronous: bool
) -> None:
    busy: list[str] = []
    quick: list[str] = []

    def worker(name: str) -> Service:
        service = Service(name)
        options = {"queue": queue, "queue_type": queue_type}
        if asynchronous:

            @service.task(**options)
            async def slow_async() -> None:
                busy.append(name)
                release.wait()

        else:

            @service.task(**options)
            def slow() -> None:
                busy.append(name)
                release.wait()

        @service.task(**options)
        def short() -> None:
            quick.append(name)

        return service

    for name in ("a", "b"):
        serve(worker(name), threads=1)
    slow = client.enqueue("slow_async" if asynchronous else "slow", queue=queue)
    until(lambda: busy)
    handles = [client.enqueue("short", queue=queue) for _ in range(20)]
    for handle in handles:
        assert handle.result(timeout=20) is None
    assert quick == [{"a": "b", "b": "a"}[busy[0]]] * 20
    assert not slow.ready()
    assert raw.count(queue) == 0
    release.set()
    assert slow.result(timeout=20) is None


def test_of_two_processes_the_free_one_gets_all_tasks(url: str, client: Client, raw: Raw, tmp_path: Path) -> None:
    declare_dead(raw, LIMITED)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    gate.touch()
    with serving("tests.served", "--processes", "2", "--threads", "1", url=url):
        slow = client.enqueue("note_until", str(path), str(gate), queue=LIMITED)
        until(lambda: lines(path))
        ((_, busy),) = lines(path)
        handles = [client.enqueue("note_until", str(path), str(tmp_path / "none"), queue=LIMITED) for _ in range(10)]
        pids = {handle.result(timeout=20) for handle in handles}
        assert len(pids) == 1
        assert busy not in pids
        gate.unlink()
        assert slow.result(timeout=20) == busy


def test_with_all_threads_but_one_busy_a_server_has_no_more_than_it_runs(
    client: Client, serve: Serve, raw: Raw, service: Service, queue: str, release: threading.Event
) -> None:
    began = []

    @service.task(queue=queue)
    def slow() -> None:
        began.append(1)
        release.wait()

    serve(service, threads=3)
    handles = [client.enqueue(slow) for _ in range(5)]
    until(lambda: len(began) == 3 and raw.count(queue) == 2)
    release.set()
    for handle in handles:
        handle.result(timeout=20)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_server_of_two_queues_gives_back_what_waits_behind_a_slow_task_of_the_other(
    client: Client, serve: Serve, raw: Raw, queue: str, release: threading.Event, queue_type: str
) -> None:
    other = f"{queue}.other"
    declare_dead(raw, other)
    busy: list[str] = []
    quick: list[tuple[str, int]] = []

    def worker(name: str) -> Service:
        service = Service(name)

        @service.task(queue=queue)
        def slow() -> None:
            busy.append(name)
            release.wait()

        @service.task(queue=other, queue_type=queue_type)  # type: ignore[arg-type] # it is one of the two
        def short() -> None:
            quick.append((name, context().attempt))

        return service

    for name in ("a", "b"):
        serve(worker(name), threads=1)
    client.enqueue("slow", queue=queue)
    until(lambda: busy)
    handles = [client.enqueue("short", queue=other) for _ in range(20)]
    for handle in handles:
        assert handle.result(timeout=20) is None
    assert quick == [({"a": "b", "b": "a"}[busy[0]], 1)] * 20
