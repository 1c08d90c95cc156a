"""Subscribers that tests serve from processes of their own."""

from __future__ import annotations

import os
import signal
import threading

from amqp_rpc import Event, Service
from amqp_rpc.server import tasks

#: Three workers of a test's may die with a task: eight take half a minute.
tasks.MOST_CRASHES = int(os.environ.get("TEST_MOST_CRASHES", tasks.MOST_CRASHES))

service = Service("tevents")


def write(path: str, word: str) -> list[str]:
    """Leave a line in a file, and return all its lines."""
    with open(path, "a+", encoding="utf-8") as lines:  # noqa: PTH123 - appending one line at once
        lines.write(f"{word} {os.getpid()}\n")
        lines.flush()
        lines.seek(0)
        return lines.readlines()


@service.subscribe("tevents.stay")
def note_and_stay(path: str, event: Event) -> None:
    """Leave a line; the first process that does so stays, for a test to kill it."""
    if len(write(path, f"{event.topic} {event.redelivered}")) == 1:
        threading.Event().wait(60)


@service.subscribe("tevents.die")
def note_and_die(path: str) -> None:
    """Leave a line, and end the process."""
    write(path, "dying")
    os.kill(os.getpid(), signal.SIGKILL)


@service.subscribe("tevents.all", mode="broadcast")
def note(path: str) -> None:
    """Leave a line, each process one."""
    write(path, "all")
