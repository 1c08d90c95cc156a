"""`amqp-rpc enqueue` as a user meets it: the id, the result with --wait, and the exit codes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import pytest

from amqp_rpc import Client
from amqp_rpc.cli.exits import Exit
from tests.programs import run, serving

TASKS = ("--queue", "tserved_sums")


@pytest.fixture(scope="module")
def served(broker: str) -> Iterator[str]:
    with serving("tests.served", "--queues", "tserved_sums", url=broker):
        yield broker


def test_the_id_is_printed_once_the_broker_has_confirmed_the_task(served: str) -> None:
    queue = f"t{secrets.token_hex(6)}"
    done = run("enqueue", "resize", "a.png", "size=3", "--queue", queue, url=served)
    assert (done.returncode, len(done.stdout.split())) == (Exit.OK, 1)
    with Client(served) as client:
        state = client.queue_states([queue])[queue]
    assert state is not None
    assert (state.messages, state.consumers) == (1, 0)


def test_with_wait_the_result_is_printed_as_json(served: str) -> None:
    done = run("enqueue", "total", "1", "2", "-5", *TASKS, "--wait", url=served)
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    assert done.stdout.split()[1:] == ["-2"]


def test_a_delayed_task_does_not_run_before_its_time(served: str) -> None:
    began = time.monotonic()
    done = run("enqueue", "total", "1", *TASKS, "--delay", "1.5", "--wait", url=served)
    assert (done.returncode, done.stdout.split()[1:]) == (Exit.OK, ["1"])
    assert time.monotonic() - began >= 1.5


def test_the_error_of_a_task_is_one_line_and_its_traceback_is_an_option(served: str) -> None:
    done = run("enqueue", "fail", "broken", *TASKS, "--wait", url=served)
    assert (done.returncode, len(done.stdout.split())) == (Exit.REMOTE_ERROR, 1)
    assert done.stderr == "amqp-rpc: ValueError: broken\n"
    assert "tests/served.py" in run("enqueue", "fail", "x", *TASKS, "--wait", "--traceback", url=served).stderr


FAILURES = {
    "two times": (["resize", "--delay", "1", "--eta", "2040-01-01"], Exit.USAGE, "give one of them"),
    "no function": (["images."], Exit.USAGE, "names no task"),
    "an option as an argument": (["resize", "delay=3"], Exit.USAGE, "delay is an option of the task"),
    "a wrong host": (["resize", "--url", "amqp://x.invalid"], Exit.NO_BROKER, "name is not known"),
    "late": (["resize", "--delay", "2", "--expires", "1"], Exit.USAGE, "no worker may take it before 2 s"),
    "expired": (["total", *TASKS, "--expires", "0"], Exit.USAGE, "above 0"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line_with_an_exit_code_of_its_own(served: str, failure: str) -> None:
    arguments, code, message = FAILURES[failure]
    done = run("enqueue", *arguments, url=served)
    assert message in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)


def test_a_task_without_a_worker_is_waited_for_and_reported_at_once_and_at_the_end(served: str) -> None:
    queue = f"t{secrets.token_hex(6)}"
    done = run("enqueue", "resize", "--queue", queue, "--wait", "--timeout", "5", url=served)
    assert done.returncode == Exit.TIMEOUT
    first, last = done.stderr.splitlines()
    assert first.startswith(f"amqp-rpc: queue '{queue}' has no consumer (`amqp-rpc serve` starts a worker")
    assert f" within 5 s: queue '{queue}' has no consumers, and 1 message waits in it: " in last
    assert "it goes on" not in last


def test_a_queue_that_nobody_has_ever_served_is_warned_of(served: str) -> None:
    assert run("enqueue", "total", "1", *TASKS, url=served).stderr == ""
    done = run("enqueue", f"t{secrets.token_hex(6)}.resize", url=served)
    assert (done.returncode, len(done.stdout.splitlines())) == (Exit.OK, 1)
    assert "no server has ever served it; tasks of resize() wait there until one does" in done.stderr
    assert done.stderr.startswith("amqp-rpc: queue task_queue.t")


def test_a_delayed_task_is_not_reported_as_a_task_without_a_worker(served: str) -> None:
    done = run("enqueue", "total", *TASKS, "--delay", "60", "--wait", "--timeout", "3", url=served)
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.TIMEOUT, 1)
    assert " within 3 s: queue 'tserved_sums' has " in done.stderr
    assert done.stderr.endswith("; no worker starts it before its delay is over\n")


def test_a_full_queue_has_a_code_of_its_own(served: str, tmp_path) -> None:
    queue = f"t{secrets.token_hex(6)}"
    with Client(served) as client:
        from amqp_rpc import Service

        service = Service("tfull")

        @service.task(queue=queue, max_length=1)
        def resize() -> None: ...

        client.enqueue(resize)
    codes = {run("enqueue", "resize", "--queue", queue, url=served).returncode for _ in range(3)}
    assert Exit.REFUSED in codes
