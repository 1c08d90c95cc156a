"""Enqueue a task in each way: later, at a time, with an expiry, with a priority, once only, and many at once.

Run ``amqp-rpc serve examples.reminders`` in one terminal, and ``python -m examples.reminders`` in another.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from amqp_rpc import AlreadyQueued, Client, Service

service = Service("reminders")


@service.task
def remind(whom: str, of: str = "nothing") -> str:
    """Pretend to remind a person of something."""
    return f"{whom} was reminded of {of}"


def main() -> None:
    """Enqueue in each way, and wait for the results."""
    with Client() as client:
        tasks = [
            client.enqueue(remind, "ann", of="lunch", delay=1.5),  # seconds
            client.enqueue(remind, "bob", eta=datetime.now(UTC) + timedelta(seconds=1)),
            client.enqueue(remind, "carol", expires=3600),  # dead-lettered unless a worker starts it by then
            client.enqueue(remind, "dave", priority=9),
            client.enqueue("reminders.remind", "erin"),  # by name: without importing the worker's code
            client.enqueue(remind, "frank", unique_for=10.0),
        ]
        try:
            client.enqueue(remind, "frank", unique_for=10.0)
        except AlreadyQueued:
            print("frank is reminded once")
        tasks += client.enqueue_many(remind, [("grace",), {"whom": "heidi", "of": "tea"}])
        for task in tasks:
            print(task.result(timeout=30))


if __name__ == "__main__":
    main()
