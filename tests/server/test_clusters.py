"""Three nodes that form a cluster: what waits for one that is away, and what happens when two lose sight of each other.

`make chaos` and `make chaos-tasks` do much more to clusters; here is what they can't tell from a busy machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pika
import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker.node import Node
from amqp_rpc.message.topology import CLOCK_ARGUMENTS
from tests.conftest import require_node
from tests.nodes import Nodes
from tests.server.test_schedules_on_rabbitmq import Ticking
from tests.waiting import until

pytestmark = [pytest.mark.node, pytest.mark.ends_node, pytest.mark.timeout(400)]

TASKS = 30


@pytest.fixture(scope="module")
def cluster(all_nodes: Nodes) -> Iterator[list[Node]]:
    require_node()
    nodes = all_nodes.cluster(3)
    yield nodes
    for node in nodes:
        node.close()


def test_delayed_tasks_and_idempotent_calls_come_within_seconds_of_their_queue_s_node(
    cluster: list[Node], queue_name: str
) -> None:
    away, *others = cluster
    service = Service(queue=f"{queue_name}.calls")
    ran: list[int] = []

    @service.rpc(idempotent=True)
    def double(n: int) -> int:
        return 2 * n

    @service.task(queue=queue_name, queue_type="classic")
    def come(n: int) -> None:
        ran.append(n)

    # A classic queue is on the node of the connection that declares it.
    with Client(away.url, timeout=60) as client, pika.BlockingConnection(pika.URLParameters(away.url)) as raw:
        client.enqueue(come, -1)
        raw.channel().queue_declare(service.queue, durable=True, arguments={"x-queue-type": "classic"})
    there = [node.url for node in others]
    with Client(there, timeout=100) as client, Server(service, url=there):
        until(lambda: ran == [-1], what="the first task")
        assert client.call(double, 1) == 2
        for n in range(TASKS):
            client.enqueue(come, n, delay=3 + n / 10)
        away.kill()
        due = time.monotonic() + 3 + TASKS / 10
        until(lambda: time.monotonic() > due + 2, what="the last of them to be due")
        assert len(ran) < TASKS, "the node was killed too late"
        calls = [client.submit(double, n, idempotent=True) for n in range(TASKS)]
        away.start(timeout=100)
        # RabbitMQ itself would move them a minute after they were due, or three minutes later.
        until(lambda: set(ran) >= set(range(TASKS)), timeout=25, what="all delayed tasks")
        assert [call.result() for call in calls] == [2 * n for n in range(TASKS)]


def test_a_leader_that_the_broker_has_lost_sight_of_repeats_no_ticks(
    cluster: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, other, _ = cluster
    ticking = Ticking(0.2)
    # From RabbitMQ 4.3 on the broker waits so long, a minute by default, before it gives up a consumer out of sight.
    other.ctl("eval", "application:set_env(rabbit, consumer_disconnected_timeout, 1).")
    with pika.BlockingConnection(pika.URLParameters(other.url)) as raw:
        # Its leader is on the node of the connection that declares it.
        raw.channel().queue_declare(ticking.queue, durable=True, arguments=CLOCK_ARGUMENTS)
    with Server(ticking.service, url=one.url) as first:
        until(lambda: len(ticking.ran) >= 3, what="the first ticks")
        with Server(ticking.service, url=other.url) as second:
            one.ctl("eval", f"erlang:disconnect_node('{other.name}').")
            until(lambda: caplog.text.count("this server is the leader") == 2, what="the other server to be the leader")
            until(lambda: "this server is not the leader any more" in caplog.text, what="the first one to notice")
            before = len(ticking.ran)
            until(lambda: len(ticking.ran) >= before + 15, what="more ticks")
            assert sorted(server._schedulers[0].leads for server in (first, second)) == [False, True]
    ids = [identity for identity, _ in ticking.ran[before:]]
    assert sorted(set(ids)) == sorted(ids)
    # A tick that both have enqueued has one id.
    assert len(set(ticking.ran)) == len({tick for _, tick in ticking.ran})
