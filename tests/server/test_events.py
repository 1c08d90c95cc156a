"""From an event's delivery to what becomes of it, without a broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from amqp_rpc import ConfigurationError, Event, Service
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Properties, Request, lighter
from amqp_rpc.message.events import check_headers, mark, read
from amqp_rpc.message.headers import TOPIC
from amqp_rpc.message.topology import ARRIVALS, delay
from amqp_rpc.server.calls import Answer, Settings
from amqp_rpc.server.invoke import Outcome, invoke
from amqp_rpc.server.tasks import EventDispatcher, TaskInvocation


def dispatcher(function: Any, **options: Any) -> EventDispatcher:
    service = Service("mail")
    service.subscribe("#", **options)(function)
    return EventDispatcher(service.subscriptions[0], Settings(1000, clock_skew=1.0))


def marked(**given: Any) -> Properties:
    properties = Properties(**given)
    mark(properties, "amqp_rpc.events", "orders.eu.paid")
    return properties


def handle(order: dict, event: Event) -> None: ...


def test_an_event_is_given_its_payload_and_what_is_known_of_it() -> None:
    properties = marked(
        content_type=codec.MSGPACK, message_id="1", timestamp=1_700_000_000, headers={"tenant": "acme", "x-match": "a"}
    )
    job = dispatcher(handle).accept(properties, codec.encode({"id": 1}, codec.MSGPACK, limit=99), redelivered=False)
    assert isinstance(job, TaskInvocation)
    assert job.kwargs == {
        "order": {"id": 1},
        "event": Event(
            "orders.eu.paid", {"tenant": "acme"}, "1", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), False
        ),
    }


def test_a_type_and_a_reply_to_of_somebody_else_mean_nothing() -> None:
    properties = marked(type="other", reply_to="amq.gen-x", content_type=codec.JSON)
    events = dispatcher(handle)
    job = events.accept(properties, b"{}", redelivered=False)
    assert isinstance(job, TaskInvocation)
    assert job.function.name == "handle"
    answer = events.answer(job, invoke(job))
    assert (answer.reply, answer.dead_letter, answer.outcome) == (None, None, "result")


@pytest.mark.parametrize("body", [b"\xc1", b"\x01\x02", b"\xa3abc"])
@pytest.mark.parametrize("content_type", [codec.MSGPACK, codec.JSON, "x/y"])
def test_whatever_comes_is_a_dead_letter_with_a_reason_and_nobody_is_told(body: bytes, content_type: str) -> None:
    answer = dispatcher(handle).accept(marked(content_type=content_type, reply_to="amq.gen-x"), body, redelivered=False)
    assert isinstance(answer, Answer)
    assert answer.reply is None
    assert answer.record is None
    assert answer.dead_letter is not None
    assert answer.dead_letter.startswith(("Undecodable", "InvalidArguments"))


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
    # Somebody else's header is no topic.
    mark(properties, "orders", "orders.us.paid")
    assert properties.headers == {TOPIC: "orders.us.paid"}
    # What was put into the queue itself has the queue's name.
    direct = Properties()
    mark(direct, "", "hello")
    assert direct.headers == {TOPIC: "hello"}


def test_the_topic_stays_where_headers_are_too_large() -> None:
    job = dispatcher(handle, retries=1).accept(
        marked(content_type=codec.JSON, headers={"big": "x" * 1000}), b"{}", redelivered=False
    )
    assert isinstance(job, TaskInvocation)
    answer = dispatcher(handle, retries=1).answer(job, Outcome(None, ValueError(), 0.1))
    assert answer.again is not None
    assert [(each.properties.headers or {})[TOPIC] for each in lighter(answer.again)] == ["orders.eu.paid"] * 2


def test_what_came_again_says_so_and_keeps_its_topic() -> None:
    properties = marked(
        content_type=codec.JSON, headers={"crashes": 1, "attempt": 2, "error": "OSError", "history": "[]"}
    )
    event = read(Request.read(properties, b"{}", redelivered=False), properties)
    assert (event.redelivered, event.headers) == (True, {})


def test_events_that_end_workers_end_among_the_dead_letters() -> None:
    properties = marked(content_type=codec.JSON, headers={"crashes": 7, "x-delivery-count": 1})
    answer = dispatcher(handle).accept(properties, b"{}", redelivered=True)
    assert isinstance(answer, Answer)
    assert (answer.dead_letter or "").startswith("8 workers died")


def test_what_is_tried_again_comes_back_to_the_instance() -> None:
    events = dispatcher(handle, mode="broadcast")
    events.home = "amqp_rpc.instance.x"
    job = events.accept(marked(content_type=codec.JSON), b"{}", redelivered=False)
    assert isinstance(job, TaskInvocation)
    answer = events.answer(job, Outcome(None, ValueError(), 0.1))
    assert answer.again is not None
    assert (answer.again.routing_key, answer.again.delay > 0) == ("amqp_rpc.instance.x", True)


@pytest.mark.parametrize("timestamp", [None, -(10**18), 10**18, "yesterday"])
def test_a_time_that_is_none_is_none(timestamp: Any) -> None:
    properties = marked(timestamp=timestamp)
    assert read(Request.read(properties, b"", redelivered=False), properties).time is None


@pytest.mark.parametrize("headers", [{"attempt": 1}, {"x-delay": 1}, {5: 1}, {TOPIC: "x"}, [("a", 1)]])
def test_headers_that_mean_something_to_us_can_t_be_given(headers: Any) -> None:
    with pytest.raises(ConfigurationError):
        check_headers(headers)


def test_headers_of_ones_own_are_copied() -> None:
    given = {"tenant": "acme"}
    assert check_headers(given) == given
    assert check_headers(given) is not given
    assert check_headers(None) == {}
