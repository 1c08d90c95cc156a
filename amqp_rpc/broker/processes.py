"""Which processes belong to a node: those whose environment names its folder. It reads /proc, so it needs Linux.

RabbitMQ is many processes: shell wrappers, ``su``, the Erlang machine, its port programs and the port mapper (epmd),
which makes a session of its own. Neither process groups nor parents keep them together; the environment that the
node was started with does, and it names nobody else's processes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROC = Path("/proc")
#: Seconds between two looks at a condition that nothing announces.
PAUSE = 0.02


def supported() -> bool:
    """Whether this machine tells the environment of processes."""
    return (PROC / "self" / "environ").exists()


def started_with(setting: str) -> dict[int, str]:
    """Return the processes that have this ``NAME=value`` in their environment: process id to program name.

    Args:
        setting: the whole setting; one that ends in ``/`` is the beginning of a path.
    """
    wanted = setting.encode()
    return {pid: program for pid, program in _programs() if _has(pid, wanted)}


def _programs() -> Iterator[tuple[int, str]]:
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), (entry / "comm").read_text().strip()
            except OSError:  # it ended meanwhile
                continue


def _has(pid: int, wanted: bytes) -> bool:
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:  # it ended, or it is somebody else's
        return False
    settings = environment.split(b"\0")
    return any(setting.startswith(wanted) for setting in settings) if wanted.endswith(b"/") else wanted in settings


def end(find: Callable[[], dict[int, str]], *, timeout: float = 10.0) -> bool:
    """Kill whatever ``find`` returns until it returns nothing; false where something is left after ``timeout`` seconds.

    It looks again after each round, since a process may have started another one meanwhile.
    """
    until = time.monotonic() + timeout
    while found := find():
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                return False
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE)
    return True


def wait_until(condition: Callable[[], bool], *, timeout: float) -> bool:
    """Wait for a condition that nothing announces; false where it did not come true in ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE)
    return True
