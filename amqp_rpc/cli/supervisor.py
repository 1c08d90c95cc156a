"""A supervisor of server processes: it replaces each one that dies, and serves nothing itself.

It is a seam: it knows processes, pipes and exit codes, and nothing of RabbitMQ.

Each child has a session of its own: Ctrl-C in a terminal reaches only the parent, which then stops the children. A pipe
from the parent closes when the parent dies, even from SIGKILL: then the children drain and end too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import click

from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import backoff

logger: logging.Logger = bounded_logger(__name__)

#: The variable that gives a child the numbers of its two pipes: one closes with the parent, the other reports "ready".
_PIPES = "AMQP_RPC_SUPERVISOR_PIPES"
#: Seconds before the first restart of a process that died, and the longest wait between two restarts.
FIRST_RESTART, LONGEST_RESTART = 0.2, 30.0
#: Seconds for what a process said to be heard after its end.
_LAST_WORDS = 1.0
#: A process that lived this many seconds was healthy: its next death counts as the first.
_HEALTHY_AFTER = 10.0


@dataclass(slots=True)
class _Child:
    number: int
    process: subprocess.Popen[bytes]
    started: float
    failures: int


class Supervisor:
    """Keeps a number of processes running until it is stopped.

    The first process starts alone: if it can't serve, it prints why, once, and the supervisor ends with its exit code.

    Args:
        command: The command line of each process.
        count: The number of processes.
        environment: Additional variables for the processes: values that a list of processes must not show.
        banner: The text to print when all processes are ready.
        stopping: The text to print when they are stopped; each prints its own counts.
        renewed: Exit codes of processes that must be replaced at once, each with the reason that is logged.
        patience: Seconds from `stop` until processes that still run are killed.
        overdue: The exit code where one had to be killed for that.
    """

    def __init__(
        self, command: Sequence[str], count: int, *, environment: Mapping[str, str], banner: str, stopping: str,
        renewed: Mapping[int, str], patience: float, overdue: int,
    ) -> None:  # fmt: skip
        self._command, self._count, self._environment = command, count, environment
        self._banner, self._farewell = banner, stopping
        self._renewed = renewed
        self._patience, self._overdue = patience, overdue
        #: Work for the thread of `run`; other threads and signal handlers add to it.
        self._events: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._children: dict[int, _Child] = {}
        #: The numbers of those that were ready, if only once.
        self._ready: set[int] = set()
        self._stopping = False
        self._code = 0
        self._life_reader, self._life_writer = os.pipe()

    def run(self) -> int:
        """Start the processes and keep them running; return the exit code, 0 if all ended well."""
        try:
            self._start(1, failures=0)
            while self._children or not self._stopping:
                self._events.get()()
        finally:
            self._kill()
            for child in self._children.values():
                child.process.wait()
            os.close(self._life_writer)
            os.close(self._life_reader)
        return self._code

    def stop(self) -> None:
        """Make every process drain and end; safe in a signal handler."""
        self._events.put(self._end)

    def wake(self) -> None:
        """Have the main thread handle the signals that have come."""
        self._events.put(int)

    def kill(self) -> None:
        """End every process at once; safe in a signal handler."""
        self._events.put(self._kill)

    def _start(self, number: int, *, failures: int) -> None:
        if self._stopping:
            return
        ready_reader, ready_writer = os.pipe()
        pipes = f"{self._life_reader},{ready_writer}"
        variables = {**os.environ, **self._environment, _PIPES: pipes}
        inherited = self._life_reader, ready_writer
        try:
            process = subprocess.Popen(self._command, env=variables, pass_fds=inherited, start_new_session=True)
        except BaseException:
            os.close(ready_reader)
            raise
        finally:
            os.close(ready_writer)
        child = self._children[number] = _Child(number, process, time.monotonic(), failures)
        threading.Thread(target=self._follow, args=(child, ready_reader), daemon=True).start()

    def _follow(self, child: _Child, ready_reader: int) -> None:
        hearing = threading.Thread(target=self._hear, args=(child, ready_reader), daemon=True)
        hearing.start()
        child.process.wait()
        # Its report comes first. But a fork of it may hold the pipe open for as long as it runs.
        hearing.join(_LAST_WORDS)
        self._events.put(partial(self._ended, child))

    def _hear(self, child: _Child, ready_reader: int) -> None:
        if os.read(ready_reader, 1):
            self._events.put(partial(self._is_ready, child))
        os.close(ready_reader)

    def _is_ready(self, child: _Child) -> None:
        if not self._ready:
            for number in range(2, self._count + 1):
                self._start(number, failures=0)
        before = len(self._ready)
        self._ready.add(child.number)
        if before < len(self._ready) == self._count:
            click.echo(self._banner, err=True)

    def _ended(self, child: _Child) -> None:
        code = child.process.returncode
        del self._children[child.number]
        if code < 0:
            # It could not end what it has forked: the processes of a pool would wait for work for ever.
            _kill_group(child)
        if self._stopping:
            # Our SIGTERM may have reached it before it could handle signals.
            self._code = self._code or (0 if code == -signal.SIGTERM or code in self._renewed else _exit_code(code))
            return
        if not self._ready:
            self._code = _exit_code(code) or 1
            self._stopping = True
            return
        who = f"Server process {child.number} (pid {child.process.pid})"
        if code in self._renewed:
            logger.warning("%s %s; starting another", who, self._renewed[code])
            self._start(child.number, failures=child.failures)
            return
        lived = time.monotonic() - child.started
        failures = 1 if lived >= _HEALTHY_AFTER else child.failures + 1
        delay = backoff(failures, first=FIRST_RESTART, most=LONGEST_RESTART)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        logger.warning("%s %s; starting another in %.1f s", who, how, delay)
        restart = partial(self._start, child.number, failures=failures)
        timer = threading.Timer(delay, self._events.put, [restart])
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        self._stopping = True
        # In this order: a terminal that is gone must not keep the processes from their end.
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        with contextlib.suppress(OSError):
            click.echo(self._farewell, err=True)
        timer = threading.Timer(self._patience, self._events.put, [self._end_overdue])
        timer.daemon = True
        timer.start()

    def _end_overdue(self) -> None:
        for child in self._children.values():
            logger.warning(
                "Server process %d (pid %d) still runs %.3g s after SIGTERM; killed",
                child.number, child.process.pid, self._patience,
            )  # fmt: skip
            self._code = self._overdue
        self._kill()

    def _kill(self) -> None:
        self._stopping = True
        for child in self._children.values():
            _kill_group(child)


class Parent:
    """The supervisor as one of its processes sees it; `find` returns it."""

    def __init__(self, life: int, ready: int) -> None:
        self._life, self._ready = life, ready

    @classmethod
    def find(cls) -> Self | None:
        """Return the supervisor of this process; None if it has none."""
        pipes = [int(number) for number in os.environ.pop(_PIPES, "").split(",") if number]
        for pipe in pipes:
            # The programs that handlers start would keep them open.
            os.set_inheritable(pipe, False)
        return cls(*pipes) if pipes else None

    def wait(self) -> None:
        """Wait until the supervisor has died."""
        os.read(self._life, 1)

    def report_ready(self) -> None:
        """Report that this process is ready."""
        os.write(self._ready, b"r")
        os.close(self._ready)


def _kill_group(child: _Child) -> None:
    """Kill a process, and all that it has forked: they are the session that was begun for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)


def _exit_code(code: int) -> int:
    """Return the exit code of a process as a shell reports it: 137 if signal 9 killed it."""
    return 128 - code if code < 0 else code
