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
