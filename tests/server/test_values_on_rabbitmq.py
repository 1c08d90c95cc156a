"""A value that its sender takes arrives equal on every path; the sender refuses all others."""

from __future__ import annotations

import dataclasses
import enum
import queue
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amqp_rpc import Client, Queue, Server, Service, Unencodable
from amqp_rpc.message.codec import LARGE


class Color(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: int


@dataclasses.dataclass(frozen=True)
class Cell:
    row: int


@dataclasses.dataclass
class Board:
    """All that is hard to send, in one value."""

    cells: dict[tuple[int, int], Cell]
    pairs: dict[Pair, int]
    rows: set[tuple[int, frozenset[int]]]
    opens: time
    path: Path
    host: IPv4Address
    share: Fraction
    recent: deque[Decimal]
    counts: Counter[str]
    color: Color
    raw: bytearray
    anything: dict[str, object]


BOARD = Board(
    cells={(1, 2): Cell(3), (2, 1): Cell(4)},
    pairs={Pair(1, 2): 3},
    rows={(1, frozenset({2, 3}))},
    opens=time(9, 30, tzinfo=timezone(timedelta(hours=2))),
    path=Path("/etc/hosts"),
    host=IPv4Address("10.0.0.1"),
    share=Fraction(1, 3),
    recent=deque([Decimal("1.10")]),
    counts=Counter("aab"),
    color=Color.RED,
    raw=bytearray(b"\xff"),
    anything={"a": [1, None]},
)

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.datetimes(timezones=st.just(UTC)) | st.dates() | st.times() | st.timedeltas() | st.uuids()
    | st.decimals(allow_nan=False)
)  # fmt: skip
keys = st.recursive(leaves, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2), max_leaves=4)
values = st.recursive(
    leaves | st.sets(keys, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)

#: A map as a key, in its forms, and what UTC or the wire has not.
REFUSED = [
    {Cell(1): "a"},
    {(1, Cell(1)): "a"},
    {Cell(1)},
    [{"a": {frozenset({Cell(1)}): 1}}],
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    datetime(2026, 1, 31),  # noqa: DTZ001 - that is the point
    object(),
    range(3),
    "\ud800",
    *([msgpack.ExtType(9, b"x"), "x" * beside] for beside in (0, 1024, LARGE)),
]


class Paths:
    """Every path on which a value is sent, as a function that returns it as it arrived."""

    def __init__(self, service: Service, serve: Callable[..., Server], client: Client, items: Queue) -> None:
        self.client, self.items = client, items
        self.got: queue.SimpleQueue[Any] = queue.SimpleQueue()
        got, self.topic, tasks = self.got, f"{service.name}.told", f"{service.name}.tasks"

        @service.rpc
        def echo(value: Any) -> Any:
            got.put(value)
            return value

        @service.rpc
        def typed(board: Board) -> Board:
            assert board == BOARD
            return board

        @service.task(queue=tasks)
        def work(value: Any) -> Any:
            got.put(value)
            return value

        @service.task(queue=tasks)
        def typed_work(board: Board) -> Board:
            assert board == BOARD
            return board

        @service.subscribe(self.topic)
        def told(value: Any) -> None:
            got.put(value)

        @service.subscribe(f"{self.topic}.typed")
        def typed_told(board: Board) -> None:
            got.put(board)

        self.echo, self.typed, self.work, self.typed_work = echo, typed, work, typed_work
        serve(service)

    def call(self, value: Any) -> Any:
        returned = self.client.call(self.echo, value)
        arrived = self.got.get(timeout=20)
        assert exact(arrived) == exact(returned)
        return returned

    def chunk(self, value: Any) -> Any:
        first, second = self.client.map(self.echo, [value, value], chunksize=2)
        ran = [self.got.get(timeout=20), self.got.get(timeout=20)]
        assert [exact(each) for each in ran] == [exact(first), exact(second)] == [exact(first)] * 2
        return first

    def task(self, value: Any) -> Any:
        returned = self.client.enqueue(self.work, value).result(timeout=20)
        assert exact(returned) == exact(self.got.get(timeout=20))
        return returned

    def event(self, value: Any) -> Any:
        self.client.publish(self.topic, value, content_type="application/msgpack")
        return self.got.get(timeout=20)

    def item(self, value: Any) -> Any:
        self.items.put(value)
        return self.items.get(timeout=20)


def exact(value: Any) -> Any:
    """Return a value for comparisons that also tell types apart, whatever the order of a set."""
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(exact, value), key=repr)
    if isinstance(value, dict):
        return type(value), sorted(((exact(key), exact(item)) for key, item in value.items()), key=repr)
    if isinstance(value, list | tuple):
        return type(value), [exact(item) for item in value]
    return type(value), repr(value)


