"""The work for a body is bounded by its size, whoever wrote it: its time and its memory. No test asserts a time."""

from __future__ import annotations

import enum
import gc
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc.errors import Undecodable, Unencodable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK
from amqp_rpc.message.envelope import pack_names, read_names
from tests.waiting import until

#: Python's hash of a whole number is its remainder by this.
P = 2**61 - 1
MANY = 2000
LIMIT = 2**24


def decoded(body: bytes, content_type: str = MSGPACK, limit: int = LIMIT) -> Any:
    return codec.decode(body, content_type, limit=limit)


def big(k: int) -> msgpack.ExtType:
    return msgpack.ExtType(1, (k * P).to_bytes(40, "big"))


#: What a stranger writes for many values whose hashes are one.
COLLIDING: dict[str, list[Any]] = {
    "large integers": [big(k) for k in range(1, MANY)],
    "UUIDs": [msgpack.ExtType(5, (k * P).to_bytes(16, "big")) for k in range(MANY)],
    "Decimals": [msgpack.ExtType(4, str(k * P).encode()) for k in range(MANY)],
    "tuples": [(1, (2, big(k))) for k in range(1, MANY)],
    "frozensets": [msgpack.ExtType(7, msgpack.packb([big(k)])) for k in range(1, MANY)],
    "a kind each": [
        [big(k), msgpack.ExtType(4, str(k * P).encode()), msgpack.ExtType(5, (k * P).to_bytes(16, "big"))][k % 3]
        for k in range(1, MANY)
    ],
    "behind honest ones": [*range(MANY), *(big(k) for k in range(1, MANY))],
}

Form = enum.Enum("Form", {"A": "a", "ONE": 1})


@pytest.mark.parametrize("keys", COLLIDING.values(), ids=COLLIDING)
class TestHashesThatCollide:
    def test_elements_of_a_set_are_refused(self, keys):
        for code in 6, 7:
            with pytest.raises(Undecodable, match="have the hashes of others"):
                decoded(msgpack.packb([msgpack.ExtType(code, msgpack.packb(keys))]))

    def test_keys_of_a_map_are_refused(self, keys):
        body = b"\xdf" + len(keys).to_bytes(4, "big") + b"".join(msgpack.packb(key) + b"\xc0" for key in keys)
        with pytest.raises(Undecodable, match="have the hashes of others"):
            decoded(body)
        with pytest.raises(Undecodable, match="have the hashes of others"):
            decoded(b"\x92\x91" + body + b"\x80")

    def test_they_may_be_the_items_of_a_list(self, keys):
        assert len(decoded(msgpack.packb(keys))) == len(keys)


@pytest.mark.parametrize(
    "keys",
    [
        range(-5000, 5000),
        [k * 2**40 for k in range(5000)],
        [k / 8 for k in range(5000)],
        [2**k for k in range(70)],
        [Decimal(k) / 7 for k in range(3000)],
        [UUID(int=k << 90) for k in range(3000)],
        [(k, str(k)) for k in range(3000)],
        [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=k) for k in range(3000)],
        [frozenset({k}) for k in range(3000)],
        [str(k) for k in range(5000)],
        [str(k).encode() for k in range(5000)],
    ],
    ids=lambda keys: type(keys[0]).__name__,
)
def test_honest_keys_arrive(keys):
    for value in (dict.fromkeys(keys, True), set(keys), [frozenset(keys), {"a": [set(keys)]}]):
        assert decoded(codec.encode(value, MSGPACK, limit=LIMIT)) == value


def test_keys_that_meet_on_their_way_through_a_table_are_refused(monkeypatch):
    # Their hashes differ, and they take as long all the same: only a clock sees it. It stands in for hours.
    times = iter(range(1000))
    monkeypatch.setattr(codec, "thread_time", lambda: next(times))
    with pytest.raises(Undecodable, match="take too long"):
        decoded(codec.encode(dict.fromkeys(range(5000)), MSGPACK, limit=LIMIT))


