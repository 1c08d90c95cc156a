"""`amqp-rpc queues` as a user meets it: a line for each queue, by its name or by the module that serves it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from amqp_rpc import Client
from amqp_rpc import broker as throwaway
from amqp_rpc.broker import Node
from amqp_rpc.broker.record import Record
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.queues import queues
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

        def counted() -> bool:
            # A letter that was looked at often is published anew, and is there a moment later.
            dead = len(client.dead_letters("tserved_sums").list())
            found = json.loads(run("queues", "tserved_sums", "--json", url=served).stdout)
            assert isinstance(found["delayed"], int)
            row = {"queue": "tserved_sums", "ready": 0, "unacked": None, "consumers": 1, "dead": dead}
            return dead > 0 and found["queues"] == [row]

        until(counted, what="the number of dead letters")


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
    assert done.returncode == Exit.OK
    assert done.stderr.startswith("AMQP can't list queues: give queues or modules")


def test_without_names_all_queues_of_the_broker_that_was_started_here_are_shown(
    new_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = new_node()
    entry = Record(way="private node", port=node.port, version=node.version, name=node.name, folder=str(node.folder))
    monkeypatch.setattr(throwaway, "status", lambda: entry)
    monkeypatch.setattr(throwaway, "queues", lambda: node.ctl("list_queues", "name", "--no-table-headers").splitlines())
    with Client(node.url) as client:
        client.enqueue("resize", queue="thumbs", delay=60)
        client.enqueue("resize", queue="thumbs")
        client.enqueue("resize", queue="others")
    monkeypatch.setenv("AMQP_URL", node.url)
    queues.main([], standalone_mode=False)
    said = capsys.readouterr()
    assert [line.split()[:2] for line in said.out.splitlines()[1:-1]] == [["others", "1"], ["thumbs", "1"]]
    assert said.err == ""


def test_schedules_are_listed_with_their_next_tick() -> None:
    lines = run("schedules", "tests.ticking", url="amqp://nowhere.invalid").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["SCHEDULE", "ticking.tick:"]
    done = run("schedules", "tests.ticking", "--json", url="amqp://nowhere.invalid")
    found = json.loads(done.stdout)
    assert datetime.fromisoformat(found.pop("next")) > datetime.now(UTC) - timedelta(minutes=1)
    assert found == {"schedule": "ticking.tick: every 0.2 s", "queue": "task_queue.ticking", "function": "tick"}
    none = run("schedules", "services.fib", url="amqp://nowhere.invalid")
    assert (none.returncode, none.stdout, none.stderr) == (Exit.OK, "", "no schedule in services.fib\n")


def test_the_banner_has_the_schedules_of_each_queue(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKED", str(tmp_path / "ticked"))
    monkeypatch.setenv("TICKING", f"t{secrets.token_hex(4)}")
    with serving("tests.ticking", url=url) as server:
        assert "  schedule t" in server.text()
        assert ".tick: every 0.2 s\n" in server.text()