PATHS = [Paths.call, Paths.chunk, Paths.task, Paths.event, Paths.item]


@pytest.fixture(scope="module")
def paths(broker: str) -> Iterator[Paths]:
    name = f"t{secrets.token_hex(6)}"
    servers: list[Server] = []

    def serve(service: Service) -> Server:
        servers.append(Server(service, url=broker))
        servers[0].start()
        return servers[0]

    with Client(broker, timeout=20) as client, client.queue(f"{name}.items", queue_type="classic") as items:
        yield Paths(Service(name), serve, client, items)
        for server in servers:
            server.stop(drain_timeout=5)


@pytest.mark.parametrize("path", PATHS)
@given(values)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_value_that_is_taken_arrives_equal(paths: Paths, path: Callable[[Paths, Any], Any], value: Any) -> None:
    assert path(paths, value) == value


@pytest.mark.parametrize("path", PATHS)
def test_the_hard_ones_do(paths: Paths, path: Callable[[Paths, Any], Any]) -> None:
    for value in (
        {(1, 2): "a", ((1,), frozenset({2})): {(): UUID(int=5)}},
        {(1, 2), (3, 4)},
        {"opens": time(9, 30), "big": 2**100, "far": datetime.max.replace(tzinfo=UTC)},
        bytearray(b"\xff"),
        {None: 1, 1.5: 2, b"x": 3, date(2026, 1, 31): 4, Decimal("1.1"): 5},
        # Above the sizes from which a body is read in another way.
        ["x" * 1024, {(1, 2): UUID(int=5)}, {1, (2, 3)}],
        ["x" * LARGE, {(1, 2): UUID(int=5)}, {1, (2, 3)}],
    ):
        assert path(paths, value) == value


@pytest.mark.parametrize("path", PATHS)
def test_all_others_are_refused_where_they_are_sent(paths: Paths, path: Callable[[Paths, Any], Any]) -> None:
    for value in REFUSED:
        with pytest.raises(Unencodable, match="cannot send") as refused:
            path(paths, value)
        assert not refused.value.may_have_run
    assert path(paths, "the next one") == "the next one"


def test_with_type_hints_all_of_it_arrives_as_it_was(paths: Paths) -> None:
    client = paths.client
    assert client.call(paths.typed, BOARD) == BOARD
    assert [*client.map(paths.typed, [BOARD, BOARD], chunksize=2)] == [BOARD, BOARD]
    assert client.enqueue(paths.typed_work, BOARD).result(timeout=20) == BOARD
    client.publish(f"{paths.topic}.typed", BOARD)
    assert paths.got.get(timeout=20) == BOARD


def test_a_result_that_cant_be_read_is_refused_by_its_sender_and_has_run(
    service: Service, serve: Callable[..., Server], client: Client
) -> None:
    @service.rpc
    def give(which: int) -> Any:
        return REFUSED[which]

    @service.task(queue=f"{service.name}.tasks")
    def give_later(which: int) -> Any:
        return REFUSED[which]

    serve(service)
    every = range(len(REFUSED))
    for outcome in [*(client.submit(give, i) for i in every), *(client.enqueue(give_later, i) for i in every)]:
        with pytest.raises(Unencodable, match=r"(ran|succeeded)") as refused:
            outcome.result(timeout=20)
        assert refused.value.may_have_run
