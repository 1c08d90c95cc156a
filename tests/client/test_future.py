"""A thread that waits for a call reads its own reply, and a handler reads its own calls: no other thread suffers."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from amqp_rpc import CallTimeout, Client, ConfigurationError, Server, Service
from amqp_rpc.amqp import connection
from services import fib
from tests.waiting import until

Serve = Callable[..., Server]

#: Calls after which a server knows that a function is brief, and its handlers fetch calls themselves.
MANY = 300


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def served(serve: Serve, service: Service, hold: threading.Event) -> Service:
    """A service whose functions are known to be brief, until one is not."""

    @service.rpc
    def who(_n: int = 0) -> int:
        return threading.get_ident()

    @service.rpc
    def stuck() -> str:
        hold.wait(30)
        return "let go"

    return service


def brief(client: Client, service: Service) -> set[int]:
    """Make calls one after another, and return the threads that ran them."""
    return {client.call(f"{service.name}.who", n) for n in range(MANY)}


def fetching(client: Client, service: Service, server: Server) -> None:
    """Call until a handler's thread fetches the calls itself: on a busy machine a brief function may take long."""
    until(lambda: brief(client, service) and server._pool.fetching)


def test_a_brief_function_runs_on_the_thread_that_reads_its_calls(
    client: Client, serve: Serve, served: Service
) -> None:
    server = serve(served, threads=4)
    fetching(client, served, server)
    assert until(lambda: len(brief(client, served)) == 1)


def test_one_call_that_takes_long_among_brief_ones_keeps_nobody_waiting(
    client: Client, serve: Serve, served: Service, hold: threading.Event
) -> None:
    server = serve(served, threads=2)
    fetching(client, served, server)
    stuck = client.submit(f"{served.name}.stuck")
    brief(client, served)  # with a deadline of 20 s each: while the thread that read the call is stuck
    assert not stuck.done()
    hold.set()
    assert stuck.result() == "let go"


def test_heartbeats_go_on_while_the_thread_that_reads_is_stuck_in_a_call(
    url: str, serve: Serve, served: Service, hold: threading.Event
) -> None:
    server = serve(served, threads=1, heartbeat=1)
    with Client(url, timeout=20, heartbeat=1) as client:
        fetching(client, served, server)
        threading.Timer(4.5, hold.set).start()  # the broker gives up on a peer that is silent for two intervals
        assert client.call(f"{served.name}.stuck") == "let go"
        assert server.counters["stale_acks"] == 0


def test_calls_that_came_with_one_that_takes_long_are_handed_to_other_threads(
    client: Client, serve: Serve, served: Service, hold: threading.Event
) -> None:
    server = serve(served, threads=4, prefetch=50)
    fetching(client, served, server)
    stuck = client.submit(f"{served.name}.stuck")
    others = [client.submit(f"{served.name}.who", n) for n in range(40)]
    assert len({other.result() for other in others}) >= 1
    assert not stuck.done()


def test_a_reply_is_not_kept_by_a_call_behind_it_that_takes_long(
    client: Client, serve: Serve, served: Service, hold: threading.Event
) -> None:
    server = serve(served, threads=1, prefetch=50)
    fetching(client, served, server)
    first, stuck = client.submit(f"{served.name}.who"), client.submit(f"{served.name}.stuck")
    first.result(timeout=10)
    assert not stuck.done()


def test_a_future_s_callback_comes_while_no_thread_waits(client: Client, serve: Serve, served: Service) -> None:
    serve(served)
    brief(client, served)
    done = threading.Event()
    client.submit(f"{served.name}.who").add_done_callback(lambda _future: done.set())
    assert done.wait(10)


def test_a_call_that_another_thread_gives_up_ends_for_the_thread_that_waits_for_it(
    client: Client, serve: Serve, served: Service
) -> None:
    serve(served)
    brief(client, served)
    future = client.submit(f"{served.name}.stuck")
    other = threading.Thread(target=lambda: until(lambda: client._session.waiting) and future.cancel())
    other.start()
    client._session.unawaited.clear()  # as if the same thread had sent it and waited
    with pytest.raises(CancelledError):
        future.result(timeout=15)
    other.join()


def test_threads_that_come_and_go_all_get_their_answers(client: Client, serve: Serve, served: Service) -> None:
    """One thread alone, then many, then loose futures, again and again: who reads changes each time."""
    serve(served)
    with ThreadPoolExecutor(6) as pool:
        for round_ in range(30):
            for n in range(5):
                client.call(f"{served.name}.who", n)
            list(pool.map(lambda n: client.call(f"{served.name}.who", n), range(round_ % 7)))
            futures = [client.submit(f"{served.name}.who", n) for n in range(round_ % 4)]
            client.call(f"{served.name}.who")
            assert len([future.result() for future in futures]) == round_ % 4
            list(client.map(f"{served.name}.who", range(20)))


