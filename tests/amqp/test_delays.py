"""Delays in the broker: each queue's delayed tasks wait for their queue alone, whatever has become of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pika
import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker.node import Node
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
    until(lambda: raw.count(full), what="the first ones to arrive")
    until(lambda: not raw.count("amqp_rpc.delay.02"), what="the others to have gone on")
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


def test_delayed_tasks_whose_queue_was_full_come_when_there_is_room(node: Node, queue_name: str) -> None:
    # Three minutes, unless it is set.
    node.ctl("eval", "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 2000).")
    service = Service()
    ran: set[int] = set()

    @service.task(queue=queue_name, max_length=1)
    def come(n: int) -> None:
        ran.add(n)

    with Client(node.url, timeout=60) as client:
        client.enqueue_many(come, [(n,) for n in range(50)], delay=DELAY)
        until(lambda: (state := client.queue_states([queue_name])[queue_name]) is not None and state.messages)
        with Server(service, url=node.url):
            until(lambda: len(ran) == 50, timeout=60, what="all delayed tasks")
