"""RabbitMQ's second tutorial: a worker whose tasks take a second for each dot. Several workers share the tasks.

Run ``amqp-rpc serve examples.worker --threads 1`` in two terminals, and ``python -m examples.new_task Fifth
message.....`` in a third one. Each worker runs one task at a time. Kill one in the middle of a task (``kill -9``): the
other one runs it.
"""

import os
import time

from amqp_rpc import Service

#: Seconds that a dot takes.
DOT = float(os.environ.get("DOT", "1"))

service = Service()


# Its queue is "task_queue", unless queue= names another one. As the queue's only task it also runs plain text that
# names no function, which is what the tutorial's own new_task.py sends.
@service.task
def work(text: str) -> None:
    """Take a second for each dot."""
    print(f" [x] Received {text}", flush=True)
    time.sleep(text.count(".") * DOT)
    print(" [x] Done", flush=True)
