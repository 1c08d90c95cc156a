"""Enqueue a task for ``examples/worker.py``, or ``examples/async_worker.py``.

Run ``python -m examples.new_task Fifth message.....``
"""

import sys

from amqp_rpc import Client

message = " ".join(sys.argv[1:]) or "Hello World!"
with Client() as client:
    client.enqueue("work", message)  # returns after the broker's confirm; no worker has to run yet
print(f" [x] Sent {message}")
