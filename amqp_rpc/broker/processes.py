"""The processes of a node, found by a setting in their environment. It reads /proc, so it needs Linux.

RabbitMQ is many processes: shell wrappers, ``su``, the Erlang machine, its port programs, and the port mapper (epmd) in
a session of its own. Neither process groups nor parents keep them together. The environment that the node was started
with does, and no other process has it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
#: Seconds between two polls.
PAUSE = 0.02


def supported() -> bool:
    """Return whether this machine shows the environment of processes."""
    return (PROC / "self" / "environ").exists()


def started_with(setting: str, *, without: str = "") -> dict[int, str]:
    """Return the processes that have ``NAME=value`` in their environment: the program's name by process id.

    Args:
        setting: The whole setting; if it ends in ``/``, the beginning of one.
        without: The name of a program to leave out.
    """
    wanted = setting.encode()
    return {pid: program for pid, program in _programs() if program != without and _has(pid, wanted)}


def _programs() -> Iterator[tuple[int, str]]:
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), (entry / "comm").read_text().strip()
            except OSError:  # it has ended
                continue


def _has(pid: int, wanted: bytes) -> bool:
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:  # it has ended, or it belongs to another user
        return False
    settings = environment.split(b"\0")
    return any(setting.startswith(wanted) for setting in settings) if wanted.endswith(b"/") else wanted in settings


def end(setting: str, *, without: str = "", timeout: float = 10.0) -> bool:
    """Kill the processes that `started_with` returns until it returns none; return False after ``timeout`` seconds.

    It looks again after each round, because a process may have started another one.
    """
    until = time.monotonic() + timeout
    while found := started_with(setting, without=without):
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


def wait_for_end(setting: str, *, without: str = "", timeout: float) -> None:
    """Wait until `started_with` returns no process, at most ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while started_with(setting, without=without) and time.monotonic() < until:
        time.sleep(PAUSE)
