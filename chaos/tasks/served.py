"""The tasks and event handlers that run under faults: each records its begin and its end outside, in SQLite.

Served by ``amqp-rpc serve chaos.tasks.served`` with ``CHAOS_FOLDER`` set; the process dies with the one that started
it. Every function has the same parameters: the task's key, its duration, its number of failures, and the delay of its
retries. An event has one key for each subscription, `SUBSCRIPTIONS` of them in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from amqp_rpc import Reject, Retry, Service, context
from chaos.tasks.ledger import Ledger

service = Service("chaos_tasks")

QUEUE, CLASSIC, BOUNDED = "chaos_tasks", "chaos_tasks_classic", "chaos_tasks_bounded"
#: The length limit of the bounded queue, without unacked tasks.
FULL = 5
#: The handlers of events.
SUBSCRIPTIONS = ("everything", "retried", "rejected", "mistyped")
#: Retries of tasks that always fail, and of the others: more than they need.
FEW, MANY = 2, 5
BACKOFF = (0.3, 2.0)

_PR_SET_PDEATHSIG = 1
_folder = Path(os.environ["CHAOS_FOLDER"]) if "CHAOS_FOLDER" in os.environ else None
_ledger = None
if _folder is not None:
    _ledger = Ledger(_folder, f"worker-{os.getpid()}")
    # A harness that is killed can't end its workers, so they end with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@service.task(queue=QUEUE, retries=MANY, backoff=BACKOFF)
def work(key: int, seconds: float, fails: int, after: float) -> None:
    """Take that long; fail the first times."""
    with _recorded(key):
        threading.Event().wait(seconds)
        _fail(fails, after)


@service.task(queue=QUEUE, retries=MANY, backoff=BACKOFF)
async def work_async(key: int, seconds: float, fails: int, after: float) -> None:
    """The same on the event loop."""
    with _recorded(key):
        await asyncio.sleep(seconds)
        _fail(fails, after)


@service.task(queue=CLASSIC, queue_type="classic", retries=MANY, backoff=BACKOFF)
def work_classic(key: int, seconds: float, fails: int, after: float) -> None:
    """The same in a classic queue."""
    with _recorded(key):
        threading.Event().wait(seconds)
        _fail(fails, after)


@service.task(queue=BOUNDED, max_length=FULL, retries=MANY, backoff=BACKOFF)
async def work_bounded(key: int, seconds: float, fails: int, after: float) -> None:
    """The same in a queue that is often full, on the event loop, where it blocks no thread of other tasks."""
    with _recorded(key):
        await asyncio.sleep(seconds)
        _fail(fails, after)


@service.task(queue=QUEUE, retries=FEW, backoff=BACKOFF)
def fail(key: int, seconds: float, fails: int, after: float) -> None:
    """Fail always."""
    with _recorded(key):
        threading.Event().wait(seconds)
        raise ValueError(f"{key} fails always, not {fails} times, {after}")


@service.task(queue=CLASSIC, queue_type="classic", retries=FEW, backoff=BACKOFF)
def fail_classic(key: int, seconds: float, fails: int, after: float) -> None:
    """The same in a classic queue."""
    with _recorded(key):
        threading.Event().wait(seconds)
        raise ValueError(f"{key} fails always, not {fails} times, {after}")


@service.task(queue=QUEUE, retries=MANY)
def reject(key: int, seconds: float, fails: int, after: float) -> None:
    """Refuse another attempt."""
    with _recorded(key):
        threading.Event().wait(seconds)
        raise Reject(f"no such thing as {key}, {fails}, {after}")


@service.task(queue=QUEUE)
def die(key: int, seconds: float, fails: int, after: float) -> None:
    """Kill the worker, each of them, or only the first (``fails`` is 1)."""
    assert _folder is not None
    with _recorded(key):
        threading.Event().wait(seconds + after)
        try:
            (_folder / f"died-{key}").touch(exist_ok=fails == 0)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
        # The signal is sent, and ends this thread a moment later.
        threading.Event().wait()


@dataclass(frozen=True)
class Happened:
    """The payload of an event."""

    key: int
    seconds: float
    fails: int
    after: float


@dataclass(frozen=True)
class Dated(Happened):
    """A payload that no event has."""

    day: datetime


@service.subscribe("chaos.#", retries=MANY, backoff=BACKOFF)
def everything(event: Happened) -> None:
    """Handle every event."""
    with _recorded(event_key(event.key, "everything")):
        threading.Event().wait(event.seconds)


@service.subscribe("chaos.*.retried", "*.*.retried.#", retries=MANY, backoff=BACKOFF)
async def retried(event: Happened) -> None:
    """Fail the first times. What fits both patterns comes once."""
    with _recorded(event_key(event.key, "retried")):
        await asyncio.sleep(event.seconds)
        _fail(event.fails, event.after)


@service.subscribe("chaos.*.rejected", retries=MANY)
def rejected(event: Happened) -> None:
    """Refuse another attempt."""
    with _recorded(event_key(event.key, "rejected")):
        raise Reject(f"no such thing as {event.key}")


@service.subscribe("chaos.*.mistyped", retries=MANY)
def mistyped(event: Dated) -> None:
    """Never run: no event is like that."""
    with _recorded(event_key(event.key, "mistyped")):
        threading.Event().wait(event.seconds)


def event_key(key: int, function: str) -> int:
    """Return the key of an event for one of the subscriptions."""
    return key + SUBSCRIPTIONS.index(function)


def _fail(fails: int, after: float) -> None:
    attempt = context().attempt
    if attempt <= fails and after:
        raise Retry(f"try {attempt} of {fails} fails", after=after)
    if attempt <= fails:
        raise OSError(f"try {attempt} of {fails} fails")


@contextlib.contextmanager
def _recorded(key: int) -> Iterator[None]:
    assert _ledger is not None
    number = _ledger.add("runs", key=key, pid=os.getpid(), attempt=context().attempt, began=time.monotonic())
    outcome = "success"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        _ledger.complete("runs", number, ended=time.monotonic(), outcome=outcome)
