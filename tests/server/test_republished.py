"""What a stranger writes for the broker to act on stays without effect in all that is published of his message."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty
from typing import Any

import pika
import pytest

from amqp_rpc import Client, Event, Server, Service, context
from amqp_rpc.broker.node import Node
from amqp_rpc.message import dead_letter
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.queues import items
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.invoke import Answer, HandlerOutcome, Settings, invoke
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher, TaskInvocation, requeued
from tests.served_by import DEAD, Raw
from tests.waiting import until

Serve = Callable[..., Server]

BODY = b'[["x"], {}]'


def strange(**changes: Any) -> Properties:
    """Return properties with all that the broker acts on, and a header of the publisher's own."""
    headers = {"CC": ["payments"], "BCC": ["payments"], "x-death": [{}], "x-delay": 5, "mine": 1}
    return Properties(
        **{
            "content_type": "application/json",
            "headers": {**headers, **changes.pop("headers", {})},
            "delivery_mode": 1,
            "priority": 255,
            "correlation_id": "c",
            "reply_to": "amq.rabbitmq.reply-to",
            "expiration": str(2**62),
            "message_id": "m",
            "type": "work",
            **changes,
        }
    )


def strange_service() -> Service:
    made = Service("strange")

    @made.task(queue="q", retries=1)
    def work(x: str) -> None:
        raise ValueError(x)

    @made.rpc(idempotent=True)
    def again(x: str) -> str:
        return x

    @made.subscribe("#", retries=1)
    def note(x: object, event: Event) -> None:
        raise ValueError(event.topic)

    return made


def tasks(made: Service) -> TaskDispatcher:
    return TaskDispatcher("q", {"work": made.tasks[0]}, Settings(1000, tracebacks=True))


def failed(dispatcher: TaskDispatcher, properties: Properties) -> Message:
    """Return what is published of a task that has failed."""
    task = dispatcher.accept(properties, BODY, redelivered=False)
    assert isinstance(task, TaskInvocation)
    outcome = invoke(task)
    assert isinstance(outcome, HandlerOutcome)
    return published(dispatcher.answer(task, outcome), properties)


def published(answer: object, properties: Properties) -> Message:
    assert isinstance(answer, Answer)
    if answer.again is not None:
        return answer.again
    assert answer.dead_letter is not None
    return dead_letter.dead_letter(properties, BODY, queue="q", reason=answer.dead_letter, now=1.0)


def called_again(properties: Properties) -> Message:
    made = strange_service()
    calls = CallDispatcher("q", dict(made.functions), Settings(1000, tracebacks=True))
    return published(calls.accept(properties, BODY, redelivered=True), properties)


