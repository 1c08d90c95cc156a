"""Values survive the way over the wire, what has no form is refused, and no bytes can hurt who reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import subprocess
import sys
from collections import Counter, OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Network
from pathlib import PurePosixPath
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from amqp_rpc.errors import MessageTooLarge, Undecodable, Unencodable
from amqp_rpc.message.codec import (
    JSON,
    LARGE,
    MSGPACK,
    OCTETS,
    TEXT,
    base_type,
    check_encoding,
    decode,
    encode,
)
from tests.ids import shown

LIMIT = 16 * 1024 * 1024

quick = settings(max_examples=60, deadline=None)


def fib(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def over(value: object, content_type: str = MSGPACK) -> object:
    return decode(encode(value, content_type, limit=LIMIT), content_type, limit=LIMIT)


def kind(value: object) -> str:
    return type(value).__name__


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int = 1
    y: Decimal = Decimal(2)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A map on the wire that can be a key in Python."""

    row: object


class Form(enum.Enum):
    """Members whose values msgpack does not know, or can't be keys."""

    DAY = date(2026, 1, 31)
    BIG = 2**100
    PAIR = (1, 2)
    MAP = {"a": 1}  # noqa: RUF012 - an enum's value


class Box(msgspec.Struct):
    width: int


class Tagged(msgspec.Struct, frozen=True, tag="tagged", rename="camel"):
    full_width: int


class Row(msgspec.Struct, array_like=True):
    left: int
    right: int


class Pair(NamedTuple):
    left: int
    right: int


class Hostile:
    def __repr__(self):
        raise RuntimeError("no text")


numbers = st.integers(-(2**63) - 5, 2**64 + 5) | st.integers() | st.floats(allow_nan=False)
plain = st.none() | st.booleans() | numbers | st.text()
in_json = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
zones = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))])
times = st.datetimes(timezones=st.just(UTC)) | st.dates() | st.timedeltas() | st.times(timezones=st.none() | zones)
exact = plain | st.binary() | times | st.decimals(allow_nan=False) | st.uuids()
hashable = st.recursive(exact, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=5)


arrays = st.builds(msgpack.packb, st.lists(st.integers(-(2**63), 2**64 - 1) | st.none(), max_size=4))


anything = st.recursive(
    exact | st.sampled_from([*Form]) | st.datetimes(timezones=zones) | st.builds(Cell, hashable) | st.builds(Point),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(hashable | st.builds(Cell, hashable), inner, max_size=3)
        | st.sets(hashable | st.builds(Cell, hashable), max_size=3)
        | st.tuples(inner, inner)
        | st.builds(deque, st.lists(inner, max_size=2))
    ),
    max_leaves=8,
)


