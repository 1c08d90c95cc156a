"""`amqp-rpc queues` as a user meets it: a line for each queue, by its name or by the module that serves it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from amqp_rpc import Client
from amqp_rpc.cli.exits import Exit
from tests.programs import run, serving
from tests.waiting import until


@pytest.fixture(scope="module")
def served(broker: str) -> Iterator[str]:
    with serving("tests.served", url=broker):
        yield broker


def test_a_queue_is_a_line_of_messages_consumers_and_dead_letters(served: str) -> None:
    name = f"t{secrets.token_hex(6)}"
    with Client(served) as client:
        for _ in range(3):
            client.enqueue("resize", queue=name)
        client.enqueue("resize", queue=name, delay=3600)
    done = run("queues", name, "tserved_sums", url=served)
    title, first, second, delayed = done.stdout.splitlines()
    assert title.split() == ["QUEUE", "READY", "UNACKED", "CONSUMERS", "DEAD"]
    assert first.split() == [name, "3", "-", "0", "0"]
    assert second.split()[:4] == ["tserved_sums", "0", "-", "1"]
    assert int(delayed.removeprefix("delayed, in all queues: ")) >= 1
    assert (done.returncode, done.stderr) == (Exit.OK, "")


def test_json_is_one_object_and_counts_the_dead(served: str) -> None:
    with Client(served) as client:
        failed = client.enqueue("fail", "why", queue="tserved_sums")
        until(lambda: client.dead_letters("tserved_sums").get(failed.id), what="a dead letter")
        dead = len(client.dead_letters("tserved_sums").list())
    found = json.loads(run("queues", "tserved_sums", "--json", url=served).stdout)
    assert found["queues"] == [{"queue": "tserved_sums", "ready": 0, "unacked": None, "consumers": 1, "dead": dead}]
    assert isinstance(found["delayed"], int)


def test_a_module_stands_for_its_queues(served: str) -> None:
    lines = run("queues", "tests.served", url=served).stdout.splitlines()[1:-1]
    there = [line.split()[0] for line in lines]
    assert there == ["rpc_queue.tserved", "tserved_tasks", "tserved_classic", "tserved_limited", "tserved_sums"]


def test_a_module_with_subscriptions_stands_for_the_shared_ones(url: str) -> None:
    with serving("tests.served_events", url=url):
        lines = run("queues", "tests.served_events", url=url).stdout.splitlines()[1:-1]
    assert [line.split()[0] for line in lines] == [f"events.tevents.note_and_{verb}" for verb in ("stay", "die")]


def test_a_missing_queue_is_reported(served: str) -> None:
    done = run("queues", "no_such_queue", "tserved_sums", url=served)
    assert done.returncode == Exit.NO_SERVER
    assert done.stderr == "amqp-rpc: there is no queue 'no_such_queue'\n"
    assert done.stdout.splitlines()[1].split() == ["no_such_queue", "-", "-", "-", "0"]


def test_without_names_the_usual_queues_are_shown(served: str) -> None:
    with serving("services.fib", url=served):
        done = run("queues", url=served)
    assert "rpc_queue " in done.stdout
    assert (done.returncode, done.stderr) == (Exit.OK, "")
