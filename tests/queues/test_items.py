"""Items as messages: what is written is read, and what anybody else may have written does no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.errors import MessageTooLarge, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK
from amqp_rpc.message.envelope import Properties
from amqp_rpc.queues import items

LIMIT = 1000
ADDRESS = "amq.gen-abc"


def made(value: object = 1, number: int = 7, *, limit: int = LIMIT) -> items.Message:
    body = codec.encode(value, MSGPACK, limit=limit)
    message = items.item("q", body, identity=f"me-{number:x}-proof")
    message.properties.reply_to = ADDRESS
    return message


def test_an_item_is_persistent_and_says_who_put_it_and_where_its_receipt_goes() -> None:
    message = made()
    properties = message.properties
    assert (message.routing_key, properties.delivery_mode, properties.content_type) == ("q", 2, MSGPACK)
    assert (properties.message_id, properties.type) == ("me-7-proof", "item")
    assert items.receipt_to(properties) == ADDRESS


@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists))
def test_a_value_is_what_it_was(value: object) -> None:
    message = made(value, limit=10**9)
    assert items.value(message.properties, message.body, limit=10**9) == value


@pytest.mark.parametrize(
    ("properties", "body", "value"),
    [
        (Properties(), b"text", "text"),
        (Properties(content_type="text/plain; charset=utf-8"), "ä".encode(), "ä"),
        (Properties(content_type=JSON), b"[1]", [1]),
        (Properties(content_type=MSGPACK, content_encoding="utf-8"), b"\x01", 1),
        (Properties(content_type="application/octet-stream"), b"text", "text"),
        (Properties(content_type="application/octet-stream"), b"\x89PNG\xff", b"\x89PNG\xff"),
        (Properties(), b"\x89PNG\xff", b"\x89PNG\xff"),
        (Properties(content_type="application/x-msgpack", content_encoding="binary"), b"\x91\x01", [1]),
        (Properties(content_type="application/vnd.api+json", content_encoding="US-ASCII"), b"[1]", [1]),
    ],
)
def test_another_program_s_item_is_read_by_its_content_type(properties: Properties, body: bytes, value: object) -> None:
    assert items.value(properties, body, limit=LIMIT) == value


@pytest.mark.parametrize(
    ("properties", "body"),
    [
        (Properties(content_type="image/png"), b""),
        (Properties(content_type=JSON), b"{"),
        (Properties(content_type="text/plain"), b"\xff"),
        (Properties(content_encoding="gzip"), b"1"),
        (Properties(content_type=5), b"1"),  # type: ignore[arg-type] # pika reads anything
        (Properties(content_encoding=[]), b"1"),  # type: ignore[arg-type] # the same
    ],
)
def test_what_can_not_be_read_is_undecodable(properties: Properties, body: bytes) -> None:
    with pytest.raises(Undecodable):
        items.value(properties, body, limit=LIMIT)


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(MessageTooLarge):
        items.value(Properties(), b"x" * 11, limit=10)


@pytest.mark.parametrize(
    "properties",
    [
        Properties(message_id="1", reply_to=ADDRESS),
        Properties(type="item", reply_to=ADDRESS),
        Properties(type="item", message_id="1"),
        Properties(type="item", message_id="1", reply_to="task_queue"),
        Properties(type="item", message_id="1", reply_to=5),  # type: ignore[arg-type] # pika reads anything
    ],
)
def test_a_receipt_goes_only_where_receipts_go(properties: Properties) -> None:
    assert items.receipt_to(properties) is None


def test_a_receipt_says_whose_items_are_done() -> None:
    (receipt,) = items.receipts(ADDRESS, ["me-7-a", "me-ff-b", "you-0-c"])
    assert (receipt.routing_key, receipt.properties.type) == (ADDRESS, "done")
    assert items.read_receipt(receipt.properties, receipt.body) == ["me-7-a", "me-ff-b", "you-0-c"]
    assert [items.token_of(each) for each in ("me-7-a", "you", 5, None, "x" * 256)] == ["me", "you", "", "", ""]


@pytest.mark.parametrize(
    ("properties", "value"),
    [
        (Properties(type="done", content_type=MSGPACK), b"\xc1"),
        (Properties(type="done", content_type=MSGPACK), b"\x01"),
        (Properties(type="done"), b"me-1-7"),
    ],
)
def test_what_is_no_receipt_says_nothing(properties: Properties, value: bytes) -> None:
    assert items.read_receipt(properties, value) == []


def test_a_dead_letter_keeps_the_item_and_says_why() -> None:
    theirs = Properties(content_type="image/png", message_id="7", headers={"x-death": [], "mine": 1}, reply_to="x")
    letter = items.dead(theirs, b"body", queue="q", reason="no picture", identity="new")
    assert (letter.routing_key, letter.body) == ("q.dead", b"body")
    properties = letter.properties
    assert properties.headers is not None
    assert properties.headers.pop("died") > 0
    assert properties.headers == {"mine": 1, "reason": "no picture", "queue": "q", "id": "7"}
    assert (properties.message_id, properties.reply_to, properties.delivery_mode) == ("new", None, 2)
    assert properties.content_type == "image/png"


def test_an_item_that_lost_a_header_can_not_be_read() -> None:
    with pytest.raises(Undecodable, match="header 'x'"):
        items.value(Properties(content_type=JSON, headers={"unreadable": "header 'x'"}), b"1", limit=10)
