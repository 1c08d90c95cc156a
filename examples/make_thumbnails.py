"""Enqueues a task, and waits for its result; prints ``a.png in 64 x 64``. See ``examples/thumbnails.py``."""

from amqp_rpc import Client

with Client() as client:
    task = client.enqueue("resize", "a.png", size=64, queue="thumbnails")  # the broker has it safe
    print(task.result(timeout=30))
