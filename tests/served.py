"""Functions that tests serve from processes of their own."""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path

from amqp_rpc import Service
from amqp_rpc.server import tasks

#: Three workers of a test's may die with a task: eight take half a minute.
tasks.MOST_CRASHES = int(os.environ.get("TEST_MOST_CRASHES", tasks.MOST_CRASHES))

service = Service("tserved")


@service.rpc
def pid() -> int:
    return os.getpid()


@service.rpc
def hold(seconds: float) -> tuple[int, float, float]:
    """Keep a thread for that long; return the process, and when it began and ended on the machine's clock."""
    began = time.monotonic()
    threading.Event().wait(seconds)
    return os.getpid(), began, time.monotonic()


@service.rpc
def echo(text: str) -> str:
    return text


@service.rpc
def refuse(text: str) -> None:
    """Raise what a caller says."""
    raise ValueError(text)


@service.rpc
def unsendable():  # type: ignore[no-untyped-def] # a hint of such a result would be refused
    """Run, and return what has no form on the wire."""
    return object()


@service.rpc
async def hold_async(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@service.rpc
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@service.rpc(idempotent=True)
def die_idempotent() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@service.rpc
def interrupt() -> None:
    _thread.interrupt_main()


@service.rpc
def squares() -> int:
    """Use a pool whose processes are forks, as it is the default of Linux up to Python 3.13."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, range(100)))


@service.rpc
def seen_in_a_fork() -> tuple[list[bool], list[str]]:
    """Return what a fork has: whether each of our signals is the default one, and the peers of its connections."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_inherited)


def _inherited() -> tuple[list[bool], list[str]]:
    default = [
        signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler) for n in (signal.SIGTERM, signal.SIGINT)
    ]
    peers = []
    for file in Path("/proc/self/fd").iterdir():
        if file.is_symlink() and str(file.readlink()).startswith("socket:"):
            with socket.socket(fileno=os.dup(int(file.name))) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6):
                    peers.append(str(sock.getpeername()))
    return default, peers


@service.rpc
def leave_a_fork() -> int:
    """Fork a process that outlives this one, and return its id."""
    if child := os.fork():
        return child
    threading.Event().wait(60)
    os._exit(0)


@service.rpc
def leave_a_process(seconds: float) -> int:
    """Start a process for which Python waits before it exits."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(seconds,))
    process.start()
    assert process.pid is not None
    return process.pid


@service.task(queue="tserved_tasks", retries=3, backoff=(0.1, 0.1))
def note(path: str, word: str) -> None:
    """Leave a line in a file: what ran is known outside, whatever becomes of this process."""
    with open(path, "a", encoding="utf-8") as lines:  # noqa: PTH123 - appending one line at once
        lines.write(f"{word} {os.getpid()}\n")


@service.task(queue="tserved_tasks")
def note_and_stay(path: str, seconds: float) -> None:
    """Leave a line; the first process that does so stays, for a test to kill it."""
    note(path, "here")
    with open(path, encoding="utf-8") as lines:  # noqa: PTH123 - as above
        if len(lines.readlines()) == 1:
            threading.Event().wait(seconds)


@service.task(queue="tserved_tasks")
def note_and_die(path: str) -> None:
    note(path, "dying")
    os.kill(os.getpid(), signal.SIGKILL)


@service.task(queue="tserved_classic", queue_type="classic")
def die_classic(path: str) -> None:
    note(path, "dying")
    os.kill(os.getpid(), signal.SIGKILL)


@service.task(queue="tserved_limited", retries=1, backoff=(0.2, 0.2), time_limit=0.5)
def note_and_spin(path: str) -> int:
    """Leave a line; the first to do so never ends, and never lets go of its thread."""
    note(path, "spins")
    with open(path, encoding="utf-8") as lines:  # noqa: PTH123 - as above
        first = len([line for line in lines if line.startswith("spins")]) == 1
    while first:
        pass
    return os.getpid()


@service.task(queue="tserved_limited", retries=1, backoff=(0.2, 0.2), time_limit=0.5)
def note_and_block(path: str) -> None:
    note(path, "blocks")
    threading.Event().wait()


@service.task(queue="tserved_limited", retries=0, time_limit=0.5)
def note_and_hold_all(path: str) -> int:
    """Leave a line; the first to do so lets no other thread of its process run for seconds."""
    note(path, "holds")
    with open(path, encoding="utf-8") as lines:  # noqa: PTH123 - as above
        if len(lines.readlines()) == 1:
            ctypes.PyDLL(None).sleep(8)
            note(path, "back")
    return os.getpid()


@service.task(queue="tserved_limited")
def note_until(path: str, gone: str) -> int:
    """Leave a line, and another one when some file is gone."""
    note(path, "began")
    while os.path.exists(gone):  # noqa: PTH110 - as above
        threading.Event().wait(0.01)
    note(path, "ended")
    return os.getpid()


@service.task(queue="tserved_sums")
def total(*numbers: int) -> int:
    return sum(numbers)


@service.task(queue="tserved_sums")
def repeat(text: str) -> str:
    return text


@service.task(queue="tserved_sums", retries=1, backoff=(0.1, 0.1))
def fail(why: str) -> None:
    raise ValueError(why)
