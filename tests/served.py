"""Functions that tests serve from processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

from amqp_rpc import Service

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
async def hold_async(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@service.rpc
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@service.rpc(idempotent=True)
def die_idempotent() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@service.task(queue="tserved_tasks", retries=3, backoff=(0.1, 0.1))
def note(path: str, word: str) -> None:
    """Leave a line in a file: what ran is known outside, whatever becomes of this process."""
    with open(path, "a", encoding="utf-8") as lines:  # noqa: PTH123 - appending one line at once
        lines.write(f"{word} {os.getpid()}\n")


@service.task(queue="tserved_tasks")
def note_and_stay(path: str, seconds: float) -> None:
    """Leave a line; the first to do so stays, for somebody to kill it."""
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


@service.task(queue="tserved_sums")
def total(*numbers: int) -> int:
    return sum(numbers)


@service.task(queue="tserved_sums", retries=1, backoff=(0.1, 0.1))
def fail(why: str) -> None:
    raise ValueError(why)
