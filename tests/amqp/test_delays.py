"""Delays in the broker: each queue's delayed tasks wait for their queue alone, whatever has become of it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

import pika
import pytest

from amqp_rpc import Client, Server, Service, context
from amqp_rpc.amqp import declare
from amqp_rpc.broker.node import Node
from amqp_rpc.message.topology import arrivals_queue
from tests.served_by import Raw
from tests.server.test_tasks_on_rabbitmq import declare_dead
from tests.waiting import until

Serve = Callable[..., Server]

#: More than RabbitMQ hands on at a time, for all targets of a queue's dead letters: 32.
MANY = 200
#: A delay that passes one level alone, the third.
DELAY = 0.4


@pytest.fixture
def queue(raw: Raw) -> str:
    name = f"t{secrets.token_hex(6)}"
    declare_dead(raw, name)
    return name


def test_delayed_tasks_for_a_queue_that_is_full_hold_up_no_other_queue(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw
) -> None:
    full = f"{queue}_full"
    other = Service()

    @service.task(queue=full, max_length=1)
    def stay() -> None:
        """Be never done: no server has it."""

    @other.task(queue=queue, backoff=(DELAY, DELAY))
    def work() -> str:
        return "done"

    serve(other)
    client.enqueue_many(stay, [()] * MANY, delay=DELAY)
    until(lambda: raw.count(arrivals_queue(full)) == MANY, what="all of them to arrive")
    # Else after three minutes.
    assert client.enqueue(work, delay=DELAY).result(timeout=60) == "done"


@pytest.mark.parametrize(
    "gone", [["{}"], ["{}", "amqp_rpc.arrivals.{}"]], ids=["the queue", "and that of its arrivals"]
)
def test_delayed_tasks_for_a_queue_that_was_deleted_hold_up_no_other_and_come_when_it_is_there_again(
    node: Node, queue_name: str, gone: list[str]
) -> None:
    # Three minutes, unless it is set.
    node.ctl("eval", "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 2000).")
    service, other = Service(), Service()
    ran: list[int] = []

    @service.task(queue=queue_name)
    def come(n: int) -> None:
        ran.append(n)

    @other.task(queue=f"{queue_name}.other")
    def work() -> str:
        return "done"

    with Client(node.url, timeout=60) as client, Server(other, url=node.url):
        client.enqueue(come, -1)
        # Long enough for the queues to be deleted before the first of them is due.
        client.enqueue_many(come, [(n,) for n in range(MANY)], delay=10)
        with pika.BlockingConnection(pika.URLParameters(node.url)) as raw:
            for each in gone:
                raw.channel().queue_delete(each.format(queue_name))
        assert client.enqueue(work, delay=12).result(timeout=60) == "done"
        assert client.enqueue(work, delay=DELAY).result(timeout=60) == "done"
        with Server(service, url=node.url):
            until(lambda: set(ran) >= set(range(MANY)), timeout=60, what="all delayed tasks")
    assert -1 not in ran, "it was in the queue when that was deleted"
    assert len(ran) == MANY


def test_delayed_tasks_whose_queue_was_full_come_when_there_is_room(
    client: Client, serve: Serve, service: Service, queue_name: str, raw: Raw
) -> None:
    ran: set[int] = set()
    room = threading.Event()

    @service.task(queue=queue_name, max_length=1)
    def come(n: int) -> None:
        room.wait(60)
        ran.add(n)

    serve(service, threads=1)
    client.enqueue_many(come, [(n,) for n in range(50)], delay=DELAY)
    until(lambda: raw.count(queue_name), what="a full queue")
    room.set()
    until(lambda: len(ran) == 50, timeout=60, what="all delayed tasks")


def test_a_server_declares_the_arrivals_queue_again_at_once(
    client: Client, serve: Serve, service: Service, queue_name: str, raw: Raw
) -> None:
    @service.task(queue=queue_name, retries=1, backoff=(0.5, 0.5))
    def come() -> int:
        if context().attempt == 1:
            raise OSError("not yet")
        return context().attempt

    serve(service)
    before = client.enqueue(come, delay=1.0)
    raw.channel.queue_delete(arrivals_queue(queue_name))
    assert [handle.result(timeout=30) for handle in (before, client.enqueue(come, delay=0.1))] == [2, 2]


def test_a_client_declares_the_arrivals_queue_again_after_some_seconds(
    client: Client, queue_name: str, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declare, "_DECLARED_AGAIN_AFTER", 0.1)
    client.enqueue("come", queue=queue_name, delay=60)
    raw.channel.queue_delete(arrivals_queue(queue_name))

    def declared() -> bool:
        client.enqueue("come", queue=queue_name, delay=60)
        return bool(client.queue_states([arrivals_queue(queue_name)])[arrivals_queue(queue_name)])

    until(declared, what="the queue of arrivals")


def test_a_server_that_stops_leaves_arrivals_for_a_full_queue_to_others(
    client: Client, serve: Serve, service: Service, queue_name: str, raw: Raw
) -> None:
    ran: list[int] = []
    room = threading.Event()

    @service.task(queue=queue_name, queue_type="classic", max_length=1)
    def come(n: int) -> None:
        room.wait(60)
        ran.append(n)

    stopped = serve(service, threads=1)
    client.enqueue_many(come, [(n,) for n in range(20)], delay=DELAY)
    until(lambda: raw.count(queue_name), what="a full queue")
    stopping = threading.Thread(target=stopped.stop)
    stopping.start()
    room.set()
    stopping.join(20)
    assert not stopping.is_alive(), "it waits for room"
    serve(service)
    until(lambda: len(set(ran)) == 20, timeout=60, what="all delayed tasks")
    assert sorted(ran) == list(range(20))
