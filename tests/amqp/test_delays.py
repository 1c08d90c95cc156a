"""Delays in the broker: each queue's delayed tasks wait for their queue alone, whatever has become of it."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from amqp_rpc import Client, Server, Service, context
from amqp_rpc.amqp import declare
from amqp_rpc.broker.node import Node
from amqp_rpc.errors import PublishRefused
from amqp_rpc.message.topology import ABANDONED, UNROUTED, arrivals_queue
from amqp_rpc.ops.browse import MOST_RETURNS
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]

#: More than RabbitMQ hands on at a time, for all targets of a queue's dead letters: 32.
MANY = 200
#: A delay that passes one level alone, the third.
DELAY = 0.4


@contextlib.contextmanager
def channel_of(node: Node) -> Iterator[Any]:
    """A channel that knows nothing of ours."""
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        yield connection.channel()


def counted(channel: Any, queue: str) -> int:
    """The messages of a queue that no one has."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


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


class TestAbandoned:
    """Delayed tasks of a queue that was removed for good: more than RabbitMQ hands on at a time."""

    @pytest.fixture(params=[40, 100])
    def left(self, request: pytest.FixtureRequest, node: Node, queue_name: str) -> Iterator[int]:
        """So many of them, and one more, ``mine``, whose queue was deleted only by mistake."""
        with Client(node.url, timeout=60) as client, channel_of(node) as raw:
            client.enqueue("f", queue=queue_name, delay=DELAY)
            until(lambda: counted(raw, arrivals_queue(queue_name)) == 1, what="the first delay")
            # Tasks of other tests.
            raw.queue_purge(ABANDONED)
            client.enqueue_many("f", [(i,) for i in range(request.param)], queue=f"{queue_name}.gone", delay=3)
            client.enqueue("f", "mine", queue=queue_name, delay=3)
            for each in (queue_name, f"{queue_name}.gone"):
                raw.queue_delete(each)
                raw.queue_delete(arrivals_queue(each))
            until(lambda: counted(raw, ABANDONED) == request.param + 1, what="all of them to be due")
            yield request.param
            raw.queue_purge(ABANDONED)

    def test_they_hold_up_no_task_of_a_queue_that_is_there_again(
        self, node: Node, queue_name: str, left: int, service: Service
    ) -> None:
        ran: list[str] = []

        @service.task(queue=queue_name)
        def f(what: str) -> None:
            ran.append(what)

        with Server(service, url=node.url), channel_of(node) as raw:
            until(lambda: ran == ["mine"], what="the task that was abandoned")
            with Client(node.url, timeout=60) as client:
                client.enqueue(f, "new", delay=DELAY)
            until(lambda: ran == ["mine", "new"])
            until(lambda: counted(raw, ABANDONED) == left)

    def test_a_client_that_declares_the_queue_again_brings_its_task_back(
        self, node: Node, queue_name: str, left: int
    ) -> None:
        with Client(node.url, timeout=60) as client:
            client.enqueue("f", "new", queue=queue_name, delay=60)
        with channel_of(node) as raw:
            until(lambda: counted(raw, arrivals_queue(queue_name)) == 1, what="the task that was abandoned")
            until(lambda: counted(raw, ABANDONED) == left)

    def test_they_are_listed_with_their_queue_and_can_be_replayed_or_dropped(
        self, node: Node, queue_name: str, left: int
    ) -> None:
        with Client(node.url, timeout=60) as client:
            dead = client.dead_letters(UNROUTED)
            for _ in range(2 * MOST_RETURNS):
                letters = dead.list(limit=None)
            assert collections.Counter(letter.queue for letter in letters) == {
                queue_name: 1,
                f"{queue_name}.gone": left,
            }
            assert {letter.reason for letter in letters} == {"its delay was over, and its queue was gone"}
            (mine,) = [letter for letter in letters if letter.queue == queue_name]
            assert mine.body == [["mine"], {}]
            with pytest.raises(PublishRefused, match=f"there is no queue '{queue_name}'"):
                dead.replay(ids=mine.id)
            client.enqueue("f", queue=queue_name)
            assert dead.replay(ids=mine.id) == [mine.id]
            with channel_of(node) as raw:
                until(lambda: counted(raw, queue_name) == 2)
            assert len(dead.drop(all=True)) == left


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
