"""A supervisor can always be stopped, whatever its processes and their forks do."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqp_rpc.cli.supervisor import Supervisor
from tests.programs import ROOT
from tests.waiting import until

OVERDUE = 40
#: It says where it stands by a file that it and its forks keep open.
PROGRAM = """
import os, signal, sys, time
from amqp_rpc.cli.supervisor import Parent
opened = os.open(sys.argv[1], os.O_WRONLY)
{before}
parent = Parent.find()
parent.report_ready()
{after}
time.sleep(300)
"""
FORK = "if os.fork() == 0: time.sleep(300)"


class Pipe:
    """A named pipe: its end is read once every process that had it open is gone."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def until_closed(self) -> None:
        until(self._closed, what="all its processes to end")

    def _closed(self) -> bool:
        try:
            return os.read(self._reader, 1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._reader)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path / "pipe")
    yield made
    made.close()


def supervisor(pipe: Pipe, *, before: str = "", after: str = "", count: int = 1) -> Supervisor:
    program = PROGRAM.format(before=before, after=after)
    return Supervisor(
        [sys.executable, "-c", program, str(pipe.path)],
        count,
        environment={"PYTHONPATH": str(ROOT)},
        banner="all are ready",
        stopping="stopping",
        renewed={},
        patience=0.5,
        overdue=OVERDUE,
    )


def test_what_outlives_the_drain_is_killed_with_its_forks(
    pipe: Pipe, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    made = supervisor(pipe, before=deaf, after=FORK, count=2)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(made.run()), daemon=True)
    thread.start()
    said = ""

    def ready() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "all are ready" in said

    until(ready, timeout=60, what="both to be ready")
    with caplog.at_level(logging.WARNING):
        made.stop()
        thread.join(30)
    assert codes == [OVERDUE]
    pipe.until_closed()
    assert "still runs 0.5 s after SIGTERM; killed" in caplog.text


def test_a_process_that_dies_before_it_is_ready_is_noticed_though_its_fork_lives(pipe: Pipe) -> None:
    made = supervisor(pipe, before=FORK.replace("300", "20") + "\nsys.exit(7)")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(made.run()), daemon=True)
    thread.start()
    thread.join(15)
    assert codes == [7]
