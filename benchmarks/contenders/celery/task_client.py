"""A client with ``task.delay`` and confirms."""

from __future__ import annotations

from benchmarks import enqueuing
from benchmarks.contenders.celery.tasks import application, note
from benchmarks.protocol import answer

unconfirmed = application(confirm=False)


def send_unconfirmed(text: str) -> object:
    return unconfirmed.send_task("note", (text,))


if __name__ == "__main__":
    answer(
        {
            "enqueue": lambda request: enqueuing.one(note.delay, request),
            "fill": lambda request: enqueuing.fill(send_unconfirmed, request),
        }
    )
