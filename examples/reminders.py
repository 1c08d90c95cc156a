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
            client.with_options(delay=1.5).enqueue(remind, "ann", of="lunch"),  # seconds
            client.with_options(eta=datetime.now(UTC) + timedelta(seconds=1)).enqueue(remind, "bob"),
            client.with_options(expires=3600).enqueue(remind, "carol"),  # dead-lettered unless started by then
            client.with_options(priority=9).enqueue(remind, "dave"),
            client.enqueue("reminders.remind", "erin", delay=1.5),  # by name: without importing the worker's code
            client.with_options(unique_for=10.0).enqueue(remind, "frank"),
        ]
        try:
            client.with_options(unique_for=10.0).enqueue(remind, "frank")
        except AlreadyQueued:
            print("frank is reminded once")
        tasks += client.enqueue_many(remind, [("grace",), {"whom": "heidi", "of": "tea"}])
        for task in tasks:
            print(task.result(timeout=30))


if __name__ == "__main__":
    main()
