"""Events through a real broker: their subscribers, their failures, and events without subscribers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pika
import pytest

from amqp_rpc import (
    AccessRefused,
    AsyncClient,
    Client,
    ConfigurationError,
    Event,
    Exchange,
    MessageTooLarge,
    NotAllAccepted,
    PublishRefused,
    Reject,
    Server,
    Service,
    Unencodable,
    Unroutable,
    context,
)
from amqp_rpc.broker.node import Node
from amqp_rpc.message.topology import bindings_record
from tests.served_by import DEAD, Raw, dead_letter
from tests.waiting import until

Serve = Callable[..., Server]


@dataclass
class Order:
    """A payment."""

    id: int
    region: str = "eu"


@pytest.fixture
def topic() -> str:
    """A word that no other test's topics begin with."""
    return f"t{secrets.token_hex(6)}"


def dead_of(raw: Raw, service: Service, function: str) -> str:
    """Declare the queue of dead letters of a subscription, and return the subscription's queue."""
    queue = f"events.{service.name}.{function}"
    raw.channel.queue_declare(f"{queue}.dead", durable=True, arguments=DEAD)
    return queue


def test_an_event_comes_to_who_subscribes_to_its_pattern_and_to_nobody_else(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    paid: list[tuple[Order, str]] = []
    every: list[str] = []

    @service.subscribe(f"{topic}.*.paid")
    def on_paid(order: Order, event: Event) -> None:
        paid.append((order, event.topic))

    @service.subscribe(f"{topic}.#")
    def on_any(event: Event) -> None:
        every.append(event.topic)

    serve(service)
    for name in (f"{topic}.eu.paid", f"{topic}.eu.shipped", f"{topic}.eu.de.paid", topic):
        client.publish(name, Order(1), mandatory=True)
    until(lambda: len(every) == 4)
    assert paid == [(Order(1), f"{topic}.eu.paid")]
    assert set(every) == {f"{topic}.eu.paid", f"{topic}.eu.shipped", f"{topic}.eu.de.paid", topic}


def test_the_default_exchange_hands_an_event_to_the_queue_of_that_name(
    client: Client, serve: Serve, service: Service, raw: Raw, topic: str
) -> None:
    with pytest.raises(Unroutable, match=f"there is no queue '{topic}' for this event: nobody gets it"):
        client.publish(topic, "a", exchange="", mandatory=True)
    raw.channel.queue_declare(topic, exclusive=True)
    client.publish(topic, "b", exchange="", mandatory=True)
    properties, body = raw.get(topic)
    assert (properties.content_type, body) == ("text/plain", b"b")
    got: list[tuple[str, str]] = []

    @service.subscribe("elsewhere", queue=f"{topic}.ours")
    def take(word: str, event: Event) -> None:
        got.append((event.topic, word))

    serve(service)
    client.publish(f"{topic}.ours", "c", exchange="", mandatory=True)
    until(lambda: got == [(f"{topic}.ours", "c")])


def test_an_event_that_fits_two_patterns_of_one_subscription_comes_once(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    got: list[int] = []

    @service.subscribe(f"{topic}.orange.*", f"{topic}.*.rabbit", f"{topic}.lazy.#")
    def on_animal(number: int) -> None:
        got.append(number)

    serve(service)
    ids = client.publish_many(
        [(f"{topic}.orange.rabbit", 1), (f"{topic}.lazy.orange.male.rabbit", 2), (f"{topic}.x", 3)]
    )
    assert len(set(ids)) == 3
    client.publish(f"{topic}.lazy", 4)
    until(lambda: len(got) == 3)
    assert sorted(got) == [1, 2, 4]
    assert client.counters["unrouted"] == 1


def test_a_handler_is_told_the_topic_the_headers_the_id_and_the_time(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    events: list[Event] = []

    @service.subscribe(f"{topic}.#")
    def on_any(event: Event, payload: bytes | None = None) -> None:
        events.append(event)

    serve(service)
    before = datetime.now(UTC).replace(microsecond=0)
    identity = client.publish(f"{topic}.a", b"\xff", headers={"tenant": "acme", "n": 3, "urgent": True})
    event = until(lambda: events)[0]
    assert (event.topic, event.id, event.redelivered) == (f"{topic}.a", identity, False)
    assert event.headers == {"tenant": "acme", "n": 3, "urgent": True}
    assert event.time is not None
    assert before <= event.time <= datetime.now(UTC)


def replica(name: str, topic: str, got: list[int], **options: Any) -> Service:
    """Return the same service as its other replicas; what it gets is its own."""
    service = Service(name)

    @service.subscribe(f"{topic}.#", **options)
    def work(number: int) -> None:
        got.append(number)

    return service


def test_replicas_of_a_service_share_its_events_and_another_service_gets_all(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    first: list[int] = []
    second: list[int] = []
    other: list[int] = []
    assert service.name is not None
    serve(replica(service.name, topic, first), threads=1)
    serve(replica(service.name, topic, second), threads=1)
    serve(replica(f"{service.name}x", topic, other))
    client.publish_many((f"{topic}.a", n) for n in range(200))
    until(lambda: len(first) + len(second) >= 200 and len(other) >= 200)
    assert sorted(first + second) == sorted(other) == list(range(200))
    assert first
    assert second


def test_every_instance_gets_what_is_broadcast_while_it_runs(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    first: list[int] = []
    second: list[int] = []
    assert service.name is not None
    client.publish(f"{topic}.a", 1)
    serve(replica(service.name, topic, first, mode="broadcast"))
    client.publish(f"{topic}.a", 2)
    until(lambda: first == [2])
    serve(replica(service.name, topic, second, mode="broadcast"))
    client.publish(f"{topic}.a", 3)
    until(lambda: first == [2, 3] and second == [3])


def test_a_shared_subscription_gets_what_was_published_while_no_replica_ran(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    got: list[int] = []
    assert service.name is not None
    server = serve(replica(service.name, topic, got))
    server.stop()
    client.publish_many(((f"{topic}.a", n) for n in range(50)), mandatory=True)
    assert got == []
    serve(replica(service.name, topic, got))
    until(lambda: sorted(got) == list(range(50)))


def test_a_broadcast_one_is_gone_with_its_instance(client: Client, serve: Serve, service: Service, topic: str) -> None:
    got: list[int] = []
    assert service.name is not None
    server = serve(replica(service.name, topic, got, mode="broadcast"))
    client.publish(f"{topic}.a", 1, mandatory=True)
    server.stop()
    until(lambda: got == [1])
    with pytest.raises(Unroutable, match="no queue is bound to the topic exchange 'amqp_rpc\\.events' for event"):
        client.publish(f"{topic}.a", 2, mandatory=True)


@pytest.mark.parametrize("mode", ["shared", "broadcast"])
def test_an_event_that_fails_is_tried_again_no_earlier_than_its_delay_and_knows_its_topic(
    client: Client, serve: Serve, service: Service, topic: str, mode: Any
) -> None:
    tries: list[tuple[float, int, Event]] = []

    @service.subscribe(f"{topic}.*", mode=mode, retries=2, backoff=(0.5, 60.0))
    def flaky(n: int, event: Event) -> None:
        tries.append((time.monotonic(), context().attempt, event))
        if len(tries) < 3:
            raise OSError(n)

    server = serve(service)
    identity = client.publish(f"{topic}.a", 5, headers={"tenant": "acme"})
    until(lambda: server.counters["result"] == 1)
    assert [attempt for _, attempt, _ in tries] == [1, 2, 3]
    assert tries[1][0] - tries[0][0] >= 0.4  # a fifth less by jitter
    assert tries[2][0] - tries[1][0] >= 0.8
    for _, _, event in tries:
        assert (event.topic, event.id, event.headers) == (f"{topic}.a", identity, {"tenant": "acme"})


def test_a_retry_comes_to_the_instance_that_failed_and_to_no_other(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    ran: list[str] = []
    for name in ("failing", "other"):
        each = Service(service.name)

        @each.subscribe(f"{topic}.*", mode="broadcast", name="work", retries=1, backoff=(0.1, 0.1))
        def work(name: str = name) -> None:
            ran.append(name)
            if ran.count("failing") == 1 and name == "failing":
                raise OSError

        serve(each)
    client.publish(f"{topic}.a")
    until(lambda: ran.count("failing") == 2)
    client.publish(f"{topic}.b")
    until(lambda: len(ran) >= 5)
    assert sorted(ran) == ["failing"] * 3 + ["other"] * 2


@pytest.mark.parametrize("mode", ["shared", "broadcast"])
@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"id": "seven"}, "InvalidArguments: on_paid(): parameter 'order': expected int, got str - at order.id"),
        (None, "InvalidArguments: on_paid(): parameter 'order': expected object, got null"),
    ],
)
def test_a_payload_that_does_not_fit_is_a_dead_letter_with_the_reason(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw, payload: Any, said: str, mode: Any
) -> None:
    queue = dead_of(raw, service, "on_paid")

    @service.subscribe(f"{topic}.paid", mode=mode)
    def on_paid(order: Order) -> None: ...

    serve(service)
    identity = client.publish(f"{topic}.paid", payload)
    properties = dead_letter(raw, queue)
    assert properties.message_id == identity
    assert properties.headers["reason"].startswith(said)
    assert properties.headers["amqp_rpc.topic"] == f"{topic}.paid"
    assert properties.headers["queue"] == queue


def test_bytes_that_are_not_what_they_say_are_a_dead_letter_and_the_next_event_is_handled(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    queue = dead_of(raw, service, "on_paid")
    got: list[Order] = []

    @service.subscribe(f"{topic}.paid")
    def on_paid(order: Order) -> None:
        got.append(order)

    serve(service)
    for body, content_type in (
        (b"\xc1", "application/msgpack"),
        (b"{", "application/json"),
        (b"\xff", "text/plain"),
        (b"", "x/y"),
    ):
        raw.channel.basic_publish(
            "amqp_rpc.events", f"{topic}.paid", body, pika.BasicProperties(content_type=content_type)
        )
        reason = dead_letter(raw, queue).headers["reason"]
        assert reason.startswith("Undecodable: ")
    client.publish(f"{topic}.paid", Order(2))
    until(lambda: got == [Order(2)])


def test_a_handler_may_reject_an_event_and_a_retry_has_an_end(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    rejecting, failing = dead_of(raw, service, "rejecting"), dead_of(raw, service, "failing")

    @service.subscribe(f"{topic}.a", name="rejecting")
    def reject() -> None:
        raise Reject("not for us")

    @service.subscribe(f"{topic}.a", name="failing", retries=1, backoff=(0.1, 0.1))
    async def fail() -> None:
        raise ValueError("broken")

    serve(service)
    client.publish(f"{topic}.a")
    assert dead_letter(raw, rejecting).headers["reason"] == "rejected: not for us"
    headers = dead_letter(raw, failing).headers
    assert (headers["reason"], headers["attempt"]) == ("ValueError: broken", 2)
    assert "raise ValueError" in headers["traceback"]


def test_a_dead_letter_is_replayed_with_its_topic(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    queue = dead_of(raw, service, "on_paid")
    topics: list[str] = []
    mended = threading.Event()

    @service.subscribe(f"{topic}.*", retries=0)
    def on_paid(event: Event) -> None:
        if not mended.is_set():
            raise ValueError
        topics.append(event.topic)

    server = serve(service)
    client.publish(f"{topic}.paid")
    until(lambda: server.counters["dead_letters"] == 1 and not server._state.unacked)
    mended.set()
    client.dead_letters(queue).replay(all=True)
    until(lambda: topics == [f"{topic}.paid"])


def test_an_event_past_its_time_is_not_handled(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    queue = dead_of(raw, service, "on_paid")

    @service.subscribe(f"{topic}.*")
    def on_paid() -> None: ...

    serve(service, clock_skew=0).stop()
    client.publish(f"{topic}.paid", expires=0.001)
    serve(service, clock_skew=0)
    assert dead_letter(raw, queue).headers["reason"].startswith("Expired: ")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_past_its_time_limit_has_failed(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw, asynchronous: bool
) -> None:
    queue = dead_of(raw, service, "slow")
    ended = threading.Event()

    def slow() -> None:
        ended.wait(30)

    async def slow_async() -> None:
        await asyncio.sleep(30)

    service.subscribe(f"{topic}.*", name="slow", retries=0, time_limit=0.2)(slow_async if asynchronous else slow)
    serve(service)
    client.publish(f"{topic}.a")
    assert dead_letter(raw, queue).headers["reason"].startswith("TimeLimitExceeded: ")
    ended.set()


def test_what_is_in_hand_is_finished_before_a_server_stops(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[bool] = []

    @service.subscribe(f"{topic}.*")
    def work() -> None:
        begun.set()
        go_on.wait(20)
        done.append(True)

    server = serve(service)
    client.publish(f"{topic}.a")
    assert begun.wait(20)
    stopping = threading.Thread(target=lambda: done.append(server.stop(drain_timeout=20)))
    stopping.start()
    go_on.set()
    stopping.join(30)
    assert done == [True, True]


KINDS: dict[str, tuple[dict[str, Any], list[tuple[str, dict[str, Any] | None, bool]]]] = {
    "fanout": ({}, [("", None, True), ("anything", None, True)]),
    "direct": ({"topics": ["info", "error"]}, [("info", None, True), ("info.x", None, False), ("error", None, True)]),
    "topic": (
        {"topics": ["*.critical", "kern.#"]},
        [("a.critical", None, True), ("kern", None, True), ("a", None, False)],
    ),
    "headers": (
        {"headers": {"format": "pdf", "pages": 3}},
        [
            ("", {"format": "pdf", "pages": 3, "more": "x"}, True),
            ("", {"format": "pdf"}, False),
            ("", None, False),
        ],
    ),
    "headers, any": (
        {"headers": {"format": "pdf", "pages": 3, "x-match": "any"}},
        [("", {"format": "pdf"}, True), ("", {"pages": 3}, True), ("", {"pages": 4}, False)],
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_each_kind_of_exchange_hands_on_what_it_is_to(
    client: Client, serve: Serve, service: Service, topic: str, case: str
) -> None:
    options, events = KINDS[case]
    exchange = Exchange(topic, case.partition(",")[0])  # type: ignore[arg-type]
    got: list[int] = []

    @service.subscribe(*options.get("topics", ()), exchange=exchange, headers=options.get("headers"))
    def on_any(n: int) -> None:
        got.append(n)

    serve(service)
    for n, (key, headers, routed) in enumerate(events):
        if routed:
            client.publish(key, n, exchange=exchange, headers=headers, mandatory=True)
        else:
            with pytest.raises(Unroutable):
                client.publish(key, n, exchange=exchange, headers=headers, mandatory=True)
    expected = [n for n, (_, _, routed) in enumerate(events) if routed]
    until(lambda: len(got) == len(expected))
    assert sorted(got) == expected


def test_an_exchange_of_another_kind_is_a_configuration_error_for_both_sides(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    raw.channel.exchange_declare(topic, "fanout", durable=True)
    for exchange in (topic, Exchange(topic, "direct"), Exchange(topic, "fanout", durable=False)):
        with pytest.raises(
            ConfigurationError, match=f"an exchange of that name, and it is no .*{topic}.*inequivalent arg"
        ):
            client.publish("a", 1, exchange=exchange)
    client.publish("a", 1, exchange=Exchange(topic, "fanout"))

    @service.subscribe("a", exchange=topic)
    def on_any() -> None: ...

    with pytest.raises(ConfigurationError, match="and it is no topic exchange"):
        serve(service)
    raw.channel.exchange_delete(topic)


def test_a_queue_that_exists_with_other_arguments_is_a_configuration_error(
    serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    raw.channel.queue_declare(topic, durable=True)

    @service.subscribe("a", queue=topic)
    def on_any() -> None: ...

    with pytest.raises(ConfigurationError, match="exists with other arguments"):
        serve(service)
    raw.channel.queue_delete(topic)


def test_an_event_that_nobody_gets_is_counted_and_no_error(client: Client, topic: str) -> None:
    client.publish(topic, 1)
    client.publish_many((topic, n) for n in range(9))
    assert client.counters["unrouted"] == 10
    with pytest.raises(NotAllAccepted, match="2 of 2 events were not accepted") as raised:
        client.publish_many([(topic, 1), (topic, 2)], mandatory=True)
    assert [type(error) for error in raised.value.errors.values()] == [Unroutable, Unroutable]
    assert not raised.value.may_have_run


def test_what_can_t_be_published_says_why(client: Client, topic: str) -> None:
    with pytest.raises(ConfigurationError, match="at most 255 bytes in AMQP, not 300"):
        client.publish("é" * 150)
    with pytest.raises(ConfigurationError, match="is text"):
        client.publish(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="AMQP can carry"):
        client.publish("\ud800")
    with pytest.raises(Unencodable):
        client.publish(topic, object())
    with pytest.raises(MessageTooLarge, match="headers must be smaller"):
        client.publish(topic, 1, headers={"n": "x" * 140_000})
    with pytest.raises(ConfigurationError, match="AMQP can't carry"):
        client.publish(topic, 1, headers={"n": object()})
    with pytest.raises(ConfigurationError, match="are amqp_rpc's"):
        client.publish(topic, 1, headers={"attempt": 3})
    with pytest.raises(ConfigurationError, match="are the broker's"):
        client.publish(topic, 1, headers={"x-delay": 3})
    for expires in (0, -1.0, float("inf"), float("nan"), "5"):
        with pytest.raises(ConfigurationError, match="expires must be a number above 0"):
            client.publish(topic, 1, expires=expires)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="content_type is one of"):
        client.publish(topic, 1, content_type="text/html")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a topic and a payload"):
        client.publish_many([topic])  # type: ignore[list-item]
    # None of that has cost the connection anything.
    client.publish(topic, 1)


def test_a_full_queue_of_a_subscriber_refuses_and_the_others_have_the_event(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    got: list[int] = []
    full = Service(f"{service.name}full")

    @full.subscribe(f"{topic}.*", max_length=1)
    def never(n: int) -> None: ...

    @service.subscribe(f"{topic}.*")
    def on_any(n: int) -> None:
        got.append(n)

    serve(full).stop()
    serve(service)

    # A quorum queue is full a moment later than it should.
    with pytest.raises(PublishRefused, match="Other subscribers may have it") as raised:
        until(lambda: client.publish(f"{topic}.a", 1) is None)
    assert raised.value.may_have_run
    until(lambda: len(got) >= 2)


def test_text_travels_as_text_and_comes_as_what_the_handler_takes(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    got: dict[str, list[Any]] = {"a": [], "b": [], "c": [], "d": []}

    @service.subscribe(f"{topic}.*", name="a")
    def text(payload: str) -> None:
        got["a"].append(payload)

    @service.subscribe(f"{topic}.*", name="b")
    def number(payload: int) -> None:
        got["b"].append(payload)

    @service.subscribe(f"{topic}.*", name="c")
    async def either(payload: int | str | None) -> None:
        got["c"].append(payload)

    @service.subscribe(f"{topic}.*", name="d")
    def raw_bytes(payload: bytes) -> None:
        got["d"].append(payload)

    serve(service)
    client.publish(f"{topic}.a", "30")
    raw.channel.basic_publish("amqp_rpc.events", f"{topic}.a", b"30")
    until(lambda: all(len(each) == 2 for each in got.values()))
    assert got == {"a": ["30", "30"], "b": [30, 30], "c": ["30", "30"], "d": [b"30", b"30"]}


def test_json_of_another_language_is_taken_and_can_be_published(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    got: list[Order] = []

    @service.subscribe(f"{topic}.*")
    def on_order(order: Order) -> None:
        got.append(order)

    serve(service)
    raw.channel.queue_bind(raw.reply_queue, "amqp_rpc.events", f"{topic}.*")
    client.publish(f"{topic}.a", Order(1), content_type="application/json")
    until(lambda: raw._poll(0))
    properties, body = raw.replies[0]
    assert (properties.content_type, body, properties.delivery_mode) == (
        "application/json",
        b'{"id":1,"region":"eu"}',
        2,
    )
    raw.channel.basic_publish("amqp_rpc.events", f"{topic}.b", body, properties)
    until(lambda: got == [Order(1), Order(1)])


def test_an_event_with_a_reply_to_is_answered_to_nobody(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    got: list[int] = []

    @service.subscribe(f"{topic}.*")
    def on_any(n: int) -> int:
        got.append(n)
        return n

    serve(service)
    properties = pika.BasicProperties(reply_to=raw.reply_queue, correlation_id="1", type="on_any")
    raw.channel.basic_publish("amqp_rpc.events", f"{topic}.a", b"1", properties)
    raw.channel.basic_publish("amqp_rpc.events", f"{topic}.a", b"x", properties)
    until(lambda: got == [1])
    raw.connection.process_data_events(0.2)
    assert raw.replies == []


def test_from_asyncio_it_is_the_same(url: str, serve: Serve, service: Service, topic: str) -> None:
    got: list[int] = []

    @service.subscribe(f"{topic}.*")
    async def on_any(n: int) -> None:
        got.append(n)

    serve(service)

    async def publish() -> None:
        async with AsyncClient(url) as client:
            assert await client.publish(f"{topic}.a", 1, mandatory=True)
            assert len(await client.publish_many(((f"{topic}.a", n) for n in (2, 3)), timeout=20)) == 2
            with pytest.raises(Unroutable):
                await client.publish(topic, 1, mandatory=True)

    asyncio.run(publish())
    until(lambda: sorted(got) == [1, 2, 3])


def bound(service: Service, *topics: str, exchange: Exchange | None = None) -> Service:
    each = Service(service.name)

    @each.subscribe(*topics, exchange=exchange)
    def work(event: Event) -> None: ...

    return each


def test_a_pattern_that_was_removed_from_the_code_is_unbound_at_the_next_start(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    def comes(name: str) -> bool:
        before = client.counters["unrouted"]
        client.publish(f"{topic}.{name}")
        return client.counters["unrouted"] == before

    serve(bound(service, f"{topic}.a", f"{topic}.b")).stop()
    assert [comes("a"), comes("b"), comes("c")] == [True, True, False]
    serve(bound(service, f"{topic}.b", f"{topic}.c")).stop()
    assert [comes("a"), comes("b"), comes("c")] == [False, True, True]
    # It is remembered after a start that changed nothing, too.
    serve(bound(service, f"{topic}.b", f"{topic}.c")).stop()
    serve(bound(service, f"{topic}.c")).stop()
    assert [comes("a"), comes("b"), comes("c")] == [False, False, True]


def test_a_binding_to_another_exchange_is_undone_as_well(
    client: Client, serve: Serve, service: Service, topic: str
) -> None:
    headers = Exchange(f"{topic}.headers", "headers")
    each = Service(service.name)

    @each.subscribe(exchange=headers, headers={"format": "pdf", "pages": 3})
    def work() -> None: ...

    serve(each).stop()
    client.publish("", exchange=headers, headers={"format": "pdf", "pages": 3}, mandatory=True)
    serve(bound(service, f"{topic}.a")).stop()
    with pytest.raises(Unroutable):
        client.publish("", exchange=headers, headers={"format": "pdf", "pages": 3}, mandatory=True)


def test_replicas_that_start_together_leave_one_record_of_all_bindings(
    client: Client, url: str, service: Service, topic: str, raw: Raw
) -> None:
    servers = [Server(bound(service, f"{topic}.a", f"{topic}.b"), url=url) for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    record = bindings_record(f"events.{service.name}.work")
    try:
        until(lambda: raw.count(record) == 1)
    finally:
        for server in servers:
            server.stop()
    _, body = raw.get(record)
    assert sorted(each["key"] for each in json.loads(body)) == [f"{topic}.a", f"{topic}.b"]


def test_a_record_that_nobody_can_read_undoes_nothing(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw
) -> None:
    serve(bound(service, f"{topic}.a")).stop()
    record = bindings_record(f"events.{service.name}.work")
    raw.get(record)
    raw.send(record, b"[{")
    serve(bound(service, f"{topic}.b")).stop()
    client.publish_many([(f"{topic}.a", 1), (f"{topic}.b", 1)], mandatory=True)
    assert raw.count(record) == 1


FORGED = {
    "the default exchange": [{"exchange": "", "key": "x", "arguments": {}}],
    "a long key": [{"exchange": "amq.topic", "key": "k" * 300, "arguments": {}}],
    "a long exchange": [{"exchange": "e" * 300, "key": "k", "arguments": {}}],
    "a surrogate": [{"exchange": "amq.topic", "key": "\ud800", "arguments": {}}],
    "a fraction": [{"exchange": "amq.topic", "key": "", "arguments": {"a": 1.5}}],
    "nested arguments": [{"exchange": "amq.topic", "key": "", "arguments": {"a": {"b": 1}}}],
    "a large number": [{"exchange": "amq.headers", "key": "", "arguments": {"a": 2**70}}],
    "no names": [{}, 7, None, "text", []],
    "other types": [{"exchange": 1, "key": 2, "arguments": 3}],
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_can_t_be_a_binding_of_ours_is_dropped_from_the_record_with_one_warning(
    client: Client, serve: Serve, service: Service, topic: str, raw: Raw, forged: list[Any], caplog: Any
) -> None:
    serve(bound(service, f"{topic}.a", f"{topic}.b")).stop()
    record = bindings_record(f"events.{service.name}.work")
    _, body = raw.get(record)
    raw.send(record, json.dumps([*forged, *json.loads(body)]).encode())
    caplog.clear()
    serve(bound(service, f"{topic}.b")).stop()
    dropped = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert dropped == [
        f"queue events.{service.name}.work: {len(forged)} entries of the record of its bindings can't be ours; dropped"
    ]
    client.publish(f"{topic}.b", mandatory=True)
    with pytest.raises(Unroutable):
        client.publish(f"{topic}.a", mandatory=True)
    _, body = raw.get(record)
    assert [each["key"] for each in json.loads(body)] == [f"{topic}.b"]


def test_a_binding_that_can_t_be_undone_keeps_no_server_from_its_start(
    node: Node, service: Service, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The user may not read one exchange, and another one is not there."""
    node.ctl("add_user", "bob", "secret")
    node.ctl("set_permissions", "bob", ".*", ".*", "^(?!closed_to_bob).*")
    bobs = node.url.replace("guest:guest", "bob:secret")
    queue = f"events.{service.name}.work"
    with Server(bound(service, f"{topic}.a", f"{topic}.b"), url=bobs):
        pass
    with pika.BlockingConnection(pika.URLParameters(node.url)) as raw:
        channel = raw.channel()
        channel.exchange_declare("closed_to_bob", "topic")
        _, _, body = channel.basic_get(bindings_record(queue), auto_ack=True)
        others = [{"exchange": each, "key": "k", "arguments": {}} for each in ("a_gone", "closed_to_bob")]
        channel.basic_publish("", bindings_record(queue), json.dumps([*others, *json.loads(body)]).encode())
        with Server(bound(service, f"{topic}.b"), url=bobs), Client(node.url, timeout=20) as client:
            client.publish(f"{topic}.b", mandatory=True)
            with pytest.raises(Unroutable):
                client.publish(f"{topic}.a", mandatory=True)
        _, _, body = channel.basic_get(bindings_record(queue), auto_ack=True)
    assert [each["exchange"] for each in json.loads(body)] == ["amqp_rpc.events", "closed_to_bob"]
    (warned,) = [each.message for each in caplog.records if "can't be undone" in each.message]
    assert "1 binding of its record can't be undone, such as 'k' of exchange 'closed_to_bob': " in warned


def test_who_may_not_write_to_one_exchange_is_told_so_and_what_else_is_under_way_arrives(
    node: Node,
    queue_name: str,
) -> None:
    with Client(node.url, timeout=20) as client:
        client.publish("a", exchange="closed_to_ann")
    node.ctl("add_user", "ann", "secret")
    node.ctl("set_permissions", "ann", ".*", "^(?!closed_to_ann).*", ".*")
    service = Service()
    done: set[int] = set()

    @service.task(queue=queue_name)
    def note(n: int) -> None:
        done.add(n)

    with Server(service, url=node.url), Client(node.url.replace("guest:guest", "ann:secret"), timeout=20) as ann:
        ann.enqueue(note, 0)
        refused: list[str] = []

        def publish() -> None:
            for _ in range(3):
                try:
                    ann.publish("a", exchange="closed_to_ann")
                except AccessRefused as error:
                    refused.append(str(error))

        thread = threading.Thread(target=publish)
        thread.start()
        for start in range(0, 300, 50):
            ann.enqueue_many(note, [(n,) for n in range(start, start + 50)])
        until(lambda: len(done) == 300, timeout=60)
        thread.join(30)
    assert len(refused) == 3
    assert all("exchange 'closed_to_ann'" in said for said in refused)
