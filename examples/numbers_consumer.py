"""Print the even or the odd numbers of ``examples.numbers_producer``; its docstring says how to run both."""

import sys

from amqp_rpc import Client

kind = sys.argv[1] if len(sys.argv) > 1 else "even"  # or odd
with Client() as client, client.queue(f"numbers.{kind}") as queue:
    for number in queue:
        if number is not None:
            print(kind, number, flush=True)
        queue.task_done()  # without it, the item would be requeued when this program ends
        if number is None:
            break