def arriving(value, *, key=False):  # noqa: PLR0911 - one type a line
    """The value as it arrives where no type hint says what it was."""
    match value:
        case Form():
            return arriving(value.value, key=key)
        case Cell() | Point():
            return {field.name: arriving(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case dict():
            return {arriving(name, key=True): arriving(each) for name, each in value.items()}
        case set() | frozenset():
            return type(value)(arriving(each, key=True) for each in value)
        case tuple() if key:
            return tuple(arriving(each, key=True) for each in value)
        case tuple() | list() | deque():
            return [arriving(each) for each in value]
    return value


def unreadable(value):
    """Whether UTC has no such time, or a map would be a key."""
    match value:
        case datetime():
            try:
                value.astimezone(UTC)
            except OverflowError:
                return True
        case Cell():
            return unreadable(value.row)
        case dict():
            return any(has_map(each) or unreadable(each) for each in value) or any(map(unreadable, value.values()))
        case set() | frozenset():
            return any(has_map(each) or unreadable(each) for each in value)
        case tuple() | list() | deque():
            return any(map(unreadable, value))
    return False


def has_map(key):
    return (
        isinstance(key, Cell | Tagged)
        or key is Form.MAP
        or (isinstance(key, tuple | frozenset) and any(map(has_map, key)))
    )


def nested(leaves, keys):
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


def filling(value, size):
    """The text that makes a list of both a body of so many bytes."""
    least = len(encode([value, ""], MSGPACK, limit=LIMIT)) - 1
    # Two lengths below 300 can't be had.
    assume(size - least > 300)
    for head in 1, 2, 3, 5:
        text = "x" * (size - least - head)
        if len(encode(text, MSGPACK, limit=LIMIT)) == size - least:
            return text
    raise AssertionError("a text of some lengths has no head of its own")


class TestRoundTrips:
    @quick
    @given(nested(exact | st.sets(hashable, max_size=4) | st.frozensets(hashable, max_size=4), hashable))
    @example({(1, 2): "a"})
    @example([{(1, (2, frozenset({(3,)}))): {(): b""}}])
    def test_every_supported_value_survives_msgpack(self, value):
        assert over(value) == value

    @quick
    @given(anything)
    @example({Cell(1): "a"})
    @example({(1, Cell(1)): "a"})
    @example([{Cell(1)}])
    @example({Form.MAP: 1})
    @example({Tagged(1): 1})
    @example({frozenset({Form.MAP}): 1})
    @example([Form.BIG, Form.DAY, {Form.BIG}])
    @example(datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))))
    @example([datetime.min.replace(tzinfo=timezone(timedelta(seconds=1)))])
    def test_what_is_encoded_arrives_equal_and_the_rest_is_refused_where_it_is_sent(self, value):
        try:
            body = encode([[value], {"named": value}], MSGPACK, limit=LIMIT)
        except Unencodable:
            assert unreadable(value)
        else:
            assert decode(body, MSGPACK, limit=LIMIT) == [[arriving(value)], {"named": arriving(value)}]

    @pytest.mark.parametrize("threshold", [1024, LARGE])
    @settings(max_examples=40, deadline=None)
    @given(anything, st.integers(-1, 1))
    @example({(1, 2): "a", Cell(1): 2}, 0)
    @example([UUID(int=5), {1, (2, 3)}, frozenset({UUID(int=6)}), 2**100, Decimal("1.1")], 1)
    def test_so_it_is_around_each_size_from_which_a_body_is_read_in_another_way(self, threshold, value, offset):
        with contextlib.suppress(Unencodable):
            beside = filling(value, threshold + offset)
            body = encode([value, beside], MSGPACK, limit=threshold + offset)
            assert len(body) == threshold + offset
            assert decode(body, MSGPACK, limit=len(body)) == [arriving(value), beside]
            for refused in (
                lambda: encode([value, beside], MSGPACK, limit=len(body) - 1),
                lambda: decode(body, MSGPACK, limit=len(body) - 1),
            ):
                with pytest.raises(MessageTooLarge):
                    refused()

    @quick
    @given(st.integers(1, 12), st.integers(0, 300), st.booleans())
    def test_deep_sets_are_refused_where_they_are_sent(self, sets, depth, mapped):
        value = ()
        for _ in range(sets):
            for _ in range(depth):
                value = (value,)
            value = frozenset({value})
        with contextlib.suppress(Unencodable):
            assert over({value: 1} if mapped else value) == ({value: 1} if mapped else value)

    @quick
    @given(nested(in_json, st.text()))
    def test_every_json_value_survives_json(self, value):
        assert over(value, JSON) == value

    @quick
    @given(st.text())
    def test_text_survives_as_text(self, value):
        assert over(value, TEXT) == value

    @pytest.mark.parametrize("edge", [2**63, -(2**63), 2**64, -(2**64), 2**127, -(2**127), 2**1000])
    @pytest.mark.parametrize("offset", [-1, 0, 1])
    def test_integers_around_every_edge_are_exact(self, edge, offset):
        result = over(edge + offset)
        assert (edge + offset, int) == (result, type(result))

    @pytest.mark.parametrize("n", [30, 93, 94, 300, 10_000])
    def test_fibonacci_numbers_are_exact(self, n):
        assert fib(n) == over(fib(n)) == over([fib(n)])[0]

    @pytest.mark.parametrize(
        "value",
        [
            datetime(2026, 1, 31, 12, 30, 15, 123456, tzinfo=UTC),
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            date(2026, 1, 31),
            timedelta(days=-3, seconds=5, microseconds=7),
            Decimal("1.10"),
            Decimal("-Infinity"),
            UUID(int=5),
            time(9, 30),
            time(9, 30, 0, 5, tzinfo=timezone(timedelta(hours=2))),
            {1, 2},
            frozenset({"a"}),
            b"\x00\xff",
        ],
        ids=shown,
    )
    def test_each_extension_type_keeps_its_value_and_type(self, value):
        assert (value, type(value)) == (over(value), type(over(value)))

    def test_a_decimal_keeps_its_trailing_zeros(self):
        assert str(over(Decimal("1.10"))) == "1.10"

    def test_a_datetime_of_another_zone_arrives_in_utc_at_the_same_instant(self):
        sent = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=5)))
        assert (sent, UTC) == (over(sent), over(sent).tzinfo)

    def test_a_tuple_in_a_set_stays_one(self):
        assert over({(1, (2, 3))}) == {(1, (2, 3))}

    def test_a_frozenset_in_a_set_stays_one(self):
        assert over({frozenset({1}), 2}) == {frozenset({1}), 2}

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    @pytest.mark.parametrize(
        ("value", "arrives"),
        [
            (Color.RED, "red"),
            (Box(3), {"width": 3}),
            (Pair(1, 2), [1, 2]),
            ((1, 2), [1, 2]),
            (Tagged(3), {"type": "tagged", "fullWidth": 3}),
            (Row(1, 2), [1, 2]),
            (PurePosixPath("/etc/hosts"), "/etc/hosts"),
            (IPv4Address("10.0.0.1"), "10.0.0.1"),
            (IPv6Network("fe80::/64"), "fe80::/64"),
            (Fraction(1, 3), "1/3"),
            (1 - 2j, "(1-2j)"),
            (deque([1, Pair(1, 2)]), [1, [1, 2]]),
            (OrderedDict(a=1), {"a": 1}),
            (Counter("aab"), {"a": 2, "b": 1}),
            ({"a": [Color.RED]}, {"a": ["red"]}),
        ],
        ids=shown,
    )
    def test_structures_travel_as_plain_values(self, value, arrives, content_type):
        assert arrives == over(value, content_type)

    def test_a_dataclass_travels_as_a_map_of_its_fields(self):
        assert over(Point(1, Decimal("2.5"))) == {"x": 1, "y": Decimal("2.5")}

    @pytest.mark.parametrize(
        ("value", "arrives"),
        [
            (date(2026, 1, 31), "2026-01-31"),
            (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00Z"),
            (timedelta(hours=1), "PT3600S"),
            (Decimal("1.10"), "1.10"),
            (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
            ({1}, [1]),
            (frozenset(), []),
            (b"hi", "aGk="),
            (bytearray(b"hi"), "aGk="),
            (memoryview(b"hi"), "aGk="),
            (time(9, 30), "09:30:00"),
        ],
        ids=shown,
    )
    def test_in_json_they_are_what_people_write_by_hand(self, value, arrives):
        assert arrives == over(value, JSON)

    @pytest.mark.parametrize("value", [b"\x89PNG", bytearray(b"\x89PNG"), memoryview(b"\x89PNG")], ids=kind)
    @pytest.mark.parametrize("content_type", [TEXT, OCTETS])
    def test_bytes_are_sent_as_they_are(self, value, content_type):
        assert encode(value, content_type, limit=LIMIT) == b"\x89PNG"

    @pytest.mark.parametrize("value", [b"\x89PNG", "text", b"", "\N{SNOWMAN}"])
    def test_octets_are_text_where_they_are_utf_8_and_bytes_otherwise(self, value):
        expected = value.decode() if value == b"" else value
        assert (expected, type(expected)) == (over(value, OCTETS), type(over(value, OCTETS)))

    @pytest.mark.parametrize("content_type", [TEXT, OCTETS, "image/png"])
    @pytest.mark.parametrize("body", [b"text", b"\xff"])
    def test_bytes_are_read_as_they_are_where_bytes_are_wanted(self, body, content_type):
        assert decode(body, content_type, limit=LIMIT, raw=True) == body

    def test_values_stay_values_where_bytes_are_wanted(self):
        assert decode(b"[1]", JSON, limit=LIMIT, raw=True) == [1]

    def test_json_keeps_letters_as_they_are(self):
        assert encode(["é"], JSON, limit=LIMIT) == '["é"]'.encode()


class TestBodiesOneAfterAnother:
    """Each is written by what has written others before."""

    def test_a_body_after_a_refused_one_has_nothing_of_it(self):
        for _ in range(3):
            with pytest.raises(Unencodable):
                encode(["begun", object()], MSGPACK, limit=LIMIT)
            assert encode(["next"], MSGPACK, limit=LIMIT) == msgpack.packb(["next"])

    def test_a_body_after_a_large_one_is_whole(self):
        encode(b"x" * 300_000, MSGPACK, limit=LIMIT)
        assert encode(["next"], MSGPACK, limit=LIMIT) == msgpack.packb(["next"])

    def test_a_value_whose_own_code_encodes_another_one_is_whole(self):
        @dataclasses.dataclass
        class Nested:
            text: str

            def __getattribute__(self, name: str) -> object:
                encode(["inside"], MSGPACK, limit=LIMIT)
                return super().__getattribute__(name)

        assert encode(["before", Nested("a"), "after"], MSGPACK, limit=LIMIT) == msgpack.packb(
            ["before", {"text": "a"}, "after"]
        )

    def test_bodies_of_many_threads_are_whole(self):
        def wrong(number: int) -> list[int]:
            values = [[number, index, {"text": str(number) * index}] for index in range(200)]
            return [n for n, value in enumerate(values) if encode(value, MSGPACK, limit=LIMIT) != msgpack.packb(value)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(wrong, range(8))) == [[]] * 8


class TestRefusals:
    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    def test_a_naive_datetime_is_refused_with_advice(self, content_type):
        with pytest.raises(Unencodable, match="give it tzinfo"):
            encode([datetime(2026, 1, 31)], content_type, limit=LIMIT)  # noqa: DTZ001 - that is the point

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    @pytest.mark.parametrize(
        "value", [object(), print, int, (i for i in ()), range(3), {}.keys(), [1].append], ids=kind
    )
    def test_an_object_is_refused(self, value, content_type):
        with pytest.raises(Unencodable, match=r"cannot send .* has no form on the wire"):
            encode({"a": [value]}, content_type, limit=LIMIT)

    @pytest.mark.parametrize("value", [5, None, ["x"], object()], ids=kind)
    def test_octets_are_bytes_or_text(self, value):
        with pytest.raises(Unencodable, match="is bytes or text"):
            encode(value, OCTETS, limit=LIMIT)

    @pytest.mark.parametrize(
        ("value", "advice"),
        [
            (range(3), r"range has no form on the wire; send list\(numbers\)"),
            ((i for i in ()), r"send list\(generator\)"),
            ({}.items(), r"send dict\(items\)"),
            (object(), "send one of: None, bool, int, .* enums, dataclasses"),
            ({Cell(1): 1}, "a key of a map .* can be no map, .* as a tuple"),
            (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "out of the years 1 to 9999 in UTC"),
            (time(9, tzinfo=ZoneInfo("Europe/Berlin")), "depends on the date"),
        ],
        ids=shown,
    )
    def test_a_refusal_says_what_to_send(self, value, advice):
        with pytest.raises(Unencodable, match=advice):
            encode([value], MSGPACK, limit=LIMIT)

    def test_a_datetime_of_a_subclass_is_sent_as_one(self):
        class Stamp(datetime):
            pass

        assert over(Stamp(2026, 1, 31, tzinfo=UTC)) == datetime(2026, 1, 31, tzinfo=UTC)

    def test_not_a_number_is_refused_in_json(self):
        with pytest.raises(Unencodable):
            encode(float("nan"), JSON, limit=LIMIT)

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    @pytest.mark.parametrize("depth", [900, 990, 1000, 1022, 1023, 1030, 5000])
    def test_deep_nesting_is_sent_or_refused(self, depth, content_type):
        value: list = []
        for _ in range(depth):
            value = [value]
        try:
            assert encode(value, content_type, limit=LIMIT)
        except Unencodable:
            assert depth > 900

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    def test_a_list_that_holds_itself_is_refused(self, content_type):
        value: list = []
        value.append(value)
        with pytest.raises(Unencodable):
            encode(value, content_type, limit=LIMIT)

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON, TEXT])
    def test_half_a_character_is_refused(self, content_type):
        with pytest.raises(Unencodable):
            encode("\ud800", content_type, limit=LIMIT)

    @pytest.mark.parametrize("content_type", [JSON, TEXT])
    def test_an_integer_too_long_to_print_is_refused(self, content_type):
        with pytest.raises(Unencodable):
            encode(10**5000, content_type, limit=LIMIT)

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON, TEXT])
    def test_an_object_without_text_is_refused(self, content_type):
        with pytest.raises(Unencodable):
            encode([Hostile(), 10**5000], content_type, limit=LIMIT)

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    def test_a_dataclass_with_a_field_that_was_never_set_is_refused(self, content_type):
        @dataclasses.dataclass
        class Unset:
            field: int = dataclasses.field(init=False)

        with pytest.raises(Unencodable):
            encode(Unset(), content_type, limit=LIMIT)


