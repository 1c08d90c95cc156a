"""Enqueue a task, wait for its result, and print ``a.png in 64 x 64``. See ``examples/thumbnails.py``."""

from amqp_rpc import Client

with Client() as client:
    task = client.enqueue("resize", "a.png", size=64, queue="thumbnails")  # returns after the broker's confirm
    print(task.result(timeout=30))
