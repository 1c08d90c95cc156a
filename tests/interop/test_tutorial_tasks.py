"""The programs of RabbitMQ's second tutorial share a queue with our workers, if both declare it alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pika
import pytest

from amqp_rpc import Client
from amqp_rpc.cli.exits import Exit
from tests.interop.programs import delete_queues, environment, leaves_the_type, run, running, serving
from tests.waiting import until

NEW_TASK, WORKER = Path(__file__).with_name("new_task.py"), Path(__file__).with_name("worker.py")

#: The tutorial's arguments of its queue, and our worker that declares the same.
AS_DECLARED = {
    "today's tutorial": ({"x-queue-type": "quorum"}, "examples.worker"),
    "the tutorial before": (None, "tests.interop.classic_worker"),
}


@pytest.fixture
def tutorial(url: str) -> str:
    """The URL of a broker that has no "task_queue" yet: other tests may have left one."""
    delete_queues(url, "task_queue", "task_queue.dead")
    return url


def new_task(*words: str, url: str, arguments: object = None, ends_with: int = 0) -> str:
    return run(sys.executable, NEW_TASK, *words, url=url, ends_with=ends_with, ARGUMENTS=json.dumps(arguments))


@pytest.mark.parametrize("declared", ["today's tutorial", pytest.param("the tutorial before", marks=leaves_the_type)])
@pytest.mark.parametrize("first", ["new_task.py", "our worker"])
def test_the_tutorials_new_task_reaches_our_worker(tutorial: str, tmp_path: Path, declared: str, first: str) -> None:
    arguments, worker = AS_DECLARED[declared]
    prints = tmp_path / "printed"
    if first == "new_task.py":
        assert new_task("First message.", url=tutorial, arguments=arguments) == " [x] Sent First message.\n"
    with serving(worker, url=tutorial, prints=prints, DOT="0.001"):
        assert new_task(url=tutorial, arguments=arguments) == " [x] Sent Hello World!\n"
        until(lambda: "Received Hello World!\n" in prints.read_text())
        until(lambda: first != "new_task.py" or "Received First message.\n" in prints.read_text())


@pytest.mark.parametrize("declared", ["today's tutorial", pytest.param("the tutorial before", marks=leaves_the_type)])
def test_the_tutorials_worker_and_ours_share_the_tutorials_tasks(tutorial: str, tmp_path: Path, declared: str) -> None:
    arguments, worker = AS_DECLARED[declared]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with theirs.open("w") as output, subprocess.Popen(
        [sys.executable, WORKER], env=environment(tutorial, ARGUMENTS=json.dumps(arguments)), stdout=output
    ) as process:  # fmt: skip
        try:
            until(lambda: "Waiting" in theirs.read_text())
            with serving(worker, url=tutorial, prints=ours, DOT="0.001"):
                sent = 0

                def both_have_some() -> bool:
                    nonlocal sent
                    sent += 1
                    new_task("number", str(sent), url=tutorial, arguments=arguments)
                    return all("Received number" in prints.read_text() for prints in (ours, theirs))

                until(both_have_some, timeout=40)
                until(lambda: sum(prints.read_text().count("Received number") for prints in (ours, theirs)) == sent)
        finally:
            process.terminate()


@leaves_the_type
def test_a_worker_that_says_something_else_of_the_queue_ends_with_one_line_that_says_what_to_do(tutorial: str) -> None:
    new_task(url=tutorial)

    said = run(sys.executable, "-m", "amqp_rpc", "serve", "examples.worker", url=tutorial, ends_with=Exit.CONFIGURATION)

    assert said.count("\n") == 1
    assert said.startswith("amqp-rpc: queue 'task_queue' exists with other arguments than this server's: ")
    assert "'x-queue-type'" in said
    assert "queue_type=" in said
    # Nothing has become of the queue, or of what is in it.
    with pika.BlockingConnection(pika.URLParameters(tutorial)) as connection:
        _, _, body = connection.channel().basic_get("task_queue", auto_ack=True)
    assert body == b"Hello World!"


@leaves_the_type
def test_a_tutorials_program_that_says_something_else_gets_the_brokers_406_and_our_worker_goes_on(
    tutorial: str, tmp_path: Path
) -> None:
    prints = tmp_path / "printed"
    with serving("examples.worker", url=tutorial, prints=prints, DOT="0.001"):
        assert "PRECONDITION_FAILED" in new_task(url=tutorial, ends_with=1)
        new_task("still there", url=tutorial, arguments={"x-queue-type": "quorum"})
        until(lambda: "Received still there\n" in prints.read_text())


@pytest.mark.parametrize("declared", AS_DECLARED)
def test_what_we_enqueue_as_text_the_tutorials_worker_does(
    tutorial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str
) -> None:
    arguments, _ = AS_DECLARED[declared]
    monkeypatch.setenv("ARGUMENTS", json.dumps(arguments))
    prints = tmp_path / "printed"
    with running(sys.executable, WORKER, url=tutorial, prints=prints, ready="Waiting"):
        with Client(tutorial) as client:
            client.enqueue("work", "from Python", content_type="text/plain")
        words = ["enqueue", "work", "from", "a", "shell", "--content-type", "text/plain"]
        run(sys.executable, "-m", "amqp_rpc", *words, url=tutorial)
        until(lambda: prints.read_text().count(" [x] Done\n") == 2)
    assert " [x] Received from Python\n" in prints.read_text()
    assert " [x] Received from a shell\n" in prints.read_text()
