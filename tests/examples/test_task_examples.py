"""Each example about tasks is run as its docstring says: what workers share, and what survives them and the broker."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from amqp_rpc import Client
from amqp_rpc.broker.node import Node
from tests.interop.programs import delete_queues, run, serving
from tests.waiting import until

#: Seconds a dot of a worker that gets done in no time, and of one that never does.
QUICK, ENDLESS = "0.001", "3600"
ONE_AT_A_TIME = ("--threads", "1")


@pytest.fixture
def tutorial(url: str) -> str:
    """The URL of a broker that has no "task_queue" yet: other tests may have left one."""
    delete_queues(url, "task_queue", "task_queue.dead")
    return url


def example(name: str, *words: str, url: str, folder: Path | None = None) -> str:
    return run(sys.executable, "-m", f"examples.{name}", *words, url=url, **({"folder": folder} if folder else {}))


def command(*words: str, url: str) -> str:
    return run(sys.executable, "-m", "amqp_rpc", *words, url=url)


def received(prints: Path) -> list[str]:
    return re.findall(r"\[x\] Received (.*)\n", prints.read_text())


@pytest.mark.parametrize("worker", ["worker", "async_worker"])
def test_the_worker_does_what_the_other_program_has_enqueued(tutorial: str, tmp_path: Path, worker: str) -> None:
    prints = tmp_path / "printed"
    with serving(f"examples.{worker}", url=tutorial, prints=prints, DOT=QUICK):
        assert example("new_task", "Fifth", "message.....", url=tutorial) == " [x] Sent Fifth message.....\n"
        until(lambda: "Done" in prints.read_text())
    assert prints.read_text() == " [x] Received Fifth message.....\n [x] Done\n"


def test_two_workers_share_the_tasks(tutorial: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    messages = [f"number {n}." for n in range(8)]
    with (
        serving("examples.worker", *ONE_AT_A_TIME, url=tutorial, prints=one, DOT="0.3"),
        serving("examples.worker", *ONE_AT_A_TIME, url=tutorial, prints=two, DOT="0.3"),
        Client(tutorial) as client,
    ):
        for handle in [client.enqueue("work", message) for message in messages]:
            handle.result(timeout=30)
    assert received(one)
    assert received(two)
    assert sorted(received(one) + received(two)) == messages


def test_the_task_of_a_worker_that_is_killed_is_done_by_the_other_one(tutorial: str, tmp_path: Path) -> None:
    killed, other = tmp_path / "killed", tmp_path / "other"
    with (
        Client(tutorial) as client,
        serving("examples.worker", url=tutorial, prints=killed, ends_with=-signal.SIGKILL, DOT=ENDLESS) as first,
    ):
        handle = client.enqueue("work", "Fifth message.....")
        until(lambda: received(killed))
        with serving("examples.worker", url=tutorial, prints=other, DOT=QUICK):
            first.kill()
            handle.result(timeout=30)
    assert killed.read_text() == " [x] Received Fifth message.....\n"
    assert other.read_text() == " [x] Received Fifth message.....\n [x] Done\n"


def test_a_busy_worker_gets_no_second_task_while_the_other_one_is_free(tutorial: str, tmp_path: Path) -> None:
    """Fair dispatch, as the tutorial has it: not every second task to each."""
    busy, free = tmp_path / "busy", tmp_path / "free"
    light = [f"light {n}" for n in range(10)]
    with (
        Client(tutorial) as client,
        serving(
            "examples.worker", *ONE_AT_A_TIME, url=tutorial, prints=busy, ends_with=-signal.SIGKILL, DOT=ENDLESS
        ) as process,
    ):
        heavy = client.enqueue("work", "heavy.")
        until(lambda: received(busy))
        with serving("examples.worker", *ONE_AT_A_TIME, url=tutorial, prints=free, DOT=QUICK):
            for handle in [client.enqueue("work", message) for message in light]:
                handle.result(timeout=30)
            assert received(free) == light
            assert received(busy) == ["heavy."]
            process.kill()
            heavy.result(timeout=30)


@pytest.mark.ends_node
def test_a_task_survives_the_broker_s_restart(node: Node, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    example("new_task", "Fifth", "message.....", url=node.url)
    node.stop()
    node.start()
    with serving("examples.worker", url=node.url, prints=prints, DOT=QUICK):
        until(lambda: "Done" in prints.read_text())
    assert received(prints) == ["Fifth message....."]


def test_tasks_are_chosen_by_name_and_an_unknown_name_is_refused_and_reported(url: str) -> None:
    with serving("examples.tasks_by_name", url=url):
        assert example("tasks_by_name", url=url).splitlines() == [
            "sent: an email to ann@example.org: Hello",
            "sent: a message to bob: see you at five",
            "refused: no function 'telegram' here; there are: email, message",
        ]
        listed = command("dlq", "list", "notifications", url=url)
        assert re.search(r"telegram .* FunctionNotFound: no function 'telegram' here; there are: email, m", listed)
        assert listed.endswith("1 dead letter of notifications\n")
        assert "dropped 1 dead letter" in command("dlq", "drop", "notifications", "--all", "--yes", url=url)


def test_add_is_looked_at_until_it_has_ended_and_its_result_is_read_by_its_id(url: str, tmp_path: Path) -> None:
    with serving("examples.add", "--results", "sqlite:///results.db", url=url, folder=tmp_path):
        printed = example("add", url=url, folder=tmp_path).splitlines()
    *states, last, result, by_id = printed
    # It may end between two questions.
    assert set(states) <= {"state: PENDING", "state: STARTED", "state: SUCCESS"}
    assert (last, result, by_id) == ("state: SUCCESS", "result: 8", "by its id: 8")


def test_a_task_is_tried_again_or_rejected_and_enqueues_the_next(url: str, tmp_path: Path) -> None:
    prints = tmp_path / "printed"
    with serving("examples.steps", url=url, prints=prints):
        assert example("steps", url=url).splitlines() == [
            "rejected: nowhere is no address",
            "good: got it at attempt 3",
        ]
        until(lambda: "kept:" in prints.read_text())
        listed = command("dlq", "list", "task_queue.steps", url=url)
        assert re.search(r"fetch .* 1  rejected: nowhere is no address\n1 dead letter of", listed)
        command("dlq", "drop", "task_queue.steps", "--all", "--yes", url=url)
    assert prints.read_text() == "kept: <p>This is https://example.org\n"


def test_a_task_is_enqueued_in_each_way(url: str) -> None:
    with serving("examples.reminders", url=url):
        printed = example("reminders", url=url).splitlines()
    ann, heidi = "ann was reminded of lunch", "heidi was reminded of tea"
    nothing = [f"{whom} was reminded of nothing" for whom in ("bob", "carol", "dave", "erin", "frank", "grace")]
    assert printed == ["frank is reminded once", ann, *nothing, heidi]
