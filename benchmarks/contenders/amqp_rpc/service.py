"""The functions that the bench calls; ``BENCH_NAME`` names the service, as several run side by side."""

from __future__ import annotations

import os
import time

from amqp_rpc import Service

#: Seconds that `nap` takes.
NAP = 0.02

service = Service(os.environ["BENCH_NAME"])


@service.rpc
def echo(text: str) -> str:
    return text


@service.rpc
def double(number: int) -> int:
    """Do next to nothing: the way to it and back is measured."""
    return 2 * number


@service.rpc
def nap(text: str) -> str:
    time.sleep(NAP)
    return text
