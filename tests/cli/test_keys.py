"""`--keys`: commands sign what they send, and show nothing that is not signed."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from amqp_rpc.cli.exits import Exit
from tests.cli.test_events import listening
from tests.programs import run, serving
from tests.waiting import until


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text(f"shell {'k' * 32}\n")
    return str(path)


SERVED = """
from amqp_rpc import Service

service = Service("{name}")

@service.rpc
def double(n: int) -> int:
    return 2 * n

@service.task(queue="{name}.tasks")
def note(n: int) -> int:
    return n
"""


def test_a_server_with_keys_runs_what_commands_with_keys_send_and_nothing_else(
    url: str, keys: str, tmp_path: Path
) -> None:
    name = f"t{secrets.token_hex(6)}"
    call, task = (f"{name}.double", "30"), ("note", "7", "--queue", f"{name}.tasks")
    (tmp_path / "served_here.py").write_text(SERVED.format(name=name))
    with serving("served_here", "--keys", keys, url=url, cwd=tmp_path) as server:
        done = run("call", *call, "--keys", keys, url=url)
        assert (done.returncode, done.stdout, done.stderr) == (Exit.OK, "60\n", "")
        done = run("enqueue", *task, "--wait", "--keys", keys, url=url)
        assert (done.returncode, done.stderr, done.stdout.split()[1:]) == (Exit.OK, "", ["7"])
        done = run("call", *call, url=url)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (Exit.ACCESS_REFUSED, "", 1)
        assert "the call is not signed" in done.stderr
        assert run("enqueue", *task, url=url).returncode == Exit.OK
        server.until_said(f"queue {name}.tasks: message [")
        until(lambda: "not allowed: it is not signed" in run("dlq", "list", f"{name}.tasks", url=url).stdout)


def test_listen_shows_signed_events_alone(url: str, keys: str, tmp_path: Path) -> None:
    topic = f"t{secrets.token_hex(6)}"
    with listening(f"{topic}.#", "--keys", keys, url=url, folder=tmp_path) as found:
        assert run("publish", f"{topic}.a", "1", url=url).returncode == Exit.OK
        assert run("publish", f"{topic}.a", "2", "--keys", keys, url=url).returncode == Exit.OK
        until(lambda: found.lines() == [f"{topic}.a 2"])
        assert "it is not signed" in found.said()


@pytest.mark.parametrize("command", [["call", "fib"], ["serve", "services.fib"], ["listen"], ["publish", "a", "1"]])
def test_a_file_of_keys_that_is_none_is_one_line(command: list[str], tmp_path: Path) -> None:
    done = run(*command, "--keys", str(tmp_path / "nowhere"), url="amqp://localhost:1")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (Exit.USAGE, "", 1)
    assert "can't be read" in done.stderr
