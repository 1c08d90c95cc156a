"""From an event's delivery to its outcome, without a broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from amqp_rpc import Event, Service
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Properties, bare, lighter, mark
from amqp_rpc.message.headers import TOPIC
from amqp_rpc.server.invoke import Answer, HandlerOutcome, Settings, invoke
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


def test_the_topic_stays_where_headers_are_too_large() -> None:
    job = dispatcher(handle, retries=1).accept(
        marked(content_type=codec.JSON, headers={"big": "x" * 1000}), b"{}", redelivered=False
    )
    assert isinstance(job, TaskInvocation)
    answer = dispatcher(handle, retries=1).answer(job, HandlerOutcome(None, ValueError(), 0.1))
    assert answer.again is not None
    copies = (answer.again, *lighter(answer.again), bare(answer.again))
    assert {(each.properties.headers or {})[TOPIC] for each in copies} == {"orders.eu.paid"}


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
    answer = events.answer(job, HandlerOutcome(None, ValueError(), 0.1))
    assert answer.again is not None
    assert (answer.again.routing_key, answer.again.delay > 0) == ("amqp_rpc.instance.x", True)
