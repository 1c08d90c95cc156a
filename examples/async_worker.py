"""The same worker as ``examples/worker.py`` as ``async def``: tasks that wait do so side by side, on one thread.

Run ``amqp-rpc serve examples.async_worker``, and ``python -m examples.new_task Fifth message.....``. It runs as many
tasks at a time as ``--threads`` says.
"""

import asyncio
import os

from amqp_rpc import Service

#: Seconds that a dot takes.
DOT = float(os.environ.get("DOT", "1"))

service = Service()


@service.task
async def work(text: str) -> None:
    """Take a second for each dot."""
    print(f" [x] Received {text}", flush=True)
    await asyncio.sleep(text.count(".") * DOT)
    print(" [x] Done", flush=True)
