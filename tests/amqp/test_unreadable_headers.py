"""A header that pika can't read costs that header alone: the message keeps the rest of its properties."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pika
import pika.data
import pika.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc.amqp.frames import salvaged

FLAGS = {
    "content_type": 15,
    "headers": 13,
    "correlation_id": 10,
    "reply_to": 9,
    "message_id": 7,
    "type": 5,
    "app_id": 3,
}
ALL = {"content_type": "application/json", "correlation_id": "c", "reply_to": "r", "message_id": "m", "type": "t"}

#: Headers that pika can't read, as they are on the wire.
NAN = b"\x05scored" + struct.pack(">d", float("nan"))
FAR = b"\x04whenT" + struct.pack(">Q", 10**15)
INFINITE = b"\x05ratiof" + struct.pack(">f", float("inf"))
NESTED = b"\x04deepF" + struct.pack(">I", len(FAR)) + FAR
ODD = b"\x03odd?xyz"
GOOD = (
    b"\x01aS\x00\x00\x00\x01b",
    b"\x01nt\x01",
    b"\x01fd" + struct.pack(">d", 2.0),
    b"\x01lA\x00\x00\x00\x05I\0\0\0\x05",
)


def short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def header_frame(table: bytes, **properties: str) -> bytes:
    flags, values = 0, b""
    for name, bit in FLAGS.items():
        if name == "headers":
            flags |= 1 << bit
            values += struct.pack(">I", len(table)) + table
        elif name in properties:
            flags |= 1 << bit
            values += short(properties[name])
    payload = struct.pack(">HHQH", 60, 0, 5, flags) + values
    return struct.pack(">BHL", 2, 3, len(payload)) + payload + b"\xce"


def read(frame: bytes) -> Any:
    consumed, value = pika.frame.decode_frame(frame)
    assert consumed == len(frame)
    assert (value.channel_number, value.body_size) == (3, 5)
    return value.properties


@pytest.mark.parametrize(
    ("bad", "named"),
    [(NAN, "score"), (FAR, "when"), (INFINITE, "ratio"), (NESTED, "deep")],
    ids=["NaN", "a far time", "infinite", "a table"],
)
def test_all_but_a_header_that_can_t_be_read_is_kept(bad, named):
    frame = header_frame(GOOD[0] + GOOD[1] + bad + GOOD[2] + GOOD[3], **ALL, app_id="x")
    with pytest.raises(Exception):  # noqa: B017 - it raises anything
        read(frame)
    found = read(salvaged(frame, pika.data.decode_table))
    assert {name: getattr(found, name) for name in ALL} == ALL
    assert found.app_id == "x"
    assert found.headers == {"a": "b", "n": True, "f": 2, "l": [5], "unreadable": f"header '{named}'"}


def test_behind_a_type_that_is_not_known_no_header_can_be_read():
    found = read(salvaged(header_frame(GOOD[0] + ODD + GOOD[1], **ALL), pika.data.decode_table))
    assert found.headers == {"a": "b", "unreadable": "header 'odd' and those behind it"}
    assert {name: getattr(found, name) for name in ALL} == ALL


def test_what_is_cut_off_is_lost_and_said():
    frame = header_frame(NAN, content_type="text/plain")
    # The table says that it is longer than the frame.
    broken = frame.replace(struct.pack(">I", len(NAN)), struct.pack(">I", 10**6))
    found = read(salvaged(broken, pika.data.decode_table))
    assert (found.content_type, found.headers) == ("text/plain", {"unreadable": "the properties"})


def frames() -> Iterator[bytes]:
    for table in (NAN, FAR, ODD, NESTED, b"".join(GOOD), b"", NAN + b"".join(GOOD)):
        yield header_frame(table, **ALL)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([*frames()]), st.lists(st.tuples(st.integers(21, 200), st.integers(0, 255)), max_size=4))
def test_any_frame_becomes_one_that_pika_reads_and_that_says_so(frame, changes):
    broken = bytearray(frame)
    for at, byte in changes:
        if at < len(broken) - 1:
            broken[at] = byte
    assert "unreadable" in read(salvaged(bytes(broken), pika.data.decode_table)).headers
