"""``amqp-rpc broker`` as a person runs it: real processes, real signals, a state folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from amqp_rpc import broker as throwaway
from amqp_rpc.broker import processes
from amqp_rpc.broker.ports import greet
from amqp_rpc.broker.record import Record
from amqp_rpc.cli.broker import broker
from amqp_rpc.cli.exits import Exit
from tests.waiting import until

COMMAND = [sys.executable, "-m", "amqp_rpc", "broker"]


class Shell:
    """Runs ``amqp-rpc broker`` with a state folder, a temporary folder and programs of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state" / "amqp-rpc"
        self.programs = folder / "bin"
        #: In the environment of all processes of its node.
        self.setting = f"RABBITMQ_PID_FILE={folder}/"
        for made in (self.programs, folder / "tmp"):
            made.mkdir()
        self.program("docker", "exit 1")  # an engine of this machine is not to be used
        self.environment = os.environ | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "XDG_STATE_HOME": str(folder / "state"),
            "TMPDIR": str(folder / "tmp"),
        }

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], env=self.environment, capture_output=True, text=True, timeout=100, check=False
        )

    def background(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def node_processes(self) -> dict[int, str]:
        return processes.started_with(self.setting)

    def await_node(self) -> None:
        until(lambda: "beam.smp" in self.node_processes().values(), timeout=60)

    def left(self) -> list[str]:
        """Return the leftovers of a stopped broker: there must be none."""
        files = [str(path) for path in (self.folder / "tmp").iterdir()]
        recorded = [str(path) for path in self.state.glob("broker.json*")]
        return [*files, *recorded, *self.node_processes().values()]


@pytest.fixture
def shell(tmp_path: Path):
    made = Shell(tmp_path)
    yield made
    made.run("stop")
    processes.end(made.setting)


@pytest.fixture
def real_node(shell: Shell):
    """A shell on a machine with a RabbitMQ of its own."""
    if throwaway.find_program("rabbitmq-server") is None:
        pytest.skip("rabbitmq-server is not installed")


@contextlib.contextmanager
def taken(port: int):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # in use by another program: as good
            listener.bind(("127.0.0.1", port))
            listener.listen()
        yield


def system_files() -> dict[str, float]:
    """The files of the system's own node, and when each was changed."""
    return {
        str(path): path.lstat().st_mtime
        for folder in ("/var/lib/rabbitmq", "/var/log/rabbitmq", "/etc/rabbitmq")
        for path in [Path(folder), *Path(folder).rglob("*")]
        if path.exists()
    }


@pytest.mark.node
def test_start_status_stop_beside_a_taken_port_in_a_session_of_its_own(shell: Shell, real_node):
    before = system_files()
    with taken(5672):
        started = shell.run("start")
    assert started.returncode == 0, started.stderr
    url, export = started.stdout.splitlines()
    assert export == f"export AMQP_URL={url}"
    port = int(url.rpartition(":")[2].rstrip("/"))
    assert port != 5672
    assert "starting RabbitMQ" in started.stderr
    version = greet(port)

    # Ctrl-C later does not reach it.
    assert os.getsid(0) not in {os.getsid(pid) for pid in shell.node_processes()}

    again = shell.run("start")
    assert again.returncode == 0
    assert again.stdout == started.stdout
    assert "runs already" in again.stderr

    status = shell.run("status")
    assert status.returncode == 0
    assert status.stdout.startswith(f"{url} RabbitMQ {version} (private node, pid ")

    stopped = shell.run("stop")
    assert stopped.returncode == 0
    assert f"stopped RabbitMQ {version}" in stopped.stderr
    assert greet(port) is None
    assert shell.left() == []
    assert system_files() == before


@pytest.mark.node
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_start_leaves_nothing(shell: Shell, real_node, number: int):
    with shell.background("start") as starting:
        shell.await_node()
        starting.send_signal(number)
        _, said = starting.communicate(timeout=30)
    assert starting.returncode == Exit.INTERRUPTED
    assert said.splitlines()[-1] == "interrupted; nothing was left running"
    assert shell.left() == []


@pytest.mark.node
def test_stop_ends_what_a_killed_start_left(shell: Shell, real_node):
    with shell.background("start") as starting:
        shell.await_node()
        starting.kill()
        starting.communicate(timeout=30)
    assert shell.node_processes()
    assert shell.run("status").returncode == Exit.BROKER_NOT_RUNNING
    assert shell.run("stop").returncode == 0
    assert shell.left() == []


@pytest.mark.node
def test_a_dead_broker_is_not_running_and_start_starts_another(shell: Shell, real_node):
    assert shell.run("start").returncode == 0
    assert processes.end(shell.setting)
    assert shell.run("status").returncode == Exit.BROKER_NOT_RUNNING
    again = shell.run("start")
    assert "starting RabbitMQ" in again.stderr
    assert shell.run("status").returncode == 0
    shell.run("stop")
    assert shell.left() == []


def test_a_failed_start_says_why_in_one_line_and_leaves_nothing_but_its_log(shell: Shell):
    shell.program("rabbitmq-server", "sleep 300 & echo the disk is on fire; exit 1")
    failed = shell.run("start")
    assert failed.returncode == Exit.BROKER_START_FAILED
    log = shell.state / "log" / "console.log"
    assert failed.stderr.splitlines()[-1] == (
        f"amqp-rpc: RabbitMQ ended while it started: its last words: the disk is on fire (log: {log})"
    )
    assert log.read_text() == "the disk is on fire\n"
    assert shell.left() == []


def test_a_start_that_takes_too_long_is_ended(shell: Shell):
    shell.program("rabbitmq-server", "echo waiting for nothing; sleep 300")
    failed = shell.run("start", "--timeout", "0.5")
    assert failed.returncode == Exit.BROKER_START_FAILED
    assert "was not ready in time" in failed.stderr
    assert shell.left() == []


def test_if_docker_cannot_pull_the_image_rabbitmq_server_is_tried(shell: Shell):
    shell.program("docker", 'case "$*" in *inspect*|*pull*) exit 1;; *) echo 28.2.2;; esac')
    shell.program("rabbitmq-server", "echo tried; exit 1")
    failed = shell.run("start")
    assert "image rabbitmq:4-management cannot be pulled; trying rabbitmq-server" in failed.stderr
    assert "its last words: tried" in failed.stderr
    assert shell.left() == []


def test_stop_and_status_with_nothing_running(shell: Shell):
    stopped = shell.run("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "no broker was running\n")
    status = shell.run("status")
    assert status.returncode == Exit.BROKER_NOT_RUNNING
    assert "amqp-rpc broker start" in status.stderr


def test_without_docker_and_rabbitmq_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(throwaway, "find_program", lambda _name: None)
    monkeypatch.setattr(throwaway.docker, "engine_answers", lambda: False)
    result = CliRunner().invoke(broker, ["start"])
    assert result.exit_code == Exit.BROKER_NOT_AVAILABLE
    assert result.output.count("\n") == 1
    for way in ("start a Docker engine", "apt-get install rabbitmq-server", "amqp-rpc broker start --install"):
        assert way in result.output


def test_on_the_default_port_only_the_url_is_printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(throwaway, "start", lambda **_options: Record(way="private node", port=5672, version="4.0.5"))
    result = CliRunner().invoke(broker, ["start"])
    assert result.output == "amqp://guest:guest@localhost:5672/\n"