class TestLimits:
    @pytest.mark.parametrize("content_type", [MSGPACK, JSON, TEXT])
    def test_a_body_of_just_the_limit_passes_and_one_byte_more_does_not(self, content_type):
        value = "x" * 100
        size = len(encode(value, content_type, limit=LIMIT))
        body = encode(value, content_type, limit=size)
        assert value == decode(body, content_type, limit=size)
        with pytest.raises(MessageTooLarge, match=rf"{size} bytes, and the limit is {size - 1} \(max_message_size\)"):
            encode(value, content_type, limit=size - 1)
        with pytest.raises(MessageTooLarge, match=rf"{size} bytes, and the limit is {size - 1} \(max_message_size\)"):
            decode(body, content_type, limit=size - 1)


def ext(number: int, data: bytes) -> bytes:
    return b"\xc9" + len(data).to_bytes(4, "big") + bytes([number]) + data


def frozensets(depth: int, inner: bytes) -> bytes:
    for _ in range(depth):
        inner = ext(7, b"\x91" + inner)
    return inner


class TestHostileBytes:
    @quick
    @given(st.binary(), st.sampled_from([MSGPACK, JSON, TEXT]) | st.text())
    @example(b"\xd6\xff\xff\xff\xff\xff", MSGPACK)
    @example(b"\x81\x80\x01", MSGPACK)
    def test_arbitrary_bytes_are_a_value_or_undecodable(self, body, content_type):
        with contextlib.suppress(Undecodable, MessageTooLarge):
            decode(body, content_type, limit=100)

    @quick
    @given(st.integers(0, 127), st.binary() | arrays)
    def test_arbitrary_extensions_are_a_value_or_undecodable(self, number, data):
        with contextlib.suppress(Undecodable):
            decode(ext(number, data), MSGPACK, limit=LIMIT)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xc1",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\xc9\xff\xff\xff\xff\x01",
            b"\x91" * 100_000,
            b"\x91" * 100_000 + b"\xc0",
            b"\xc0\xc0",
            ext(6, b"\xdd\xff\xff\xff\xff"),
            ext(6, b"\x91\x90\x90"),
            ext(7, b"\x91" * 100_000 + b"\xc0"),
            ext(6, b"\x91\x81\x01\x02"),
            ext(6, b"\x01"),
            ext(3, b"\xdd\xff\xff\xff\xff"),
            ext(3, b"\x93\x01\x01\xa1x"),
            ext(3, b"\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
            ext(2, b"2026-13-01"),
            ext(4, b"one"),
            ext(5, b"short"),
            ext(0, b""),
            ext(99, b"x"),
            b"\xa1\xff",
        ],
        ids=lambda body: body[:8].hex() or "empty",
    )
    def test_what_is_not_msgpack_is_undecodable(self, body):
        with pytest.raises(Undecodable, match="is not application/msgpack"):
            decode(body, MSGPACK, limit=LIMIT)

    @pytest.mark.parametrize(
        "body",
        [b"", b"[", b"[1] 2", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'"\xff"', b"\x00", b"{1: 2}"],
        ids=lambda body: repr(body[:8]),
    )
    def test_what_is_not_json_is_undecodable(self, body):
        with pytest.raises(Undecodable, match="is not application/json"):
            decode(body, JSON, limit=LIMIT)

    def test_invalid_utf_8_is_no_text(self):
        with pytest.raises(Undecodable, match="is not text/plain"):
            decode(b"\xff", TEXT, limit=LIMIT)

    @pytest.mark.parametrize("content_type", ["application/xml", "", "application/x-python-pickle"])
    def test_an_unknown_content_type_is_undecodable_and_the_known_ones_are_named(self, content_type):
        with pytest.raises(Undecodable, match=r"is not known here; send application/msgpack, application/json or text"):
            decode(b"1", content_type, limit=LIMIT)

    # Each runs in a process of its own, with little memory: what they try is to end the process or to fill it.
    @pytest.mark.parametrize(
        "bomb",
        [
            # Arrays that each claim all the bytes there are: a reader that believes them reserves gigabytes.
            "b'\\xdd\\x00\\xff\\xff\\xff' * (LIMIT // 5)",
            "ext(3, b'\\xdd\\x00\\xff\\xff\\xff' * (LIMIT // 5 - 2))",
            "ext(6, b'\\xdd\\x00\\xff\\xff\\xff' * (LIMIT // 5 - 2))",
            # Sets in sets: each level runs a reader of its own, on the stack of the ones around it.
            "frozensets(200, b'\\x01')",
            "frozensets(5000, b'\\x01')",
            # … and copies what is inside.
            "frozensets(40, b'\\xc6' + (LIMIT - 2000).to_bytes(4, 'big') + bytes(LIMIT - 2000))",
        ],
    )
    def test_a_bomb_neither_ends_the_process_nor_fills_its_memory(self, bomb):
        program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from amqp_rpc.message.codec import MSGPACK, decode
