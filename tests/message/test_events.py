"""Events: the topic stays with a retry, and a handler learns what is known beside the payload."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Properties, Request, mark, read_event
from amqp_rpc.message.headers import TOPIC
from amqp_rpc.message.topology import ARRIVALS, delay


def marked(**given: Any) -> Properties:
    properties = Properties(**given)
    mark(properties, "amqp_rpc.events", "orders.eu.paid")
    return properties


def test_the_topic_is_that_of_the_first_delivery_however_a_copy_comes() -> None:
    properties = Properties()
    mark(properties, "orders", "orders.eu.paid")
    for exchange, key in (
        ("", "events.mail.handle"),
        (ARRIVALS, "0.0.1.events.mail.handle"),
        (delay(0), "0.0.1.events.mail.handle"),
    ):
        mark(properties, exchange, key)
        assert properties.headers == {TOPIC: "orders.eu.paid"}
    # A header of another program is no topic.
    mark(properties, "orders", "orders.us.paid")
    assert properties.headers == {TOPIC: "orders.us.paid"}
    # A message that was published straight to the queue has the queue's name.
    direct = Properties()
    mark(direct, "", "hello")
    assert direct.headers == {TOPIC: "hello"}


def test_what_came_again_says_so_and_keeps_its_topic() -> None:
    properties = marked(
        content_type=codec.JSON, headers={"crashes": 1, "attempt": 2, "error": "OSError", "history": "[]"}
    )
    event = read_event(Request.read(properties, b"{}", redelivered=False), properties)
    assert (event.redelivered, event.headers) == (True, {})


@pytest.mark.parametrize("timestamp", [None, -(10**18), 10**18, "yesterday"])
def test_a_time_that_is_none_is_none(timestamp: Any) -> None:
    properties = marked(timestamp=timestamp)
    assert read_event(Request.read(properties, b"", redelivered=False), properties).time is None
