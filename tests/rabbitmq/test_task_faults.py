"""An accepted task is never lost: killed workers, a broker that is killed or restarted, connections that break."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker.node import Node
from tests.programs import serving
from tests.rabbitmq.conftest import Raw
from tests.rabbitmq.test_tasks import dead_letter, declare_dead
from tests.waiting import until

NewNode = Callable[..., Node]


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_the_task_of_a_worker_that_is_killed_goes_to_another_one(url: str, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    with serving("tests.served", url=url) as first:
        handle = client.enqueue("note_and_stay", str(path), 60.0, queue="tserved_tasks")
        until(lambda: lines(path))
        with serving("tests.served", url=url) as second:
            first.send(signal.SIGKILL)
            assert handle.result(timeout=20) is None
            assert [int(pid) for _, pid in lines(path)] == [first.pid, second.pid]


def test_a_task_that_kills_its_workers_ends_among_the_dead_letters_and_the_others_run(
    url: str, client: Client, raw: Raw, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    declare_dead(raw, "tserved_tasks")
    # Other tests' may be there.
    raw.channel.queue_purge("tserved_tasks.dead")
    with serving("tests.served", "--processes", "2", url=url):
        killer = client.enqueue("note_and_die", str(path), queue="tserved_tasks")
        properties = dead_letter(raw, "tserved_tasks", timeout=60)
        assert properties.message_id == killer.id
        assert properties.headers["reason"].startswith("5 workers died, one after another")
        assert properties.headers["crashes"] == 5
        assert len(lines(path)) == 5
        assert client.enqueue("note", str(path), "after", queue="tserved_tasks").result(timeout=20) is None


@pytest.mark.node
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_tasks_in_the_queue_and_delayed_ones_survive_the_end_of_the_broker(new_node: NewNode, end: str) -> None:
    node = new_node()
    service = Service()
    ran: list[int] = []

    @service.task(queue="tsurvives")
    def work(n: int) -> None:
        ran.append(n)

    with Client(node.url, timeout=60) as client:
        for n in range(50):
            client.enqueue(work, n)
        for n in range(50, 60):
            client.enqueue(work, n, delay=1 + n % 3)
        getattr(node, end)()
        node.start()
        with Server(service, url=node.url):
            until(lambda: set(ran) == set(range(60)), timeout=40)


@pytest.mark.node
def test_queues_that_are_new_survive_a_broker_that_is_killed_at_once(new_node: NewNode) -> None:
    node = new_node()
    service = Service()
    ran: list[bool] = []

    @service.task(queue="tnew", retries=0)
    def work() -> None:
        ran.append(True)
        raise ValueError

    with Client(node.url, timeout=60) as client:
        # RabbitMQ forgets what it was told in its last second, the last quorum queue as well.
        client.enqueue(work)
        node.kill()
        node.start()
        with Server(service, url=node.url) as server:
            until(lambda: ran)
            until(lambda: not len(server._in_hand), what="the dead letter to be taken")


@pytest.mark.node
def test_what_is_enqueued_while_the_broker_is_away_is_accepted_when_it_is_back(new_node: NewNode) -> None:
    node = new_node()
    service = Service()
    ran: list[int] = []

    @service.task(queue="tback")
    def work(n: int) -> None:
        ran.append(n)

    with Client(node.url, timeout=60) as client, Server(service, url=node.url):
        client.enqueue(work, 1)
        node.stop()
        accepted: list[object] = []
        waiting = threading.Thread(target=lambda: accepted.append(client.enqueue(work, 2)))
        waiting.start()
        node.start()
        waiting.join(60)
        assert len(accepted) == 1
        until(lambda: sorted(set(ran)) == [1, 2])


@pytest.mark.node
def test_a_worker_whose_connection_breaks_in_a_task_does_not_lose_it(new_node: NewNode) -> None:
    node = new_node()
    service = Service()
    begun, go_on = threading.Event(), threading.Event()
    ran: list[bool] = []

    @service.task(queue="tbroken")
    def work() -> str:
        begun.set()
        go_on.wait(30)
        ran.append(True)
        return "done"

    with Client(node.url, timeout=60) as client, Server(service, url=node.url) as server:
        client.enqueue(work)
        assert begun.wait(20)
        node.ctl("close_all_connections", "test")
        until(lambda: server.counters["consumed"] >= 2)
        go_on.set()
        # Its first run could not be acknowledged: it was given back, counted, and has run once more.
        until(lambda: len(ran) == 2)


def test_a_classic_queue_counts_the_workers_that_die_as_well(
    url: str, client: Client, raw: Raw, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    raw.channel.queue_declare("tserved_classic.dead", durable=True)
    with serving("tests.served", "--processes", "2", url=url):
        client.enqueue("die_classic", str(path), queue="tserved_classic")
        until(lambda: raw.channel.basic_get("tserved_classic.dead")[0], timeout=60)
        assert len(lines(path)) == 5
