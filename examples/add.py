"""As Celery's tutorial does it: ``add(4, 4)``, its state while it runs, and its result, also by its id from elsewhere.

Run ``amqp-rpc serve examples.add --results sqlite:///results.db`` in one terminal, and ``python -m examples.add`` in
another, in the same folder: what becomes of tasks is kept in the file ``results.db`` there.
"""

import time

from amqp_rpc import Client, Service

RESULTS = "sqlite:///results.db"

service = Service()


@service.task(queue="sums")
def add(a: int, b: int) -> int:
    """Add two numbers; slowly, so that it is seen at work."""
    time.sleep(0.5)
    return a + b


def main() -> None:
    """Enqueue it, look at it until it has ended, and take its result; then once more, as another program would."""
    with Client(results=RESULTS) as client:
        task = client.enqueue(add, 4, 4)
        while not task.ready():
            print("state:", task.state)
            time.sleep(0.1)
        print("state:", task.state)
        print("result:", task.result())

    # Another client, tomorrow, on the other side of the building: it needs no more than the id.
    with Client(results=RESULTS) as other:
        print("by its id:", other.task(task.id).result())


if __name__ == "__main__":
    main()
