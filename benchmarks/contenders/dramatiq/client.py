"""A client with ``actor.send``."""

from __future__ import annotations

import dramatiq

from benchmarks import enqueuing
from benchmarks.contenders.dramatiq.tasks import note
from benchmarks.protocol import Reply, Request, answer


def fill(request: Request) -> Reply:
    """Send without confirms, on a channel of its own; this is not measured."""
    broker = dramatiq.get_broker()
    del broker.channel
    broker.confirm_delivery = False
    try:
        return enqueuing.fill(note.send, request)
    finally:
        del broker.channel
        broker.confirm_delivery = True


if __name__ == "__main__":
    answer({"enqueue": lambda request: enqueuing.one(note.send, request), "fill": fill})
