"""aio-pika's own pattern for RPC, ``aio_pika.patterns.JsonRPC``: https://aio-pika.readthedocs.io (Patterns).

For speed: no publisher confirms (``publisher_confirms=False``), prefetch 100, a plain connection (``connect``, not
``connect_robust``); transient messages are its default. It is measured on asyncio's loop and on uvloop.

Its events are persistent, on a channel with confirms: ``exchange.publish``, awaited one by one, and 1000 at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on the event loop that the bench asks for."""
    if os.environ.get("BENCH_LOOP") == "uvloop":
        import uvloop  # noqa: PLC0415 - the other variant is measured without it

        uvloop.run(main)
    else:
        asyncio.run(main)