#: All ways by which what was received is published again.
WAYS: dict[str, Callable[[], Message]] = {
    "a retry": lambda: failed(tasks(strange_service()), strange()),
    "a dead letter": lambda: failed(tasks(strange_service()), strange(headers={"attempt": 2})),
    "a task that a worker died with": lambda: published(
        tasks(strange_service()).accept(strange(), BODY, redelivered=True), strange()
    ),
    "a task for another worker": lambda: requeued("q", strange(), BODY),
    "a call that a server died with": lambda: called_again(strange(type="again")),
    "an event that failed": lambda: failed(
        EventDispatcher(strange_service().subscriptions[0], Settings(1000, tracebacks=True)), strange()
    ),
    "a replay": lambda: dead_letter.replayed(strange(), BODY, queue="q", now=1.0),
    "a renewed dead letter": lambda: dead_letter.renewed(strange(), BODY, queue="q.dead"),
    "an item": lambda: items.dead(strange(), BODY, queue="q", reason="unreadable", identity="1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_the_broker_acts_on_is_in_what_is_published_again(way: str) -> None:
    properties = WAYS[way]().properties
    headers = properties.headers or {}
    assert not {"CC", "BCC", "x-death", "x-delay"} & headers.keys()
    assert headers["mine"] == 1
    assert properties.reply_to is None
    assert properties.priority == 9
    if way == "a call that a server died with":
        # As long as its caller waits, which is at most what the broker takes.
        assert (properties.delivery_mode, properties.expiration) == (1, str(2**32 - 1))
    else:
        assert (properties.delivery_mode, properties.expiration) == (2, None)


def test_a_call_that_comes_again_has_the_time_that_is_left_of_its_deadline() -> None:
    deadline = int((time.time() + 60) * 1000)
    left = called_again(strange(type="again", headers={"deadline": deadline})).properties.expiration
    assert 50_000 < int(left or 0) <= 60_000
    huge = called_again(strange(type="again", headers={"deadline": 2**62})).properties.expiration
    assert huge == str(2**32 - 1)


# Through a real broker.


@pytest.fixture
def victim(raw: Raw, queue_name: str) -> str:
    """A queue that no sender here may reach."""
    raw.channel.queue_declare(queue_name, exclusive=True)
    return queue_name


def ids_until(raw: Raw, queue: str, last: str) -> list[str]:
    """Return the ids of the messages of a queue up to one, which has to come."""
    found: list[str] = []
    while not found or found[-1] != last:
        found.append(raw.get(queue)[0].message_id)
        assert len(found) < 100, "a loop"
    return found


def hostile(own: str, victim: str) -> dict[str, Any]:
    return {
        "headers": {"CC": [own, victim], "mine": "kept"},
        "priority": 255,
        "expiration": "60000",
        "delivery_mode": 1,
        "app_id": "theirs",
        "cluster_id": "elsewhere",
        "user_id": "guest",
    }


def ways(raw: Raw, made: Service, victim: str, retries: int) -> dict[str, tuple[str, str, str]]:
    """Register a function of each kind; return their queues, with the exchanges and keys to publish by."""
    queue, topic = f"{victim}.tasks", f"{victim}.topic"

    @made.rpc
    def call(n: int) -> int:
        return n

    @made.task(queue=queue, retries=retries, backoff=(0.1, 0.1))
    def work(n: int) -> None:
        raise ValueError(n)

    @made.subscribe(topic, retries=retries, backoff=(0.1, 0.1))
    def note(n: int) -> None:
        raise ValueError(n)

    events = f"events.{made.name}.note"
    for each in (queue, events):
        raw.channel.queue_declare(f"{each}.dead", durable=True, arguments=DEAD)
    raw.channel.queue_declare(f"{made.queue}.dead", durable=True)
    return {
        "call": (made.queue, "", made.queue),
        "task": (queue, "", queue),
        "event": (events, "amqp_rpc.events", topic),
    }


@pytest.mark.parametrize("kind", ["call", "task", "event"])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_message_with_cc_is_one_dead_letter_and_no_loop_and_reaches_no_other_queue(
    raw: Raw, serve: Serve, service: Service, victim: str, kind: str, retries: int
) -> None:
    queue, exchange, key = ways(raw, service, victim, retries)[kind]
    # One after another: what comes back into the queue is handled before what is sent later.
    serve(service, threads=1, prefetch=1)
    properties = {"content_type": "application/json", "type": "work" if kind == "task" else "unknown"}
    body = b"1" if kind == "event" else b"[[1], {}]"
    sent = hostile(queue, victim)
    if exchange == "":
        # The broker puts what is published into each queue that it names: that is for the publisher to decide.
        sent["headers"] = {"CC": [queue], "BCC": [queue], "mine": "kept"}
    else:
        # In a topic exchange these are topics, to which nothing is bound here.
        sent["headers"]["BCC"] = [queue, victim]
    raw.channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties, **sent, message_id="first"))
    dead, _ = raw.get(f"{queue}.dead")
    assert dead.message_id == "first"
    assert dead.headers["mine"] == "kept"
    assert not {"CC", "BCC"} & dead.headers.keys()
    assert (dead.priority, dead.expiration, dead.delivery_mode, dead.user_id, dead.cluster_id) == (
        9, None, 2, None, None,
    )  # fmt: skip
    raw.channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties, message_id="last"))
    assert ids_until(raw, f"{queue}.dead", "last") == ["last"]
    assert raw.count(victim) == 0