def test_a_map_of_few_colliding_keys_is_read():
    keys = [k * P for k in range(-4, 5)]
    assert decoded(codec.encode(dict.fromkeys(keys, 1), MSGPACK, limit=LIMIT)) == dict.fromkeys(keys, 1)


def array(count: int, item: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


SIZE = 4 * 2**20
#: Bodies whose values would take far more memory than their bytes.
HEAVY = {
    "empty lists": (MSGPACK, array(SIZE, b"\x90")),
    "empty maps": (MSGPACK, array(SIZE, b"\x80")),
    "empty lists behind a long text": (
        MSGPACK,
        b"\x92\xc6" + (SIZE // 8).to_bytes(4, "big") + b"\x90" * (SIZE // 8) + array(SIZE // 8 * 7, b"\x90"),
    ),
    "empty sets": (MSGPACK, array(SIZE // 3, b"\xd4\x06\x90")),
    "lists of one": (MSGPACK, array(SIZE // 2, b"\x91\x01")),
    "maps of one": (MSGPACK, array(SIZE // 3, b"\x81\x01\x01")),
    "lists of lists": (MSGPACK, array(SIZE // 9, b"\x91" * 8 + b"\x01")),
    "empty lists in JSON": (JSON, b"[" + b"[]," * (SIZE // 3) + b"1]"),
    "empty maps in JSON": (JSON, b"[" + b"{}," * (SIZE // 3) + b"1]"),
    "lists of lists in JSON": (JSON, b"[" + b"[[[[[[[[]]]]]]]]," * (SIZE // 17) + b"1]"),
}
#: Bodies that have the same bytes, and few values; or as many as a body may have.
LIGHT = {
    "bytes": (MSGPACK, b"\xc6" + SIZE.to_bytes(4, "big") + b"\x90" * SIZE),
    "text": (MSGPACK, b"\xdb" + (SIZE // 3 * 3).to_bytes(4, "big") + "語".encode() * (SIZE // 3)),
    "text in JSON": (JSON, b'["' + b"[{," * (SIZE // 3) + b'"]'),
    "negative numbers": (MSGPACK, array(SIZE // 2, b"\xf0")),
    "short texts": (MSGPACK, array(SIZE // 3, b"\xa2\xd1\x8e")),
    "Decimals": (MSGPACK, array(SIZE // 6, b"\xd4\x04\x39")),
    "floats": (MSGPACK, array(SIZE // 9, b"\xcb\x3f\xf8\x90\x91\x92\x93\x94\x95")),
    "short records": (MSGPACK, array(SIZE // 9, b"\x92\xcd\x40\x40\xca\x80\x90\x90\x90")),
}

PEAK = """
import resource, sys
from amqp_rpc.errors import Undecodable
from amqp_rpc.message import codec
body, limit = sys.stdin.buffer.read(), int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    value = codec.decode(body, sys.argv[1], limit=limit)
except Undecodable:
    print("refused")
else:
    print("read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def peak(content_type: str, body: bytes) -> tuple[str, int]:
    ended = subprocess.run(
        [sys.executable, "-c", PEAK, content_type, str(SIZE + 1024)], input=body, capture_output=True, check=True
    )
    said, memory = ended.stdout.split()
    return said.decode(), int(memory)


@pytest.mark.parametrize(("content_type", "body"), HEAVY.values(), ids=HEAVY)
def test_values_that_take_too_much_memory_are_refused_before_they_take_it(content_type, body):
    said, memory = peak(content_type, body)
    assert said == "refused"
    assert memory <= codec.MEMORY * SIZE


@pytest.mark.parametrize(("content_type", "body"), LIGHT.values(), ids=LIGHT)
def test_values_of_as_many_bytes_are_read_in_the_memory_that_a_body_may_take(content_type, body):
    said, memory = peak(content_type, body)
    assert said == "read"
    assert memory <= codec.MEMORY * SIZE


def values_of(value: object) -> int:
    """How many values there are in one, keys too."""
    if isinstance(value, dict):
        return 1 + sum(values_of(key) + values_of(item) for key, item in value.items())
    return 1 + sum(map(values_of, value)) if isinstance(value, list) else 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(width=32) | st.text(max_size=300)
        | st.binary(max_size=300) | st.builds(bytes, st.integers(60000, 70000)),
        lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
        max_leaves=30,
    ),
    st.booleans(),
)  # fmt: skip
def test_the_values_at_the_beginning_of_a_body_are_counted(value, single):
    body = msgpack.packb(value, use_single_float=single)
    values, end = codec._long_texts(body)
    if values < 64:
        assert (values, end) == (values_of(value), len(body))
    assert values <= values_of(value)


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_what_could_not_be_read_is_refused_where_it_is_sent(content_type):
    with pytest.raises(Unencodable, match="so many values"):
        codec.encode([[] for _ in range(80_000)], content_type, limit=2**18)


bodies = st.recursive(
    st.sampled_from(
        [b"\xc0", b"\xf0", b"\x01", b"\xa1a", b"\xcb" + bytes(8), b"\xd8\x05" + bytes(16), b"\xd4\x01\x07"]
    ),
    lambda parts: st.builds(
        lambda kind, count, part: {
            "list": array(count, part),
            "map": b"\xdf" + count.to_bytes(4, "big") + part * (2 * count),
            "set": b"\xc9" + (5 + count * len(part)).to_bytes(4, "big") + b"\x06" + array(count, part),
        }[kind],
        st.sampled_from(["list", "map", "set"]),
        st.integers(0, 40),
        parts,
    ),
    max_leaves=8,
)


def count(value: Any) -> int:
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return 1 + sum(map(count, parts)) if isinstance(value, dict | list | tuple | set | frozenset) else 1


@settings(max_examples=200, deadline=None)
@given(bodies)
def test_each_body_is_read_in_bounded_nodes_or_refused(body):
    if len(body) > LIMIT:
        return
    try:
        value = decoded(body, limit=len(body))
    except Undecodable:
        return
    assert count(value) * 8 <= codec.MEMORY * max(len(body), 64 * 1024)


class TestWhatIsOneOnItsWay:
    @pytest.mark.parametrize(
        "value",
        [
            {Form.A, "a"},
            {Form.A: 1, "a": 2},
            {Form.ONE: 1, 1.0: 2},
            [{(Form.A,), ("a",)}],
            {PurePath("a"): 1, "a": 2},
            {Fraction(1, 2), "1/2"},
            {frozenset({Form.A}), frozenset({"a"})},
        ],
    )
    def test_keys_that_would_be_one_are_refused_where_they_are_sent(self, value):
        with pytest.raises(Unencodable, match="are one once they have arrived"):
            codec.encode(value, MSGPACK, limit=LIMIT)

    @pytest.mark.parametrize(
        "value", [{1: "a", "1": "b"}, [{"true": 1, True: 2}], {None: 1, "null": 2}, {1.5: 1, "1.5": 2}]
    )
    def test_keys_that_are_one_as_text_are_refused_where_they_are_sent(self, value):
        with pytest.raises(Unencodable, match="one as text"):
            codec.encode(value, JSON, limit=LIMIT)

    def test_others_are_sent(self):
        assert decoded(codec.encode({Form.A: 1, "b": 2}, MSGPACK, limit=LIMIT)) == {"a": 1, "b": 2}
        assert decoded(codec.encode({1: "a", "2": "b", '"1":': 3}, JSON, limit=LIMIT), JSON) == {
            "1": "a",
            "2": "b",
            '"1":': 3,
        }

    @pytest.mark.parametrize("beside", [0, 1000, 5000, codec.LARGE])
    @pytest.mark.parametrize("code", [0, 2, 4, 6, 8, 9, 127])
    def test_an_extension_of_msgpack_that_can_t_be_read_is_refused_where_it_is_sent(self, code, beside):
        foreign = msgpack.ExtType(code, b"nonsense")
        for value in (foreign, {foreign: 1}, {"a": [(foreign,)]}, {frozenset({foreign})}):
            with pytest.raises(Unencodable, match="could not be read"):
                codec.encode([["x" * beside, value], {}], MSGPACK, limit=LIMIT)

    @settings(max_examples=200, deadline=None)
    @given(
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20) | bodies)
        | st.builds(msgpack.Timestamp, st.integers(-(2**40), 2**40), st.integers(0, 10**9 - 1)),
        st.sampled_from([0, 1000, 5000]),
    )
    def test_each_other_one_can_be_read(self, foreign, beside):
        try:
            body = codec.encode([["x" * beside, foreign], {}], MSGPACK, limit=LIMIT)
        except Unencodable:
            return
        decoded(body)


class TestTheGarbageCollector:
    """New values are no garbage: to look at all of them again and again takes three times as long as to make them."""

    @pytest.fixture
    def on(self, monkeypatch) -> list[bool]:
        """Whether it was on, each time that a body was read."""
        seen, unpack = [], codec._unpack
        monkeypatch.setattr(codec, "_unpack", lambda *args: (seen.append(gc.isenabled()), unpack(*args))[1])
        return seen

    def test_it_pauses_while_a_large_body_is_read_alone(self, on):
        for size in (codec.LARGE - 5, codec.LARGE - 4):
            decoded(codec.encode("x" * size, MSGPACK, limit=LIMIT))
        with pytest.raises(Undecodable):
            decoded(b"\xc1" * (codec.LARGE + 1))
        assert on == [True, False, False]
        assert gc.isenabled()

    def test_where_it_is_off_it_is_left_alone_since_another_thread_may_be_about_to_switch_it_on(self, monkeypatch):
        body, touched = codec.encode("x" * codec.LARGE, MSGPACK, limit=LIMIT), []
        gc.disable()
        try:
            monkeypatch.setattr(gc, "disable", lambda: touched.append("disable"))
            monkeypatch.setattr(gc, "enable", lambda: touched.append("enable"))
            decoded(body)
        finally:
            monkeypatch.undo()
            gc.enable()
        assert not touched

    def test_it_is_on_after_two_threads_have_read_at_the_same_time(self, monkeypatch):
        body, both = codec.encode("x" * codec.LARGE, MSGPACK, limit=LIMIT), threading.Barrier(2)
        first_ended = threading.Event()

        def read(*_: Any) -> None:
            if both.wait(20) == 0:
                first_ended.wait(20)

        monkeypatch.setattr(codec, "_unpack", read)
        threads = [threading.Thread(target=decoded, args=[body]) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: not all(thread.is_alive() for thread in threads))
        first_ended.set()
        for thread in threads:
            thread.join(20)
        assert gc.isenabled()

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_it_is_on_in_a_child_that_is_forked_meanwhile(self, monkeypatch):
        def fork(*_: Any) -> int:
            assert not gc.isenabled()
            if (child := os.fork()) == 0:
                os._exit(0 if gc.isenabled() else 1)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        monkeypatch.setattr(codec, "_unpack", fork)
        assert decoded(codec.encode("x" * codec.LARGE, MSGPACK, limit=LIMIT)) == 0


class TestNames:
    def test_they_come_in_bodies_that_can_be_read(self):
        names = [f"{n}-é-" + "x" * (n % 250) for n in range(3000)]
        bodies = [*pack_names(names)]
        assert [name for body in bodies for name in read_names(body)] == names
        assert max(map(len, bodies)) <= 16 * 1024

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\x01",
            msgpack.packb([1]),
            msgpack.packb({"a": 1}),
            msgpack.packb([["a"]]),
            b"\xdd\xff\xff\xff\xff",
            b"\x91" * 5000,
            b"\x91\xa2\xff\xff",
            msgpack.packb(["x" * 300] * 100),
            msgpack.packb([msgpack.ExtType(6, msgpack.packb(COLLIDING["UUIDs"]))]),
        ],
        ids=lambda body: f"{body[:8]!r}",
    )
    def test_what_is_larger_or_no_list_of_texts_is_undecodable(self, body):
        with pytest.raises(Undecodable):
            read_names(body)