def test_a_call_ends_by_its_deadline_while_its_thread_reads(client: Client, serve: Serve, served: Service) -> None:
    serve(served)
    brief(client, served)
    with pytest.raises(CallTimeout):
        client.call(f"{served.name}.stuck", timeout=0.3)
    brief(client, served)


class Cut(Exception):
    """The exception of an alarm."""


def test_an_alarm_in_the_middle_of_the_connection_s_work_reaches_the_user_and_leaves_the_client_usable(
    client: Client, serve: Serve, served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals raise in the main thread, which may be at the connection's work: at worst that is made again."""
    # It is made forty times.
    monkeypatch.setattr(connection, "FIRST_RECONNECT", 0.01)
    monkeypatch.setattr(connection, "LONGEST_RECONNECT", 0.05)
    monkeypatch.setattr(connection, "RECONNECT_REFUSED", 0.05)
    serve(served)

    def call() -> None:
        client.call(f"{served.name}.who", idempotent=True, wait_for_server=True)

    def call_for_ever() -> None:
        while True:
            call()

    def cut(_number: int, _frame: object) -> None:
        current = client._session.connection
        if current is not None and current.loop.works_here():
            raise Cut
        # Elsewhere it would meet the standard library's own locks.
        signal.setitimer(signal.ITIMER_REAL, 0.00005)

    before = signal.signal(signal.SIGALRM, cut)
    try:
        for n in range(40):
            call()
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + n / 40_000)
            with pytest.raises(Cut):
                call_for_ever()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    call()


def test_a_signal_handler_may_call_while_its_thread_waits_for_a_call(
    client: Client, serve: Serve, served: Service, hold: threading.Event
) -> None:
    serve(served)
    brief(client, served)
    inner: list[object] = []

    def handler(_number: int, _frame: object) -> None:
        try:
            inner.append(client.call(f"{served.name}.who", timeout=10))
        except ConfigurationError as error:
            inner.append(error)  # it came in the middle of work; the error says so
        hold.set()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert client.call(f"{served.name}.stuck") == "let go"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(inner) == 1


def test_a_call_in_the_middle_of_the_client_s_own_work_is_refused_with_the_reason(
    client: Client, serve: Serve, served: Service
) -> None:
    serve(served)
    brief(client, served)
    items = client.queue(f"{served.name}.items", queue_type="classic")
    said: list[str] = []

    def at_work() -> None:
        for attempt in (lambda: client.call(f"{served.name}.who"), lambda: items.put(1)):
            try:
                attempt()
            except ConfigurationError as error:
                said.append(str(error) + f" {error.may_have_run}")

    current = client._session.connection
    assert current is not None
    current.loop.do(at_work)
    until(lambda: len(said) == 2)
    # It may have been a `__del__`, and no queue has other arguments than these.
    assert all(text.startswith("this call was made in the middle of the client's own work") for text in said)
    assert all(text.endswith("It did not run False") for text in said)
    assert all("a `__del__`, a logging handler or a signal handler may do that" in text for text in said)


def test_a_cancelled_call_ends_the_wait_of_concurrent_futures(client: Client, serve: Serve, service: Service) -> None:
    go_on = threading.Event()

    @service.rpc
    def hold() -> None:
        go_on.wait(30)

    serve(service)
    future = client.submit(hold)
    future.cancel()
    assert concurrent.futures.wait([future], timeout=10).done == {future}
    go_on.set()


def test_every_late_call_of_many_has_our_error(client: Client, serve: Serve, service: Service) -> None:
    go_on = threading.Event()

    @service.rpc
    def hold() -> None:
        go_on.wait(30)

    serve(service)
    futures = [client.submit(hold, timeout=0.5) for _ in range(5000)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(lambda future: future.exception(), futures))
    assert {type(error).__name__ for error in errors} <= {"CallTimeout", "NotSent"}
    go_on.set()


def test_a_callback_may_call(client: Client, serve: Serve) -> None:
    serve(fib.service)
    results: list[int] = []
    client.submit("fib", 10).add_done_callback(lambda future: results.append(client.call("fib", future.result())))
    until(lambda: results)
    assert results == [fib.fib(55)]


def test_an_interrupted_call_is_given_up(client: Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("amqp_rpc.client.future.BlockingCall.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.call(f"{service.name}.charge", 5, wait_for_server=True)
    assert len(client._session.pending) == 0
