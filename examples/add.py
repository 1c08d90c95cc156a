"""Celery's tutorial: ``add(4, 4)``, its state while it runs, and its result, also by its id from another client.

Run ``amqp-rpc serve examples.add --results sqlite:///results.db`` in one terminal, and ``python -m examples.add`` in
another, in the same folder: the file ``results.db`` there keeps states and results.
"""

import time

from amqp_rpc import Client, Service

RESULTS = "sqlite:///results.db"

service = Service()


@service.task(queue="sums")
def add(a: int, b: int) -> int:
    """Add two numbers, slowly, so that you see it run."""
    time.sleep(0.5)
    return a + b


def main() -> None:
    """Enqueue it, poll its state until it ends, and print its result; then read the result as another program would."""
    with Client(results=RESULTS) as client:
        task = client.enqueue(add, 4, 4)
        while not task.ready():
            print("state:", task.state)
            time.sleep(0.1)
        print("state:", task.state)
        print("result:", task.result())

    # Another client, tomorrow, on the other side of the building: the id is all it needs.
    with Client(results=RESULTS) as other:
        print("by its id:", other.task(task.id).result())


if __name__ == "__main__":
    main()
