"""One table decides what can be sent: a type hint is accepted just where its values come back equal."""

from __future__ import annotations

import collections
import dataclasses
import enum
import subprocess
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NoReturn, Optional, TypedDict, TypeVar

import msgspec
import pytest

from amqp_rpc.errors import ConfigurationError, InvalidArguments, Unencodable
from amqp_rpc.message.codec import JSON, MSGPACK, decode, encode
from amqp_rpc.service.signature import Signature
from tests.ids import shown

LIMIT = 2**20
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Cell:
    row: int
    column: int


@dataclasses.dataclass
class Everything:
    where: Path
    when: time
    shares: dict[str, Fraction]
    recent: deque[IPv4Address]
    cells: dict[tuple[int, int], Cell | None]


@dataclasses.dataclass
class Of(Generic[T]):
    value: T


class Color(enum.Enum):
    RED = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    deep: bool


class Cat(msgspec.Struct, tag=True, frozen=True, rename="camel"):
    full_name: str


class Dog(msgspec.Struct, tag=True, frozen=True):
    legs: int


class Plain:
    pass


Number = NewType("Number", int)

SENDABLE: list[tuple[Any, Any]] = [
    (int, 2**70),
    (str, "text"),
    (bytes, b"\xff"),
    (bytearray, bytearray(b"\xff")),
    (list[bytearray], [bytearray(b"\xff")]),
    (complex, 1 - 2j),
    (Decimal, Decimal("1.10")),
    (Fraction, Fraction(-1, 3)),
    (dict[str, Fraction], {"a": Fraction(1, 3)}),
    (datetime, datetime(2026, 1, 31, tzinfo=UTC)),
    (date, date(2026, 1, 31)),
    (time, time(9, 30)),
    (Optional[time], time(9, 30, tzinfo=UTC)),  # noqa: UP045 - the older spelling
    (timedelta, timedelta(days=-1, microseconds=1)),
    (uuid.UUID, uuid.UUID(int=5)),
    (PurePosixPath, PurePosixPath("a/b")),
    (Path, Path("/etc/hosts")),
    (Path | None, Path("/etc/hosts")),
    (list[Path], [Path("a")]),
    (set[Path], {Path("a")}),
    (IPv4Address, IPv4Address("10.0.0.1")),
    (IPv6Address, IPv6Address("fe80::1")),
    (IPv4Interface, IPv4Interface("10.0.0.1/8")),
    (IPv6Network, IPv6Network("fe80::/64")),
    (deque, deque([1])),
    (deque[IPv4Address], deque([IPv4Address("10.0.0.1")])),
    (OrderedDict, OrderedDict(b=1, a=2)),
    (OrderedDict[str, Path], OrderedDict(b=Path("b"))),
    (Counter, Counter("aab")),
    (Counter[str], Counter("aab")),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict[Pair, int], {Pair(1, "a"): 2}),
    (dict[frozenset[int], str], {frozenset({1}): "a"}),
    (dict[Color, int], {Color.RED: 1}),
    (dict[date, int], {date(2026, 1, 31): 1}),
    (set[tuple[int, str]], {(1, "a")}),
    (frozenset[Pair], frozenset({Pair(1, "a")})),
    (dict[str, object], {"a": [1, "x"], "b": None}),
    (list[object], [1, "x"]),
    (Mapping[str, list[object]], {"a": [1, {"b": 2}]}),
    (object, {"a": [1]}),
    (Color, Color.RED),
    (Access, Access.READ | Access.WRITE),
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(ge=0)], 0),
    (Number, 5),
    (Cell, Cell(1, 2)),
    (list[Cell], [Cell(1, 2)]),
    (Everything, Everything(Path("a"), time(1), {"a": Fraction(1)}, deque(), {(1, 2): Cell(1, 2), (3, 4): None})),
    (Of[Path], Of(Path("a"))),
    (Pair, Pair(1, "a")),
    (Options, {"deep": True}),
    (Cat, Cat("Tom")),
    (list[Cat | Dog], [Dog(4), Cat("Tom")]),
    (Any, {"a": [1]}),
]

UNSENDABLE: list[tuple[Any, Any]] = [
    (Plain, Plain()),
    (list[Plain], [Plain()]),
    (dict[str, Plain | None], {"a": Plain()}),
    (Callable[[], int], print),
    (type, int),
    (range, range(3)),
    (Exception, ValueError()),
    (dict[Cell, int], {Cell(1, 2): 3}),
    (dict[tuple[int, Cell], int], {(1, Cell(1, 2)): 3}),
    (set[Cell], {Cell(1, 2)}),
    (frozenset[Cat], frozenset({Cat("Tom")})),
    (msgspec.Raw, msgspec.Raw(b"1")),
    (Annotated[datetime, msgspec.Meta(tz=False)], datetime(2026, 1, 31)),  # noqa: DTZ001 - that is the point
]


def taking(hint: Any, result: Any = Any) -> Callable[..., Any]:
    def f(x): ...

    f.__annotations__ = {"x": hint, "return": result}
    return f


