"""An attempt ends at its time limit, whatever its handler does: settled once, with a log line if it can't be ended."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amqp_rpc import Client, RemoteError, Server, Service, TimeLimitExceeded, context
from amqp_rpc.cli.exits import Exit
from tests.programs import Program, serving
from tests.served_by import Raw, dead_letter, declare_dead
from tests.waiting import until

Serve = Callable[..., Server]
LIMITED = "tserved_limited"


def test_a_thread_that_is_over_its_limit_is_settled_without_it_and_the_pool_goes_on(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    raw: Raw,
    release: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = threading.Event()

    @service.task(queue=queue, retries=0, time_limit=0.2)
    def stay() -> str:
        release.wait()
        ended.set()
        return "late"

    @service.task(queue=queue)
    def quick() -> int:
        return 1

    server = serve(service, threads=1)
    stuck: list[int] = []
    server.on_stuck = stuck.append
    began = time.monotonic()
    handle = client.enqueue(stay)
    with pytest.raises(TimeLimitExceeded, match=r"stay\(\) took longer than its time limit of 0.2 s") as raised:
        handle.result(timeout=20)
    assert time.monotonic() - began >= 0.2
    assert isinstance(raised.value, RemoteError)
    assert isinstance(raised.value, TimeoutError)
    headers = dead_letter(raw, queue).headers
    assert headers["reason"] == "TimeLimitExceeded: stay() took longer than its time limit of 0.2 s"
    assert (headers["attempt"], headers["crashes"]) == (1, 0)
    assert "release.wait()" in headers["traceback"]
    # Its thread is taken, and the only one: another has its place.
    assert client.enqueue(quick).result(timeout=20) == 1
    until(lambda: stuck == [1])
    assert "its handler can't be ended" in caplog.text
    before = server.counters.copy()
    with caplog.at_level(logging.WARNING):
        release.set()
        assert ended.wait(20)
        until(lambda: "ended with a result" in caplog.text)
    assert [client.enqueue(quick).result(timeout=20) for _ in range(3)] == [1] * 3
    before["result"] += 3
    assert server.counters == before


def test_a_try_over_its_limit_is_tried_again_and_only_the_other_try_counts(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    release: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1), retry_for=(TimeLimitExceeded,), time_limit=0.3)
    def stay() -> int:
        attempt = context().attempt
        if attempt == 1:
            release.wait()
            raise ValueError("late")
        return attempt

    server = serve(service, threads=1)
    assert client.enqueue(stay).result(timeout=20) == 2
    release.set()
    until(lambda: "ended with ValueError" in caplog.text)
    assert (server.counters["retried"], server.counters["result"], server.counters["failed"]) == (1, 1, 0)


def test_no_more_threads_are_given_up_than_the_pool_has_and_one_that_comes_back_serves_on(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    release: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @service.task(queue=queue, retries=0, time_limit=0.2)
    def stay() -> None:
        release.wait()

    @service.task(queue=queue)
    def quick() -> int:
        return 1

    server = serve(service, threads=2)
    stuck: list[int] = []
    server.on_stuck = stuck.append
    for handle in [client.enqueue(stay) for _ in range(4)]:
        with pytest.raises(TimeLimitExceeded):
            handle.result(timeout=20)
    until(lambda: sorted(stuck) == [1, 2, 3, 4])
    assert caplog.text.count("no other thread replaces it") == 2
    waits = client.enqueue(quick)
    assert not waits.ready()
    release.set()
    assert waits.result(timeout=20) == 1
    assert [client.enqueue(quick).result(timeout=20) for _ in range(9)] == [1] * 9


def test_a_coroutine_is_cancelled_at_its_limit_and_may_clean_up(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    cleaned = threading.Event()

    @service.task(queue=queue, retries=0, time_limit=0.2)
    async def stay() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    serve(service)
    with pytest.raises(TimeLimitExceeded):
        client.enqueue(stay).result(timeout=20)
    assert cleaned.is_set()
    headers = dead_letter(raw, queue).headers
    assert headers["reason"].startswith("TimeLimitExceeded: stay()")
    assert "await asyncio.Event().wait()" in headers["traceback"]
    assert "can't be ended" not in caplog.text


def test_a_coroutine_that_ends_after_it_was_cancelled_has_failed_whatever_it_returns(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    @service.task(queue=queue, retries=0, time_limit=0.1)
    async def returns() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 1
        return 0

    @service.task(queue=queue, retries=0, time_limit=0.1)
    async def raises() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    @service.task(queue=queue, retries=0, time_limit=20)
    async def raises_in_time() -> None:
        raise TimeoutError("its own")

    serve(service)
    for task in (returns, raises):
        with pytest.raises(TimeLimitExceeded):
            client.enqueue(task).result(timeout=20)
    with pytest.raises(TimeoutError, match="its own") as raised:
        client.enqueue(raises_in_time).result(timeout=20)
    assert not isinstance(raised.value, TimeLimitExceeded)


def test_a_coroutine_that_does_not_end_is_settled_without_it_even_if_it_blocks_all_others(
    client: Client,
    serve: Serve,
    service: Service,
    queue: str,
    release: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @service.task(queue=queue, retries=0, time_limit=0.1)
    async def goes_on() -> None:
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    @service.task(queue=queue, retries=0, time_limit=0.1)
    async def blocks() -> None:
        release.wait()

    server = serve(service)
    stuck: list[int] = []
    server.on_stuck = stuck.append
    for number, task in enumerate((goes_on, blocks), 1):
        with pytest.raises(TimeLimitExceeded):
            client.enqueue(task).result(timeout=20)
        until(lambda number=number: stuck == list(range(1, number + 1)))  # type: ignore[misc] # bound now
    release.set()
    until(lambda: caplog.text.count("dropped, since it failed at its time limit") == 2)
    assert server.counters["failed"] == 2


def test_whoever_is_first_settles_a_try_that_ends_about_at_its_limit(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw
) -> None:
    ran: list[int] = []

    @service.task(queue=queue, retries=0, time_limit=0.05)
    def close_to_it(milliseconds: int) -> None:
        ran.append(milliseconds)
        threading.Event().wait(milliseconds / 1000)

    server = serve(service, threads=4)
    handles = [client.enqueue(close_to_it, 44 + n % 12) for n in range(60)]
    states = [until(lambda handle=handle: handle.ready() and handle.state) for handle in handles]  # type: ignore[misc] # bound now
    until(lambda: server.counters["result"] + server.counters["failed"] == 60)
    assert len(ran) == 60
    assert (states.count("SUCCESS"), states.count("FAILURE")) == (server.counters["result"], server.counters["failed"])
    dead = f"{queue}.dead"
    until(lambda: raw.count(dead) == states.count("FAILURE"))


def test_a_handler_sees_what_is_left_of_its_try(client: Client, serve: Serve, service: Service, queue: str) -> None:
    @service.task(queue=queue, time_limit=5)
    def left() -> float | None:
        return context().remaining()

    @service.task(queue=queue, time_limit=5000)
    async def left_async() -> float | None:
        return context().remaining()

    @service.task(queue=queue)
    def unlimited() -> float | None:
        return context().remaining()

    serve(service)
    assert 0 < client.enqueue(left).result(timeout=20) <= 5
    assert 60 < client.enqueue(left_async).result(timeout=20) <= 5000
    assert 0 < client.enqueue(left_async, expires=60).result(timeout=20) <= 60
    assert client.enqueue(unlimited).result(timeout=20) is None


def test_limits_of_all_lengths_are_kept_beside_each_other(
    client: Client, serve: Serve, service: Service, queue: str, release: threading.Event
) -> None:
    @service.task(queue=queue, retries=0, time_limit=10_000_000)
    def long() -> str:
        release.wait()
        return "in time"

    @service.task(queue=queue, retries=0, time_limit=0.2)
    def short() -> None:
        release.wait()

    serve(service)
    handle = client.enqueue(long)
    for _ in range(2):
        with pytest.raises(TimeLimitExceeded):
            client.enqueue(short).result(timeout=20)
    release.set()
    assert handle.result(timeout=20) == "in time"


def no_dead_letters(raw: Raw) -> None:
    """Begin without those of other tests in the queue that the served tasks share."""
    declare_dead(raw, LIMITED)
    raw.channel.queue_purge(f"{LIMITED}.dead")


def lines(path: Path) -> list[tuple[str, int]]:
    found = path.read_text().splitlines() if path.exists() else []
    return [(word, int(pid)) for word, pid in (line.split() for line in found)]


def test_one_of_several_processes_is_replaced_and_its_other_tasks_are_finished(
    url: str, client: Client, raw: Raw, tmp_path: Path
) -> None:
    no_dead_letters(raw)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    gate.touch()
    with serving("tests.served", "--processes", "2", url=url) as server:
        before = set(server.children())
        others = [client.enqueue("note_until", str(path), str(gate), queue=LIMITED) for _ in range(6)]
        until(lambda: len(lines(path)) == 6)
        assert {pid for _, pid in lines(path)} == before
        spinning = client.enqueue("note_and_spin", str(path), queue=LIMITED)
        # The other try is on another process, while the first one finishes what it has.
        second = spinning.result(timeout=30)
        tries = [pid for word, pid in lines(path) if word == "spins"]
        assert len(tries) == 2
        assert tries[1] == second != tries[0]
        assert tries[0] in server.children()
        gate.unlink()
        for each in others:
            assert each.result(timeout=30) in before
        until(lambda: len(set(server.children()) - before) == 1, what="a new process")
        assert tries[0] not in server.children()
        ran = [word for word, _ in lines(path)]
        assert (ran.count("began"), ran.count("ended")) == (6, 6)
        server.until_said(f"(pid {tries[0]}) ended because a task exceeded its time limit; starting another")
        assert "its handler ends with this process, which accepts no more" in server.text()
        assert "can't be ended" not in server.text()
        assert "exit code" not in server.text()
        assert raw.count(f"{LIMITED}.dead") == 0
        assert server.end() == Exit.OK


def test_a_task_that_blocks_every_time_is_a_dead_letter_and_not_a_crash(
    url: str, client: Client, raw: Raw, tmp_path: Path
) -> None:
    no_dead_letters(raw)
    path = tmp_path / "ran"
    with serving("tests.served", "--processes", "2", url=url) as server:
        handle = client.enqueue("note_and_block", str(path), queue=LIMITED)
        properties = dead_letter(raw, LIMITED)
        assert properties.message_id == handle.id
        headers = properties.headers
        assert headers["reason"] == "TimeLimitExceeded: note_and_block() took longer than its time limit of 0.5 s"
        assert (headers["attempt"], headers["crashes"]) == (2, 0)
        assert "threading.Event().wait()" in headers["traceback"]
        assert len({pid for _, pid in lines(path)}) == 2
        until(lambda: server.text().count("ended because a task exceeded its time limit") == 2)
        assert client.enqueue("note", str(path), "after", queue="tserved_tasks").result(timeout=30) is None


def test_a_handler_that_lets_no_thread_run_is_taken_for_a_crash_and_its_task_runs_elsewhere(
    url: str, client: Client, raw: Raw, tmp_path: Path
) -> None:
    no_dead_letters(raw)
    path = tmp_path / "ran"
    with serving("tests.served", "--processes", "2", "--heartbeat", "1", url=url) as server:
        ran = client.enqueue("note_and_hold_all", str(path), queue=LIMITED).result(timeout=30)
        first, second = [pid for _, pid in lines(path)]
        assert first != second == ran
        server.until_said("its worker died, was stopped, or lost its connection")
        # It comes back, and has nothing to say of the task any more.
        until(lambda: ("back", first) in lines(path))
        after = [client.enqueue("note", str(path), "after", queue="tserved_tasks") for _ in range(20)]
        assert [handle.result(timeout=30) for handle in after] == [None] * 20
        assert [word for word, _ in lines(path)].count("holds") == 2
        assert raw.count(f"{LIMITED}.dead") == 0


def test_a_single_process_ends_when_more_handlers_can_t_be_ended_than_it_has_threads(
    url: str, client: Client, raw: Raw, tmp_path: Path
) -> None:
    no_dead_letters(raw)
    program = Program("serve", "tests.served", "--threads", "1", "--drain-timeout", "5", url=url)
    try:
        program.until_said("Ready.")
        client.enqueue("note_and_block", str(tmp_path / "ran"), queue=LIMITED)
        assert program.process.wait(30) == Exit.TIME_LIMIT
        assert [pid for _, pid in lines(tmp_path / "ran")] == [program.pid] * 2
        assert dead_letter(raw, LIMITED).headers["attempt"] == 2
    finally:
        program.process.kill()
        program.end()