from amqp_rpc.errors import Undecodable
LIMIT = {LIMIT}
ext = lambda number, data: b"\\xc9" + len(data).to_bytes(4, "big") + bytes([number]) + data
def frozensets(depth, inner):
    for _ in range(depth):
        inner = ext(7, b"\\x91" + inner)
    return inner
body = {bomb}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(body, MSGPACK, limit=LIMIT)
except Undecodable as error:
    # Memory that ran out is no decision: it would have run out for the whole process.
    sys.exit(4 if isinstance(error.__cause__, MemoryError) else 0)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
sys.exit(0 if grown < 200_000 else 3)
"""
        ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [
        (None, OCTETS),
        ("", OCTETS),
        ("text/plain", TEXT),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("text/json", JSON),
        ("application/vnd.api+json", JSON),
        ("application/problem+JSON;charset=utf-8", JSON),
        ("application/x-msgpack", MSGPACK),
        ("application/vnd.msgpack", MSGPACK),
        ("application/vnd.acme+msgpack", MSGPACK),
        ("text/html; charset=utf-8", TEXT),
        ("TEXT/PLAIN", TEXT),
        ("application/octet-stream", OCTETS),
        ("Application/Octet-Stream", OCTETS),
        ("application/data", OCTETS),
        ("image/PNG", "image/png"),
        (" application/msgpack ", MSGPACK),
    ],
)
def test_a_content_type_is_read_without_its_parameters(given_type, expected):
    assert expected == base_type(given_type)


@pytest.mark.parametrize(
    "encoding", [None, "", "utf-8", "UTF-8", "utf8", "us-ascii", "US-ASCII", "8bit", "7bit", "binary", "identity"]
)
def test_an_encoding_that_changes_no_byte_is_taken(encoding):
    check_encoding(encoding)


@pytest.mark.parametrize("encoding", ["gzip", "base64", "utf-16", "latin-1", b"utf-8", 5, []])
def test_any_other_encoding_is_undecodable(encoding):
    with pytest.raises(Undecodable, match="is not known here; send none"):
        check_encoding(encoding)
