"""The functions that are called under faults: each records the begin and the end of each call.

Served by ``amqp-rpc serve chaos.served`` with ``CHAOS_FOLDER`` set; the process dies with the one that started it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amqp_rpc import Service
from chaos.record import EXECUTIONS, Record

service = Service("chaos")

_PR_SET_PDEATHSIG = 1
_record = None
if "CHAOS_FOLDER" in os.environ:
    _record = Record(Path(os.environ["CHAOS_FOLDER"]) / EXECUTIONS)
    # A harness that is killed can't end its servers, so they end with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def answer(number: int) -> list[int]:
    """Return the result of each function for a call, which differs from that of any other call."""
    return [number, number * number + 1]


@service.rpc(idempotent=True)
def pure(number: int, seconds: float) -> list[int]:
    """Take that long; may run twice."""
    with _recorded(number):
        threading.Event().wait(seconds)
        return answer(number)


@service.rpc
def once(number: int, seconds: float) -> list[int]:
    """Take that long; must not run twice."""
    with _recorded(number):
        threading.Event().wait(seconds)
        return answer(number)


@service.rpc(idempotent=True)
async def pure_async(number: int, seconds: float) -> list[int]:
    """Take that long on the event loop; may run twice."""
    with _recorded(number):
        await asyncio.sleep(seconds)
        return answer(number)


@service.rpc
async def once_async(number: int, seconds: float) -> list[int]:
    """Take that long on the event loop; must not run twice."""
    with _recorded(number):
        await asyncio.sleep(seconds)
        return answer(number)


@service.rpc
def refuse(number: int, seconds: float) -> None:
    """Take that long, and raise; must not run twice."""
    with _recorded(number):
        threading.Event().wait(seconds)
        raise ValueError(str(number))


@contextmanager
def _recorded(number: int) -> Iterator[None]:
    assert _record is not None
    _record.write(call=number, pid=os.getpid(), began=time.monotonic())
    try:
        yield
    finally:
        _record.write(call=number, pid=os.getpid(), ended=time.monotonic())
