"""Bytes are sent and received as they are, in calls, tasks, events and items; a default of a client says nothing."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pika
import pytest

from amqp_rpc import Client, Server, Service
from tests.served_by import Raw

#: What Ruby's bunny and Perl's AnyEvent::RabbitMQ say unless they are told otherwise.
OCTETS = "application/octet-stream"
PICTURE = b"\x89PNG\r\n\x1a\n\x00\xff"


class Handled:
    """A service with a handler of bytes, and one of numbers, for each kind of message; what they got is kept."""

    def __init__(self, service: Service, serve: Callable[..., Server]) -> None:
        self.service = service
        self.got: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.topic = f"{service.name}.raw"
        self.tasks = f"{service.name}.tasks"
        self._called(service)
        self._told(service, self.got)
        serve(service)

    def next(self) -> object:
        return self.got.get(timeout=20)

    @staticmethod
    def _called(service: Service) -> None:
        @service.rpc(default=True)
        def fib(n: int) -> int:
            a, b = 0, 1
            for _ in range(n):
                a, b = b, a + b
            return a

        @service.rpc
        def mirror(body: bytes) -> bytes:
            return body[::-1]

        @service.rpc
        def anything(value: Any) -> str:
            return repr(value)

        @service.rpc
        def nothing() -> str:
            return "called"

        @service.rpc
        def one(n: int = 1) -> int:
            return n

    def _told(self, service: Service, got: queue.SimpleQueue[object]) -> None:
        @service.task(queue=self.tasks)
        def keep(body: bytearray) -> None:
            got.put(("task", body))

        @service.task(queue=self.tasks + ".number")
        def count(n: int) -> None:
            got.put(("task", n))

        @service.task(queue=self.tasks + ".none")
        def tick() -> None:
            got.put(("task", None))

        @service.subscribe(self.topic)
        def heard(body: bytes | None) -> None:
            got.put(("event", body))

        @service.subscribe(self.topic + ".number")
        def numbered(n: int) -> None:
            got.put(("event", n))


@pytest.fixture
def handled(service: Service, serve: Callable[..., Server]) -> Handled:
    return Handled(service, serve)


@pytest.mark.parametrize("said", [OCTETS, None, "binary/octet-stream", "text/plain", "text/html; charset=utf-8"])
def test_a_call_in_text_of_a_client_with_any_default_is_answered_in_text(handled: Handled, raw: Raw, said: str) -> None:
    properties, body = raw.ask(handled.service.queue, b"30", content_type=said, content_encoding="utf8")
    assert (properties.type, properties.content_type, body) == ("result", "text/plain", b"832040")


@pytest.mark.parametrize("said", [OCTETS, None, "text/plain", "image/png"])
def test_a_call_of_bytes_gets_them_as_they_are_and_answers_in_bytes(handled: Handled, raw: Raw, said: str) -> None:
    properties, body = raw.ask(handled.service.queue, PICTURE, content_type=said, type="mirror")
    assert (properties.type, properties.content_type, body) == ("result", OCTETS, PICTURE[::-1])


@pytest.mark.parametrize(("body", "shown"), [(b"text", b"'text'"), (b"\xff", rb"b'\xff'")])
def test_without_a_type_hint_octets_are_text_where_they_can_be(
    handled: Handled, raw: Raw, body: bytes, shown: bytes
) -> None:
    assert raw.ask(handled.service.queue, body, content_type=OCTETS, type="anything")[1] == shown


def test_bytes_for_a_number_are_refused(handled: Handled, raw: Raw) -> None:
    properties, body = raw.ask(handled.service.queue, PICTURE, content_type=OCTETS, type="fib")
    assert (properties.type, properties.content_type) == ("error", "text/plain")
    assert b"InvalidArguments: fib(): parameter 'n': expected int, got bytes" in body


@pytest.mark.parametrize("said", [None, OCTETS, "text/plain", "application/json", "application/msgpack"])
@pytest.mark.parametrize("function", ["nothing", "one"])
def test_a_call_without_arguments_may_have_an_empty_body(
    handled: Handled, raw: Raw, function: str, said: str | None
) -> None:
    properties, _ = raw.ask(handled.service.queue, b"", content_type=said, type=function)
    assert properties.type == "result"


@pytest.mark.parametrize("said", ["text/json", "application/vnd.api+json", "application/json; charset=utf-8"])
def test_a_reply_spells_its_type_as_its_request_does(handled: Handled, raw: Raw, said: str) -> None:
    properties, body = raw.ask(handled.service.queue, b"[[30],{}]", content_type=said, content_encoding="8bit")
    assert (properties.type, properties.content_type, body) == ("result", said, b"832040")


@pytest.mark.parametrize("said", [OCTETS, None, "text/plain", "application/x-protobuf"])
def test_tasks_and_events_of_bytes_get_them_as_they_are(handled: Handled, raw: Raw, said: str) -> None:
    raw.send(handled.tasks, PICTURE, content_type=said)
    assert handled.next() == ("task", bytearray(PICTURE))
    raw.channel.basic_publish("amqp_rpc.events", handled.topic, PICTURE, pika.BasicProperties(content_type=said))
    assert handled.next() == ("event", PICTURE)


def test_tasks_and_events_in_octets_are_text_where_text_is_wanted(handled: Handled, raw: Raw) -> None:
    raw.send(handled.tasks + ".number", b"7", content_type=OCTETS)
    assert handled.next() == ("task", 7)
    raw.send(handled.tasks + ".none", b"", content_type=OCTETS)
    assert handled.next() == ("task", None)
    raw.channel.basic_publish(
        "amqp_rpc.events", handled.topic + ".number", b"8", pika.BasicProperties(content_type=OCTETS)
    )
    assert handled.next() == ("event", 8)


@pytest.mark.parametrize("content_type", [OCTETS, "text/plain"])
@pytest.mark.parametrize("payload", [PICTURE, bytearray(PICTURE), memoryview(PICTURE), b"text"])
def test_our_client_sends_bytes_as_they_are(
    handled: Handled, client: Client, raw: Raw, payload: bytes, content_type: Any
) -> None:
    queue_name = raw.channel.queue_declare("", exclusive=True).method.queue
    client.publish(queue_name, payload, exchange="", content_type=content_type, mandatory=True)
    properties, body = raw.get(queue_name)
    assert (properties.content_type, body) == (content_type, bytes(payload))

    client.publish(handled.topic, payload, content_type=content_type)
    assert handled.next() == ("event", bytes(payload))
    calls = client.with_options(content_type=content_type)
    assert calls.call(f"{handled.service.name}.mirror", payload) == bytes(payload)[::-1]
    calls.enqueue("keep", payload, queue=handled.tasks)
    assert handled.next() == ("task", bytearray(payload))


@pytest.mark.parametrize("said", [OCTETS, None])
@pytest.mark.parametrize(("body", "item"), [(PICTURE, PICTURE), (b"text", "text")])
def test_an_item_of_another_program_is_text_where_it_can_be(
    client: Client, raw: Raw, queue_name: str, body: bytes, item: object, said: str | None
) -> None:
    with client.queue(queue_name) as items:
        items.put(PICTURE)
        assert items.get(timeout=20) == PICTURE
        raw.send(queue_name, body, content_type=said)
        assert items.get(timeout=20) == item
