"""RabbitMQ's second tutorial: a worker whose tasks take a second a dot; as many as run share them.

Run ``amqp-rpc serve examples.worker --threads 1`` in two terminals, and ``python -m examples.new_task Fifth
message.....`` in a third one. Each worker has one task at a time. End one in the middle of a task with ``kill -9``: the
other one does it.
"""

import os
import time

from amqp_rpc import Service

#: Seconds that a dot takes.
DOT = float(os.environ.get("DOT", "1"))

service = Service()


# Its queue is "task_queue", unless queue= names another one. It is the queue's only task: a text that names no function
# is for it as well, as the tutorial's own new_task.py sends.
@service.task
def work(text: str) -> None:
    """Take a second a dot."""
    print(f" [x] Received {text}", flush=True)
    time.sleep(text.count(".") * DOT)
    print(" [x] Done", flush=True)
