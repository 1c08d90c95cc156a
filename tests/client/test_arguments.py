"""Arguments are checked where they are sent: what can't fit is refused there, and nothing leaves the process."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from amqp_rpc import AsyncClient, Client, ConfigurationError, InvalidArguments, NotAllAccepted, Server, Service

if TYPE_CHECKING:
    from nowhere import Absent  # type: ignore[import-not-found]

#: No one listens there: what is sent raises another error.
NOWHERE = "amqp://127.0.0.1:1/"

service = Service("checked")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


@service.rpc
def fib(n: int) -> int:
    return n


@service.rpc
def draw(point: Point, colour: Colour = Colour.RED, *, pair: tuple[int, int] = (1, 2)) -> None: ...


@service.task(retries=0)
def resize(path: str, size: int = 1) -> str:
    return path * size


@service.rpc
def gather(*numbers: int, **named: int) -> int:
    return sum(numbers) + sum(named.values())


@Service("elsewhere").rpc
def unresolved(value: Absent, n: int) -> None: ...


@pytest.fixture(scope="module")
def nobody() -> Iterator[Client]:
    with Client(NOWHERE, timeout=0.05) as client:
        yield client


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "why"),
    [
        (fib, (), {}, r"fib\(\) got no 'n'"),
        (fib, (1, 2), {}, r"takes 1 argument \(parameters: n\), and 2 came by position"),
        (fib, (1,), {"n": 1}, "got parameter 'n' twice"),
        (fib, (1,), {"m": 1}, "no parameter 'm'"),
        (fib, ("30",), {}, "parameter 'n': expected int, got str"),
        (fib, (object(),), {}, "parameter 'n': expected int"),
        (draw, ({"x": "one"},), {}, "parameter 'point': expected int, got str - at point.x"),
        (draw, (Point(1), "blue"), {}, "parameter 'colour': invalid enum value"),
        (draw, (Point(1),), {"pair": (1, 2, 3)}, "parameter 'pair': expected array of length 2"),
        (gather, (1, "2"), {}, "parameter 'numbers'"),
        (unresolved, (1,), {}, "got no 'n'"),
    ],
)
def test_a_call_that_can_t_fit_is_refused_at_once_and_named(
    nobody: Client, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], why: str
) -> None:
    for method in (nobody.call, nobody.submit, nobody.with_options(timeout=5).call):
        with pytest.raises(InvalidArguments, match=f"{why}.*Nothing was sent") as raised:
            method(function, *args, **kwargs)
        assert not raised.value.may_have_run


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, r"resize\(\) got no 'path'"),
        (("a.png",), {"sise": 3}, r"no parameter 'sise' \(parameters: path, size\)\. Nothing was sent$"),
        (("a.png", "big"), {}, "parameter 'size': expected int, got str"),
    ],
)
def test_a_task_that_can_t_fit_is_refused_at_once_and_named(
    nobody: Client, args: tuple[Any, ...], kwargs: dict[str, Any], why: str
) -> None:
    for method in (nobody.enqueue, nobody.with_options(unique_for=5.0).enqueue):
        with pytest.raises(InvalidArguments, match=why) as raised:
            method(resize, *args, **kwargs)  # type: ignore[arg-type]
        assert not raised.value.may_have_run


def test_many_tasks_are_checked_one_by_one(nobody: Client) -> None:
    with pytest.raises(NotAllAccepted, match=r"number 0: resize\(\) has no parameter 'sise'") as raised:
        nobody.enqueue_many(resize, [{"sise": 3}, ("a.png", "big")])
    assert [type(error) for error in raised.value.errors.values()] == [InvalidArguments, InvalidArguments]
    assert not raised.value.may_have_run


@pytest.mark.parametrize("chunksize", [1, 3])
def test_the_items_of_a_map_are_checked(nobody: Client, chunksize: int) -> None:
    with pytest.raises(InvalidArguments, match="parameter 'n': expected int, got str"):
        list(nobody.map(fib, ["x"], chunksize=chunksize))


def test_asyncio_s_client_checks_the_same() -> None:
    async def ask() -> None:
        async with AsyncClient(NOWHERE) as client:
            with pytest.raises(InvalidArguments, match="expected int, got str"):
                await client.call(fib, "x")  # type: ignore[arg-type]
            with pytest.raises(InvalidArguments, match="write delay="):
                await client.enqueue(resize, "a.png", countdown=10)  # type: ignore[call-arg]
            with pytest.raises(InvalidArguments, match="expected int, got str"):
                _ = [n async for n in client.map(fib, ["x"])]

    asyncio.run(ask())


def test_what_fits_after_its_way_is_sent(client: Client, serve: Callable[..., Server]) -> None:
    serve(service)
    client.call(draw, {"x": 1}, "red", pair=[3, 4])  # type: ignore[arg-type]
    client.call(draw, Point(1), pair=(3, 4))
    assert client.call(gather, 1, 2, three=3) == 6
    assert client.enqueue(resize, "a", size=2).result() == "aa"


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("countdown", "For countdown= write delay="),
        ("_defer_by", "For _defer_by= write delay="),
        ("retries", r"retries=: @service\.task\(retries=…\) sets it"),
        ("soft_time_limit", r"@service\.task\(time_limit=…\)"),
        ("routing_key", "write queue="),
        ("link", "enqueue the next task"),
        ("kwargs", "give the arguments themselves"),
    ],
)
def test_an_option_of_another_library_gets_a_hint_beside_a_task(nobody: Client, option: str, advice: str) -> None:
    with pytest.raises(InvalidArguments, match=f"no parameter '{option}'.*{advice}"):
        nobody.enqueue(resize, "a.png", **{option: 1})


@pytest.mark.parametrize(
    ("option", "advice"),
    [("eta", r"what can wait is a task"), ("countdown", r"client\.enqueue"), ("retries", "idempotent=True")],
)
def test_an_option_of_a_task_gets_a_hint_beside_a_call(nobody: Client, option: str, advice: str) -> None:
    with pytest.raises(InvalidArguments, match=f"no parameter '{option}'.*{advice}"):
        nobody.call(fib, 30, **{option: 1})


def test_options_given_elsewhere_get_the_same_hints(nobody: Client) -> None:
    with pytest.raises(ConfigurationError, match=r"no option countdown; .*For countdown= write delay="):
        nobody.with_options(countdown=10)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'countdown'.*For countdown= write delay="):
        nobody.enqueue_many(resize, [("a.png",)], countdown=10)  # type: ignore[call-arg]


def test_a_task_is_not_called_and_a_call_is_not_enqueued(nobody: Client) -> None:
    for method in (nobody.call, nobody.submit, nobody.map):
        with pytest.raises(ConfigurationError, match=r"'resize' is a task: client\.enqueue\(resize, …\)"):
            list(method(resize, ["a.png"]))  # type: ignore[operator]
    for enqueue in (nobody.enqueue, nobody.enqueue_many):
        with pytest.raises(ConfigurationError, match=r"'fib' is no task: client\.call\(fib, …\)"):
            enqueue(fib, [])  # type: ignore[operator]
