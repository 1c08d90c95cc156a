"""Several server processes under one parent, which starts another when one dies. The parent serves nothing itself.

Children are in sessions of their own, so that Ctrl-C in a terminal reaches the parent alone, which tells them. A pipe
from the parent ends when it dies, however it dies: then they drain and end too.
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

from amqp_rpc.message.retry import backoff

logger = logging.getLogger(__name__)

#: How a child learns the numbers of its two pipes: one that ends with the parent, one to say "ready" on.
PIPES = "AMQP_RPC_SUPERVISOR_PIPES"
#: Seconds before the first restart of a process that died, and the most between two.
FIRST_RESTART, LONGEST_RESTART = 0.2, 30.0
#: A process that lived this many seconds is taken for healthy: its next death counts as the first.
_HEALTHY_AFTER = 10.0


@dataclass(slots=True)
class _Child:
    number: int
    process: subprocess.Popen[bytes]
    started: float
    failures: int


class Supervisor:
    """Keeps a number of processes running until it is told to stop.

    The first one starts alone: if it can't serve, its message says why, once, and the supervisor ends with its code.

    Args:
        command: What each process runs.
        count: How many.
        environment: Variables for them, beside those of this process; what must not show in a list of processes.
        on_ready: Called once, when all have said that they are ready.
        renewed: Exit codes by which a process asks for another in its place, at once, and what the log says of each.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        environment: Mapping[str, str],
        on_ready: Callable[[], object],
        renewed: Mapping[int, str],
    ) -> None:
        self._command = command
        self._environment = environment
        self._count = count
        self._on_ready = on_ready
        self._renewed = renewed
        self._events: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._children: dict[int, _Child] = {}
        self._ready: set[int] = set()
        self._said_ready = False
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
            for child in self._children.values():
                child.process.kill()
                child.process.wait()
            os.close(self._life_writer)
            os.close(self._life_reader)
        return self._code

    def stop(self) -> None:
        """Have every process drain and end; safe in a signal handler."""
        self._events.put(self._stop)

    def kill(self) -> None:
        """End every process at once; safe in a signal handler."""
        self._events.put(self._kill)

    def _start(self, number: int, *, failures: int) -> None:
        if self._stopping:
            return
        ready_reader, ready_writer = os.pipe()
        pipes = f"{self._life_reader},{ready_writer}"
        try:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment, PIPES: pipes},
                pass_fds=(self._life_reader, ready_writer),
                start_new_session=True,
            )
        except BaseException:
            os.close(ready_reader)
            raise
        finally:
            os.close(ready_writer)
        child = self._children[number] = _Child(number, process, time.monotonic(), failures)
        threading.Thread(target=self._follow, args=(child, ready_reader), daemon=True).start()

    def _follow(self, child: _Child, ready_reader: int) -> None:
        if os.read(ready_reader, 1):
            self._events.put(lambda: self._is_ready(child))
        os.close(ready_reader)
        child.process.wait()
        self._events.put(lambda: self._ended(child))

    def _is_ready(self, child: _Child) -> None:
        if not self._ready:
            for number in range(2, self._count + 1):
                self._start(number, failures=0)
        self._ready.add(child.number)
        if len(self._ready) == self._count and not self._said_ready:
            self._said_ready = True
            self._on_ready()

    def _ended(self, child: _Child) -> None:
        code = child.process.returncode
        del self._children[child.number]
        if self._stopping:
            # SIGTERM is what it was told to end by, before it could listen for it.
            self._code = self._code or (0 if code == -signal.SIGTERM or code in self._renewed else _exit_code(code))
            return
        if not self._ready:
            self._code = _exit_code(code) or 1
            self._stopping = True
            return
        if code in self._renewed:
            logger.warning(
                "Server process %d (pid %d) %s; starting another", child.number, child.process.pid, self._renewed[code]
            )
            self._start(child.number, failures=child.failures)
            return
        lived = time.monotonic() - child.started
        failures = 1 if lived >= _HEALTHY_AFTER else child.failures + 1
        delay = backoff(failures, first=FIRST_RESTART, most=LONGEST_RESTART)
        logger.warning(
            "Server process %d (pid %d) %s; starting another in %.1f s",
            child.number,
            child.process.pid,
            _said(code),
            delay,
        )
        again = threading.Timer(delay, self._events.put, [lambda: self._start(child.number, failures=failures)])
        again.daemon = True
        again.start()

    def _stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)

    def _kill(self) -> None:
        self._stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(number)


def follow_parent(on_gone: Callable[[], object]) -> Callable[[], None]:
    """Watch the parent from a child; return what tells it that this process is ready.

    Args:
        on_gone: Called, on a thread of its own, when the parent has died. Never where there is no supervisor.
    """
    pipes = os.environ.pop(PIPES, "")
    if not pipes:
        return lambda: None
    life, ready = (int(number) for number in pipes.split(","))

    def watch() -> None:
        os.read(life, 1)
        on_gone()

    threading.Thread(target=watch, name="amqp_rpc parent", daemon=True).start()

    def tell() -> None:
        os.write(ready, b"r")
        os.close(ready)

    return tell


def _exit_code(code: int) -> int:
    """Return a process's end as an exit code; killed by signal 9 is 137, as in a shell."""
    return 128 - code if code < 0 else code


def _said(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
