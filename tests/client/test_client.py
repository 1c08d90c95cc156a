"""A client through a real broker: calls, results, errors, threads, options, asyncio, its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import decimal
import enum
import gc
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pika
import pytest

from amqp_rpc import (
    AsyncClient,
    CallTimeout,
    Client,
    ConfigurationError,
    FunctionNotFound,
    InvalidArguments,
    RemoteError,
    Server,
    Service,
    Unencodable,
    register_error,
)
from amqp_rpc.client.typing import WithOptions
from services import fib
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


@register_error
class CardDeclined(Exception):
    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(reason)
        self.code = code


class Unknown(Exception):
    pass


def test_the_tutorials_call_answers_832040(client: Client, serve: Serve) -> None:
    serve(fib.service)
    assert client.call("fib", 30) == 832040
    assert client.call("fib", 300) == 222232244629420445529739893461909967206666939096499764990979600


def test_the_function_object_is_called_on_the_server(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def where() -> str:
        return threading.current_thread().name

    serve(service)
    assert client.call(where).startswith("amqp_rpc handler")
    assert not where().startswith("amqp_rpc handler")


def test_values_of_every_kind_arrive_as_they_left(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def echo(value: Any) -> Any:
        return value

    serve(service)
    values = [
        None, True, -(2**70), 2**64, 1.5, "ä", b"\0\xff", [1, [2]], {"a": {1: 2}},
        date(2026, 1, 31), timedelta(days=-1, microseconds=3),
        datetime(2026, 1, 31, 12, tzinfo=UTC), decimal.Decimal("1.10"), uuid.uuid4(), {1, "a"}, frozenset({(1, 2)}),
    ]  # fmt: skip
    assert client.call(f"{service.name}.echo", values) == values


def test_arguments_are_rebuilt_from_type_hints(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def kinds(point: Point, colour: Colour, pair: tuple[int, int], maybe: int | None = None) -> list[str]:
        return [type(value).__name__ for value in (point, colour, pair, maybe)]

    serve(service)
    assert client.call(kinds, Point(1), Colour.RED, (1, 2)) == ["Point", "Colour", "tuple", "NoneType"]


def test_a_result_has_the_annotated_type_when_the_function_object_was_called(
    client: Client, serve: Serve, service: Service
) -> None:
    @service.rpc
    def origin() -> Point:
        return Point(0)

    serve(service)
    assert client.call(origin) == Point(0)
    assert client.call(f"{service.name}.origin") == {"x": 0, "y": 0.5}


def test_a_handlers_builtin_exception_is_caught_as_itself_and_as_remote(
    client: Client, serve: Serve, service: Service
) -> None:
    @service.rpc
    def refuse() -> None:
        raise ValueError("not today")

    serve(service)
    with pytest.raises(ValueError, match="not today"):
        client.call(refuse)
    with pytest.raises(RemoteError) as caught:
        client.call(refuse)
    assert caught.value.type == "ValueError"
    assert caught.value.may_have_run
    assert caught.value.traceback is not None
    assert 'raise ValueError("not today")' in caught.value.traceback
    assert "dispatch.py" not in caught.value.traceback


def test_a_registered_exception_is_rebuilt_with_its_attributes(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def charge() -> None:
        raise CardDeclined("no money", code=51)

    serve(service)
    with pytest.raises(CardDeclined, match="no money") as caught:
        client.call(charge)
    assert isinstance(caught.value, RemoteError)
    assert caught.value.code == 51


def test_an_unregistered_exception_is_a_plain_remote_error(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def fail() -> None:
        raise Unknown("what")

    serve(service)
    with pytest.raises(RemoteError, match="what") as caught:
        client.call(fail)
    assert type(caught.value) is RemoteError
    assert caught.value.type.endswith("Unknown")


def test_a_server_can_keep_its_tracebacks(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def fail() -> None:
        raise ValueError("x")

    serve(service, tracebacks=False)
    with pytest.raises(RemoteError) as caught:
        client.call(fail)
    assert caught.value.traceback is None


def test_wrong_calls_name_what_is_wrong_and_did_not_run(client: Client, serve: Serve, service: Service) -> None:
    ran = []

    @service.rpc
    def add(a: int, b: int) -> int:
        ran.append(a)
        return a + b

    serve(service)
    with pytest.raises(InvalidArguments, match="parameter 'b': expected int, got str") as caught:
        client.call(f"{service.name}.add", 1, "2")
    assert not caught.value.may_have_run
    with pytest.raises(TypeError, match="no 'b'"):
        client.call(f"{service.name}.add", 1)
    with pytest.raises(FunctionNotFound, match="there are: add"):
        client.call(f"{service.name}.sub", 1, 2)
    assert ran == []


def test_submit_gives_real_futures(client: Client, serve: Serve) -> None:
    serve(fib.service)
    futures = {client.submit("fib", n): n for n in range(20)}
    assert all(isinstance(future, Future) for future in futures)
    assert {futures[future]: future.result() for future in as_completed(futures)} == {n: fib.fib(n) for n in range(20)}
    done: list[Any] = []
    future = client.submit("fib", 7)
    future.add_done_callback(lambda f: done.append(f.result()))
    until(lambda: done)
    assert done == [13]
    assert isinstance(client.submit("fib", -1).exception(), ValueError)


def test_a_cancelled_call_is_forgotten_and_its_reply_dropped(client: Client, serve: Serve, service: Service) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def wait() -> None:
        begun.set()
        go_on.wait(10)

    serve(service)
    future = client.submit(wait)
    assert begun.wait(10)
    assert future.cancel()
    assert future.cancelled()
    go_on.set()
    until(lambda: client.counters["late_replies"] == 1)


def test_map_keeps_the_order_and_takes_items_as_it_goes(client: Client, serve: Serve) -> None:
    serve(fib.service)
    taken: list[int] = []

    def numbers() -> Any:
        for n in range(1000):
            taken.append(n)
            yield n

    results = client.map("fib", numbers(), in_flight=10)
    assert [next(results) for _ in range(20)] == [fib.fib(n) for n in range(20)]
    assert len(taken) <= 31
    results.close()  # type: ignore[attr-defined] # it is a generator


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
def test_map_in_chunks_gives_the_same(client: Client, serve: Serve, chunksize: int) -> None:
    serve(fib.service)
    assert list(client.map(fib.fib, range(100), chunksize=chunksize)) == [fib.fib(n) for n in range(100)]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_raises_where_the_failing_items_result_would_have_come(
    client: Client, serve: Serve, service: Service, chunksize: int
) -> None:
    @service.rpc
    def odd(n: int) -> int:
        if n % 2 == 0:
            raise ValueError(n)
        return n

    serve(service)
    results = client.map(odd, [1, 3, 5, 6, 7], chunksize=chunksize)
    assert [next(results) for _ in range(3)] == [1, 3, 5]
    with pytest.raises(ValueError, match="6"):
        next(results)


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("in_flight", [2, 100])
def test_map_yields_what_came_before_its_source_raised(
    client: Client, url: str, serve: Serve, chunksize: int, in_flight: int
) -> None:
    serve(fib.service)

    def numbers() -> Iterator[int]:
        yield from (1, 2, 3, 4)
        raise OSError("the source broke")

    got: list[int] = []
    with pytest.raises(OSError, match="the source broke"):
        got.extend(client.map(fib.fib, numbers(), chunksize=chunksize, in_flight=in_flight))
    assert got == [1, 1, 2, 3]

    async def awaited() -> list[int]:
        some: list[int] = []
        async with AsyncClient(url) as asynchronous:
            results = asynchronous.map(fib.fib, numbers(), chunksize=chunksize, in_flight=in_flight)
            with contextlib.suppress(OSError):
                async for each in results:
                    some.append(each)  # noqa: PERF401 - those before the error count
        return some

    assert asyncio.run(awaited()) == got


def test_map_yields_what_came_before_an_item_that_does_not_fit(client: Client, serve: Serve) -> None:
    serve(fib.service)
    results = client.map(fib.fib, [1, 2, "three", 4], chunksize=4)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(InvalidArguments, match="parameter 'n': expected int, got str"):
        next(results)


def test_a_thousand_calls_of_sixteen_threads_over_one_client_are_all_right(client: Client, serve: Serve) -> None:
    serve(fib.service)

    def calls(start: int) -> list[tuple[int, int]]:
        return [(n, client.call("fib", n)) for n in range(start, 1008, 16)]

    with ThreadPoolExecutor(16) as pool:
        answers = dict(pair for pairs in pool.map(calls, range(16)) for pair in pairs)
    assert len(answers) == 1008
    assert answers == {n: fib.fib(n) for n in range(1008)}


def test_a_call_ends_at_its_timeout_and_the_late_reply_is_counted(
    client: Client, serve: Serve, service: Service
) -> None:
    go_on = threading.Event()

    @service.rpc
    def wait() -> None:
        go_on.wait(10)

    serve(service)
    with pytest.raises(CallTimeout, match=r"within 0\.2 s") as caught:
        client.call(wait, timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.may_have_run
    future = client.submit(wait, timeout=0.2)
    done = threading.Event()
    future.add_done_callback(lambda _f: done.set())
    assert done.wait(10), "a future that nobody waits for ends too"
    go_on.set()
    until(lambda: client.counters["late_replies"] == 2)


def test_a_server_that_was_called_once_can_answer_no_other_call_and_no_task(
    client: Client, serve: Serve, service: Service, raw: Raw, queue_name: str
) -> None:
    go_on = threading.Event()

    @service.rpc
    def balance() -> int:
        go_on.wait(20)
        return 100

    @service.task(queue=f"{queue_name}.tasks")
    def pay() -> str:
        go_on.wait(20)
        return "paid"

    serve(service)
    raw.channel.queue_declare(queue_name, auto_delete=True)
    seen: list[pika.BasicProperties] = []

    def answer(_channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        seen.append(properties)
        raw.send(properties.reply_to, b"1", type="result", correlation_id=properties.correlation_id)

    raw.channel.basic_consume(queue_name, answer, auto_ack=True)
    asked = client.submit("f", queue=queue_name, timeout=20)
    until(lambda: raw.connection.process_data_events(0.01) or asked.done())
    assert asked.result() == "1"
    # What it learned: the reply queue, and one id.
    [learned] = seen
    call, task = client.submit(balance, timeout=20), client.enqueue(pay)
    before, known = client.counters["late_replies"], int(learned.correlation_id, 16)
    guesses = [f"{known + step:032x}" for step in (*range(-50, 0), *range(1, 51))]
    guesses += [f"{learned.correlation_id}-{n:x}" for n in range(5)]
    guesses += [f"{learned.correlation_id[:half]}{n:x}" for half in (16, 31) for n in range(16)]
    guesses = [each for each in guesses if each != learned.correlation_id]
    for guess in guesses:
        raw.send(learned.reply_to, b"1000000", type="result", correlation_id=guess, app_id="amqp_rpc")
    until(lambda: client.counters["late_replies"] == before + len(guesses))
    assert not call.done()
    assert not task.ready()
    go_on.set()
    assert (call.result(), task.result(timeout=20)) == (100, "paid")


def test_no_timeout_is_refused(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="for ever"):
        client.call("fib", 1, timeout=None)
    with pytest.raises(ConfigurationError, match="more than 0"):
        client.call("fib", 1, timeout=0)


def test_async_handlers_run_side_by_side_on_one_loop(client: Client, serve: Serve, service: Service) -> None:
    arrived = []
    everybody = asyncio.Event()

    @service.rpc
    async def meet(n: int) -> int:
        arrived.append(threading.current_thread().name)
        if len(arrived) == 5:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 10)
        return n

    @service.rpc
    def ordinary() -> str:
        return threading.current_thread().name

    serve(service, threads=1, prefetch=10)
    assert list(client.map(meet, range(5))) == list(range(5))
    assert len(set(arrived)) == 1
    assert client.call(ordinary) == "amqp_rpc handler 0"


def test_the_asyncio_client_awaits_calls(url: str, serve: Serve, service: Service) -> None:
    @service.rpc
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    serve(service, fib.service)

    async def main() -> None:
        async with AsyncClient(url, timeout=20) as client:
            assert await client.call("fib", 30) == 832040
            assert await asyncio.gather(*(client.call(double, n) for n in range(50))) == [2 * n for n in range(50)]
            assert [n async for n in client.map("fib", range(10), chunksize=4)] == [fib.fib(n) for n in range(10)]
            with pytest.raises(ValueError, match="n must be"):
                await client.call("fib", -1)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.call(double, 1, wait_for_server=True), 0)

    asyncio.run(main())


def test_a_result_that_cant_be_sent_is_said_to_the_caller(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def make() -> Any:
        return object()

    serve(service)
    with pytest.raises(Unencodable, match=r"make\(\) ran, and its result was not sent") as caught:
        client.call(make)
    assert caught.value.may_have_run


def test_one_server_runs_several_services(client: Client, serve: Serve) -> None:
    billing, other = Service("tbilling"), Service("tother")

    @billing.rpc
    def charge(amount: int) -> str:
        return f"charged {amount}"

    @other.rpc(name="charge")
    def refund(amount: int) -> str:
        return f"refunded {amount}"

    serve(billing, other)
    assert client.call("tbilling.charge", amount=3) == "charged 3"
    assert client.call("tother.charge", amount=3) == "refunded 3"
    assert client.call(refund, 3) == "refunded 3"


def test_a_burst_on_a_fresh_client_is_answered_whole(url: str, serve: Serve) -> None:
    serve(fib.service)
    with Client(url, timeout=60) as client:
        assert [f.result() for f in [client.submit("fib", 10) for _ in range(8000)]] == [55] * 8000


def test_a_client_that_nobody_holds_takes_its_thread_with_it(url: str, serve: Serve) -> None:
    serve(fib.service)
    before = threading.active_count()
    for _ in range(5):
        assert Client(url).call("fib", 10) == 55
    gc.collect()
    until(lambda: threading.active_count() <= before, what="the threads to end")


def test_closing_while_connecting_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for _ in range(20):
            client = Client(f"amqp://127.0.0.1:{silent.getsockname()[1]}")
            client.submit("fib", 1)
            client.close()
    assert [record for record in caplog.records if record.name.startswith("amqp_rpc")] == []


class Recorder:
    """A client that records what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def call(self, *args: object, **kwargs: object) -> None:
        self.asked.append(("call", args, kwargs))

    def enqueue(self, *args: object, **kwargs: object) -> None:
        self.asked.append(("enqueue", args, kwargs))


def test_options_are_given_to_the_methods_that_have_them_and_keywords_count_before_them() -> None:
    client = Recorder()
    patient = WithOptions(client, {"timeout": 60.0, "wait_for_server": True})
    patient.call("fib", 30, n=1)
    patient.call("fib", timeout=5.0)
    WithOptions(client, {"delay": 2.5, "queue": "others"}).enqueue("resize", "a.png")
    assert client.asked == [
        ("call", ("fib", 30), {"timeout": 60.0, "wait_for_server": True, "n": 1}),
        ("call", ("fib",), {"timeout": 5.0, "wait_for_server": True}),
        ("enqueue", ("resize", "a.png"), {"delay": 2.5, "queue": "others"}),
    ]


def test_an_option_that_a_method_does_not_have_is_refused() -> None:
    client = Client("amqp://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match=r"call has no option delay"):
        client.with_options(delay=2.5, timeout=1).call("fib", 30)
    with pytest.raises(ConfigurationError, match=r"enqueue has no option idempotent"):
        client.with_options(idempotent=True).enqueue("resize")
    with pytest.raises(
        ConfigurationError, match=r"no option retries; it has content_type, delay, eta, .*wait_for_server"
    ):
        client.with_options(retries=3)  # type: ignore[call-arg]
