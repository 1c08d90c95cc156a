"""Calls and tasks for programs of others: the body is text or JSON, and the answer has no type."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from amqp_rpc import AsyncClient, Client, ConfigurationError, Service, Unencodable
from tests.served_by import Raw

CLOSED = "amqp://127.0.0.1:1/"


def doubling(service: Service) -> Callable[[int], int]:
    """Return a function that another program serves, and that is registered here for its types."""

    @service.rpc
    def fib(n: int) -> int:
        return 2 * n

    return fib


class Tutorial:
    """The server of RabbitMQ's RPC tutorial: it takes a number in text, and answers with a number in text."""

    def __init__(self, url: str, queue: str) -> None:
        self.queue = queue
        self.received: list[tuple[pika.BasicProperties, bytes]] = []
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        self.channel.basic_consume(queue, self.on_request)
        self.ended: list[Exception] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            self.channel.start_consuming()
        except Exception as error:
            self.ended.append(error)

    def on_request(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.received.append((properties, body))
        answer = str(2 * int(body))
        channel.basic_publish(
            "", properties.reply_to, answer, pika.BasicProperties(correlation_id=properties.correlation_id)
        )
        channel.basic_ack(method.delivery_tag)

    def close(self) -> None:
        self.connection.add_callback_threadsafe(self.channel.stop_consuming)
        self.thread.join()
        self.connection.close()


@pytest.fixture
def queue(raw: Raw) -> str:
    """A queue that another program has declared: not durable, as in the older tutorials."""
    name = f"t{secrets.token_hex(6)}"
    raw.channel.queue_declare(name, auto_delete=True)
    return name


@pytest.fixture
def tutorial(url: str) -> Iterator[Tutorial]:
    server = Tutorial(url, f"t{secrets.token_hex(6)}")
    yield server
    server.close()
    assert not server.ended


def test_a_call_in_text_is_answered_by_a_server_as_the_tutorial_writes_it(client: Client, tutorial: Tutorial) -> None:
    assert client.call("fib", "30", queue=tutorial.queue, content_type="text/plain") == "60"
    properties, body = tutorial.received[0]
    assert (body, properties.content_type) == (b"30", "text/plain")


def test_the_answer_has_the_annotated_type_of_a_function_object(client: Client, tutorial: Tutorial) -> None:
    registered = doubling(Service())
    texts = client.with_options(queue=tutorial.queue, content_type="text/plain")
    assert texts.call(registered, 30) == 60
    assert texts.submit(registered, 4).result() == 8
    assert list(texts.map(registered, range(5))) == [0, 2, 4, 6, 8]


def test_from_asyncio_it_is_the_same(url: str, tutorial: Tutorial) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with AsyncClient(url) as client:
            options: dict[str, Any] = {"queue": tutorial.queue, "content_type": "text/plain"}
            return await client.call("fib", 30, **options), [n async for n in client.map("fib", [1, 2], **options)]

    assert asyncio.run(ask()) == ("60", ["2", "4"])


def test_a_task_in_json_is_json(client: Client, raw: Raw, queue: str) -> None:
    client.enqueue("fib", 30, base=1, queue=queue, content_type="application/json")
    properties, body = raw.get(queue)
    assert (properties.content_type, properties.type, body) == ("application/json", "fib", b'[[30],{"base":1}]')


def test_our_server_answers_calls_in_each_content_type(
    client: Client, serve: Callable[..., Any], service: Service
) -> None:
    served = doubling(service)

    @service.rpc
    def fail(why: str) -> None:
        raise ValueError(why)

    serve(service)
    for content_type in ("text/plain", "application/json", "application/msgpack"):
        chosen = client.with_options(content_type=content_type)
        assert chosen.call(served, 30) == 60
        with pytest.raises(ValueError, match="no"):
            chosen.call(fail, "no")
    assert list(client.map(served, range(5), content_type="application/json", chunksize=2)) == [0, 2, 4, 6, 8]


def test_a_task_in_text_is_the_bare_text_for_workers_in_other_languages(client: Client, raw: Raw, queue: str) -> None:
    client.enqueue("work", "Hello...", queue=queue, content_type="text/plain")
    client.enqueue_many("work", [("a",), ("b",)], queue=queue, content_type="text/plain")
    properties, body = raw.get(queue)
    assert (body, properties.content_type, properties.delivery_mode) == (b"Hello...", "text/plain", 2)
    assert [raw.get(queue)[1] for _ in range(2)] == [b"a", b"b"]


@pytest.mark.parametrize("method", ["call", "submit", "enqueue"])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), (("a", "b"), {}), ((), {"n": "30"}), (("30",), {"base": 1}), ((None,), {}), (({30},), {}),
     (([30],), {}), (({"n": 30},), {}), ((True,), {})],
)  # fmt: skip
def test_what_is_not_one_text_or_number_is_refused_in_one_line(method: str, args: Any, kwargs: Any) -> None:
    with Client(CLOSED) as client, pytest.raises(Unencodable, match=r"cannot send fib\(.*\) as text/plain") as raised:
        getattr(client, method)("fib", *args, content_type="text/plain", **kwargs)
    assert "\n" not in str(raised.value)
    assert not raised.value.may_have_run


@pytest.mark.parametrize("method", ["call", "submit", "map", "enqueue"])
@pytest.mark.parametrize("content_type", ["text/html", "json", 5, ""])
def test_another_content_type_is_refused_with_those_that_exist(method: str, content_type: Any) -> None:
    with Client(CLOSED) as client, pytest.raises(ConfigurationError, match=r"content_type is one of .*text/plain"):
        getattr(client, method)("fib", [30], content_type=content_type)


def test_a_chunk_can_t_be_text() -> None:
    with Client(CLOSED) as client, pytest.raises(ConfigurationError, match="chunksize="):
        client.map("fib", range(5), chunksize=2, content_type="text/plain")