def arrived(hint: Any, value: Any, content_type: str = MSGPACK) -> Any:
    """The argument that a handler gets for a value."""
    body = encode([[value], {}], content_type, limit=LIMIT)
    args, kwargs = decode(body, content_type, limit=LIMIT)
    ((converted,), _) = Signature(taking(hint), "f").compile().bind(args, kwargs, binary=content_type == MSGPACK)
    return converted


@pytest.mark.parametrize(("hint", "value"), SENDABLE, ids=str)
def test_a_value_of_an_accepted_hint_arrives_equal(hint: Any, value: Any) -> None:
    converted = arrived(hint, value)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(("hint", "value"), SENDABLE, ids=str)
def test_a_result_of_an_accepted_hint_arrives_equal(hint: Any, value: Any) -> None:
    signature = Signature(taking(int, hint), "f")
    came = decode(encode(value, MSGPACK, limit=LIMIT), MSGPACK, limit=LIMIT)
    converted = signature.compile().convert_result(came)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(("hint", "value"), SENDABLE, ids=str)
def test_it_may_be_checked_where_it_is_sent(hint: Any, value: Any) -> None:
    Signature(taking(hint), "f").check([value], {})


@pytest.mark.parametrize(
    ("hint", "value"), [row for row in SENDABLE if "tuple" not in str(row[0]) and "frozen" not in str(row[0])], ids=str
)
def test_in_json_it_arrives_equal_or_is_refused_where_it_is_sent(hint: Any, value: Any) -> None:
    try:
        converted = arrived(hint, value, JSON)
    except Unencodable as error:
        assert "keys must be" in str(error)  # noqa: PT017 - most are not refused
    else:
        assert converted == value


def test_in_json_a_number_as_a_key_is_one_again() -> None:
    assert arrived(dict[int, str], {1: "a"}, JSON) == {1: "a"}


@pytest.mark.parametrize(("hint", "value"), UNSENDABLE, ids=lambda value: shown(value)[:40])
def test_a_hint_is_refused_at_import_where_its_values_are_refused_by_the_sender(hint: Any, value: Any) -> None:
    with pytest.raises(Unencodable):
        encode(value, MSGPACK, limit=LIMIT)
    with pytest.raises(ConfigurationError, match=r"f\(x: .*\): .*(can't be|Raw|supported)") as caught:
        Signature(taking(hint), "f")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hint", [Plain, list[Plain], Iterator[int], range, set[Cell], dict[Cell, int]], ids=str)
def test_a_result_that_cant_be_sent_is_refused_at_import(hint: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"f\(\) -> .*: .* can't be"):
        Signature(taking(int, hint), "f")


def test_a_result_that_is_not_sent_may_be_anything() -> None:
    Signature(taking(int, Plain), "f", returns=False)


@pytest.mark.parametrize("hint", [None, NoReturn, Awaitable[int], int | str | bytes, "Any", T, list[object]], ids=str)
def test_a_result_that_may_be_sent_is_accepted(hint: Any) -> None:
    Signature(taking(int, hint), "f").compile()


def test_the_result_of_an_awaitable_is_that_of_what_it_awaits() -> None:
    assert Signature(taking(int, Awaitable[Path]), "f").compile().convert_result("a") == Path("a")


@pytest.mark.parametrize(
    ("hint", "sent", "said"),
    [
        (Path, 5, "parameter 'x': expected Path as str, got int; it was 5"),
        (IPv4Address, 5, "parameter 'x': expected IPv4Address as str, got int; it was 5"),
        (IPv4Address, "10.0.0", "Expected 4 octets in '10.0.0'"),
        (list[Fraction], ["x"], "invalid literal for Fraction: 'x' - at x[0]"),
        (complex, True, "expected complex as str | int | float, got bool"),
        (deque[int], ["x"], "expected int, got str"),
        (Counter[str], {"a": "x"}, "expected int, got str"),
        (time, "noon", "invalid RFC3339 encoded time"),
    ],
    ids=str,
)
def test_what_does_not_fit_names_the_parameter(hint: Any, sent: Any, said: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Signature(taking(hint), "f").compile().bind([sent], {}, binary=True)
    assert said.lower() in str(caught.value).lower()
    assert "parameter 'x'" in str(caught.value)


def test_a_refused_hint_lists_all_that_works() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Signature(taking(Plain), "f")
    for name in ("Path", "time", "Fraction", "deque", "pydantic", "attrs", "msgspec.Struct", "Literal", "Annotated"):
        assert name in str(caught.value)


@pytest.mark.parametrize("hint", [defaultdict[str, int], collections.ChainMap], ids=str)
def test_a_map_that_cant_be_rebuilt_is_refused(hint: Any) -> None:
    with pytest.raises(ConfigurationError, match="can't be sent"):
        Signature(taking(hint), "f")


def test_no_library_is_imported_for_a_type_that_is_not_used() -> None:
    program = (
        "import sys; from amqp_rpc import Service; service = Service('x')\n"
        "@service.rpc\n"
        "def f(x: dict[str, list[int]]) -> int: return 1\n"
        "from amqp_rpc.message.codec import encode; encode({(1, 2): {3}}, 'application/msgpack', limit=99)\n"
        "print([name for name in ('pydantic', 'attr', 'attrs', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"
