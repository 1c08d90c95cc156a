"""A task that can't run is dead-lettered with its reason, or an error at once; the next one runs, and none hangs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from amqp_rpc import (
    Client,
    ConfigurationError,
    MessageTooLarge,
    PublishRefused,
    Server,
    Service,
    Unencodable,
)
from tests.served_by import Raw, declare_dead
from tests.server.test_bad_messages import BAD_BODIES, MSGPACK, WRONG_CALLS
from tests.waiting import until

Serve = Callable[..., Server]


class Worker:
    """A server of one queue, and what has run there."""

    def __init__(self, queue: str, client: Client, raw: Raw) -> None:
        self.queue = queue
        self.client = client
        self.raw = raw
        self.ran: list[object] = []

    def dead_letter(self) -> tuple[Any, bytes]:
        return self.raw.get(f"{self.queue}.dead")


@pytest.fixture
def worker(client: Client, serve: Serve, service: Service, raw: Raw) -> Iterator[Worker]:
    """A worker; when the test has sent it what is bad, it still does what is good, and has let go of everything."""
    worker = Worker(f"t{secrets.token_hex(6)}", client, raw)
    declare_dead(raw, worker.queue)

    @service.task(queue=worker.queue, retries=0)
    def double(n: int) -> int:
        worker.ran.append(n)
        return 2 * n

    @service.task(queue=worker.queue, retries=0)
    def fail() -> None:
        """Be there beside the other one: neither is the default."""

    @service.task(queue=worker.queue)
    def answer(size: int) -> object:
        worker.ran.append(size)
        return b"x" * size if size else object()

    server = serve(service, max_message_size=100_000)
    yield worker
    assert client.enqueue(double, 21).result(timeout=20) == 42
    server.stop()
    # An unacked task would be back.
    assert raw.count(worker.queue) == 0
    assert raw.count(f"{worker.queue}.dead") == 0, "each test takes its dead letter"


@pytest.mark.parametrize("bad", BAD_BODIES)
def test_a_body_that_can_t_be_read_is_a_dead_letter_as_it_came(worker: Worker, bad: str) -> None:
    content_type, body = BAD_BODIES[bad]
    worker.raw.send(worker.queue, body, content_type=content_type, type="double", message_id="m1", headers={"mine": 1})
    properties, kept = worker.dead_letter()
    assert kept == body
    assert (properties.content_type, properties.type, properties.message_id) == (content_type, "double", "m1")
    assert properties.delivery_mode == 2
    assert (properties.headers["queue"], properties.headers["mine"]) == (worker.queue, 1)
    assert properties.headers["reason"].startswith("Undecodable: ")
    assert content_type in properties.headers["reason"]
    assert worker.ran == []


@pytest.mark.parametrize("wrong", WRONG_CALLS)
@pytest.mark.parametrize("content_type", [MSGPACK, "application/json"])
def test_a_task_that_can_t_be_called_is_a_dead_letter_that_names_what_is_wrong(
    worker: Worker, wrong: str, content_type: str
) -> None:
    function, body, kind, message = WRONG_CALLS[wrong]
    encoded = msgpack.packb(body) if content_type == MSGPACK else json.dumps(body).encode()
    worker.raw.send(worker.queue, encoded, content_type=content_type, type=function)
    properties, _ = worker.dead_letter()
    assert properties.headers["reason"].startswith(f"{kind}: ")
    assert message in properties.headers["reason"]
    assert worker.ran == []


def test_a_body_above_the_worker_s_limit_is_a_dead_letter_with_all_of_it(worker: Worker) -> None:
    handle = worker.client.enqueue("double", "x" * 200_000, queue=worker.queue)
    with pytest.raises(MessageTooLarge, match="max_message_size"):
        handle.result(timeout=20)
    properties, kept = worker.dead_letter()
    assert properties.headers["reason"].startswith("MessageTooLarge: ")
    assert msgpack.unpackb(kept) == [["x" * 200_000], {}]
    assert worker.ran == []


def test_arguments_above_the_client_s_limit_or_of_no_form_are_refused_at_once(worker: Worker, url: str) -> None:
    with Client(url, max_message_size=1000) as client:
        with pytest.raises(MessageTooLarge, match="max_message_size"):
            client.enqueue("double", "x" * 2000, queue=worker.queue)
        with pytest.raises(Unencodable, match="has no form on the wire"):
            client.enqueue("double", object(), queue=worker.queue)
        assert client.enqueue("double", 2, queue=worker.queue).result(timeout=20) == 4


def test_an_encoding_that_nobody_knows_is_a_dead_letter(worker: Worker) -> None:
    worker.raw.send(worker.queue, b"\x1f\x8b", content_type=MSGPACK, content_encoding="gzip", type="double")
    properties, _ = worker.dead_letter()
    assert properties.headers["reason"].startswith("Undecodable: content encoding 'gzip' is not known")
    assert worker.ran == []


@pytest.mark.parametrize(("size", "error"), [(200_000, MessageTooLarge), (0, Unencodable)])
def test_a_result_that_can_t_be_sent_is_said_and_the_task_has_run_once(
    worker: Worker, size: int, error: type[Exception]
) -> None:
    handle = worker.client.enqueue("answer", size, queue=worker.queue)
    with pytest.raises(error, match=r"answer\(\) ran, and its result was not sent") as raised:
        handle.result(timeout=20)
    assert raised.value.may_have_run  # type: ignore[attr-defined]
    # It has run to its end, so it is neither tried again nor a dead letter.
    assert worker.ran == [size]


ODD = {
    "an attempt that is text": {"headers": {"attempt": "third"}},
    "an attempt below one": {"headers": {"attempt": -5}},
    "an attempt beyond all": {"headers": {"attempt": 2**62}},
    "crashes that are text": {"headers": {"crashes": "many"}},
    "crashes of which no broker knows": {"headers": {"crashes": 99, "x-delivery-count": 99}},
    "a deadline that is text": {"headers": {"deadline": "soon"}},
    "a chunk, as of calls": {"headers": {"chunk": True}},
    "the highest priority": {"priority": 255},
    "a time in the far future": {"timestamp": 2**63 - 1},
    "an address of nobody": {"reply_to": "nobody.has.this.queue", "correlation_id": "1"},
    "a forged address": {"reply_to": "amq.rabbitmq.reply-to.x", "correlation_id": "1"},
    "an id that is no text": {"message_id": b"\xff no text"},
    "an address that is no text": {"reply_to": b"\xff no text", "correlation_id": b"\xff no text"},
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_about_a_message_does_not_keep_its_task_from_running(worker: Worker, odd: str) -> None:
    worker.raw.send(worker.queue, b"[[1],{}]", content_type="application/json", type="double", **ODD[odd])
    until(lambda: worker.ran == [1])


@pytest.mark.parametrize(
    "name",
    ["rpc_queue", "rpc_queue.billing", "thumbnails.dead", "amq.mine", "x" * 200, "ü" * 120, "\ud800", 5],
    ids=["calls", "a service's calls", "dead letters", "the broker's", "long", "long in bytes", "no UTF-8", "no text"],
)
def test_a_name_that_no_task_queue_can_have_is_refused_at_once_and_the_connection_stays(
    worker: Worker, name: Any
) -> None:
    for enqueue in (
        lambda: worker.client.enqueue("double", 1, queue=name),
        lambda: worker.client.enqueue_many("double", [(1,)], queue=name),
        lambda: worker.client.enqueue("double", 1, queue=name, unique_for=5.0, delay=1),
    ):
        with pytest.raises(ConfigurationError, match="can't name a task queue"):
            enqueue()


@pytest.mark.parametrize("name", ["x" * 256, "\ud800", "ü" * 128], ids=["long", "no UTF-8", "long in bytes"])
def test_a_name_that_no_function_can_have_is_refused_at_once(worker: Worker, name: str) -> None:
    with pytest.raises(ConfigurationError, match="AMQP"):
        worker.client.enqueue(name, queue=worker.queue)


def test_a_queue_that_was_full_takes_tasks_again_when_it_was_worked_off(
    client: Client, serve: Serve, service: Service, raw: Raw
) -> None:
    queue, ran = f"t{secrets.token_hex(6)}", []

    @service.task(queue=queue, max_length=1, queue_type="classic")
    def work(n: int) -> None:
        ran.append(n)

    client.enqueue(work, 1)
    with pytest.raises(PublishRefused, match=f"queue '{queue}' takes no more") as refused:
        client.enqueue(work, 2)
    assert not refused.value.may_have_run
    serve(service)
    until(lambda: ran == [1])
    client.enqueue(work, 3).result(timeout=20)
    assert ran == [1, 3]
    assert raw.count(queue) == 0


def test_a_task_that_lost_a_header_is_a_dead_letter_with_its_id(
    client: Client, raw: Raw, serve: Serve, service: Service, unreadable: object
) -> None:
    queue = f"t{secrets.token_hex(6)}"
    ran: list[str] = []
    declare_dead(raw, queue)

    @service.task(queue=queue, retries=0)
    def only(text: str) -> None:
        ran.append(text)

    serve(service)
    raw.send(queue, b"rm -rf /", type="delete_all", message_id="m1", headers={"score": unreadable, "mine": 1})
    until(lambda: raw.count(f"{queue}.dead") == 1)
    (letter,) = client.dead_letters(queue).list()
    assert (letter.id, letter.function, letter.body) == ("m1", "delete_all", "rm -rf /")
    assert "header 'score'" in letter.reason
    assert ran == []
    # What could not be read is not there any more, so nobody can run it by a replay.
    with pytest.raises(PublishRefused, match="could not be read of it"):
        client.dead_letters(queue).replay(ids="m1")
