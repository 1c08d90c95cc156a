"""The words of errors about queues between processes."""

from __future__ import annotations


def other_arguments(queue: str, error: BaseException) -> str:
    """Return what is said of a queue that is there and was declared in another way."""
    return (
        f"queue {queue!r} exists with other arguments than this object's: {error}. Nothing was put or taken; give "
        "client.queue() the same queue_type= and maxsize=, delete the queue, or take another name"
    )


def closed(queue: str) -> str:
    """Return what is said of an object that was closed."""
    return f"this object for queue {queue!r} is closed, or its client is; client.queue() makes another"
