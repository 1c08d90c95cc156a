"""A service whose functions call each other: calls inherit the time that is left.

Run it with ``amqp-rpc serve examples.report``; ``examples/deadlines_and_retries.py`` calls it.
"""

from __future__ import annotations

import time
from functools import cache

from amqp_rpc import Client, Service, context

service = Service("report")


@cache
def client() -> Client:
    """Return the one client of this process, made at the first call."""
    return Client()


@service.rpc
def time_left() -> float:
    """Return the seconds until the caller stops waiting."""
    left = context().remaining()
    return float("inf") if left is None else left


@service.rpc(idempotent=True)
def price(item: str) -> float:
    """Return a price, as slowly as a supplier's computer. Asking twice does no harm."""
    time.sleep(0.01)
    return float(len(item))


@service.rpc
def build(items: list[str]) -> float:
    """Return the sum of prices. Each call of price() inherits the time that is left of this one."""
    return sum(client().call(price, item) for item in items)