def test_an_item_with_cc_is_one_dead_letter_and_a_replay_names_one_queue(client: Client, raw: Raw, victim: str) -> None:
    name = f"{victim}.items"
    numbers = client.queue(name, prefetch=1)
    with suppress(Empty):
        numbers.get_nowait()
    sent = hostile(name, victim)
    sent["headers"]["CC"] = [name]
    raw.send(name, b"\xc1", content_type="application/msgpack", message_id="bad", **sent)
    raw.send(name, b"good")
    assert numbers.get(timeout=20) == "good"
    numbers.task_done()
    [letter] = client.dead_letters(name).list()
    assert client.dead_letters(name).replay(all=True) == [letter.id]
    raw.send(name, b"good too")
    assert numbers.get(timeout=20) == "good too"
    numbers.close()
    assert len(client.dead_letters(name).list()) == 1
    for each in (name, f"{name}.dead"):
        raw.channel.queue_delete(each)


def test_who_may_write_to_one_exchange_reaches_no_queue_beyond_it(
    node: Node, service: Service, queue_name: str
) -> None:
    """With the rights of the server that retries and dead-letters his event."""
    evil, payments = f"evil{queue_name}", f"{queue_name}.payments"
    node.ctl("add_user", evil, "secret")
    node.ctl("set_permissions", evil, "^$", "^amqp_rpc\\.events$", "^$")
    paid: list[int] = []
    seen: list[tuple[int, int]] = []

    @service.subscribe(f"{queue_name}.#", retries=1, backoff=(0.1, 0.1))
    def write(order: int) -> None:
        seen.append((order, context().attempt))
        raise ValueError(order)

    @service.task(queue=payments)
    def transfer(amount: int) -> None:
        paid.append(amount)

    own = f"events.{service.name}.write"
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        connection.channel().queue_declare(f"{own}.dead", durable=True, arguments=DEAD)
    with Server(service, url=node.url, threads=1), Client(node.url, timeout=20) as client:
        strangers = pika.URLParameters(node.url.replace("guest:guest", f"{evil}:secret"))
        with pika.BlockingConnection(strangers) as connection:
            properties = pika.BasicProperties(
                type="transfer",
                content_type="application/json",
                message_id="evil",
                # Of another user than the server's: the broker would close the channel of a copy with it.
                user_id=evil,
                headers={"CC": [payments, own], "BCC": [payments, own]},
            )
            connection.channel().basic_publish("amqp_rpc.events", f"{queue_name}.x", b"[[1000000], {}]", properties)
            connection.channel().basic_publish("amqp_rpc.events", f"{queue_name}.x", b"7", properties)

        def dead() -> int:
            [state] = client.queue_states([f"{own}.dead"]).values()
            return 0 if state is None else state.messages

        until(lambda: dead() == 2, what="both dead letters")
        client.enqueue(transfer, 1)
        until(lambda: paid == [1], what="the one payment")
        assert seen == [(7, 1), (7, 2)]
        assert client.dead_letters(own).replay(all=True) == ["evil", "evil"]
        until(lambda: dead() == 2 and len(seen) == 4, what="both, once more")
        client.enqueue(transfer, 2)
        until(lambda: paid == [1, 2])


@pytest.fixture
def gone(raw: Raw, victim: str) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        raw.channel.queue_delete(name)


def test_headers_of_the_publisher_s_own_stay_through_retries_dead_letters_and_replays(
    raw: Raw, serve: Serve, service: Service, client: Client, victim: str, gone: list[str]
) -> None:
    queue = f"{victim}.tasks"
    gone += [queue, f"{queue}.dead"]
    raw.channel.queue_declare(f"{queue}.dead", durable=True, arguments=DEAD)
    seen: list[dict[str, Any]] = []

    @service.task(queue=queue, retries=1, backoff=(0.1, 0.1))
    def work(n: int) -> None:
        seen.append(dict(context().headers))
        raise ValueError(n)

    serve(service)
    mine = {"tenant": "acme", "traceparent": "00-1", "X-Request-Id": "5", "cc": "no keys", "nested": {"a": [1, "b"]}}
    body = json.dumps([[1], {}]).encode()
    raw.send(queue, body, content_type="application/json", type="work", headers={**mine, "CC": [queue]})
    until(lambda: client.dead_letters(queue).list())
    client.dead_letters(queue).replay(all=True)
    until(lambda: len(seen) == 4)
    assert [{name: each[name] for name in mine} for each in seen] == [mine] * 4
