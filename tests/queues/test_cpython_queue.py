"""CPython's tests of `queue` pass with the queues of `Client.queue`, but for what is listed here."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqp_rpc import Client, Queue
from tests.cpython import cpythons, names_of, run
from tests.served_by import Raw

queue_tests = cpythons("test_queue")

AHEAD = "items that came ahead to a consumer do not count for full() (docs/queues.md)"
SHUTDOWN = "Queue.shutdown, of Python 3.13, closes a queue for all; Queue.close closes one object"
#: Each difference, with its reason.
QUEUE = {
    "test_basic": AHEAD,
}
SIMPLE = {
    "test_references": "an object of a class of the tests' has no form on the wire",
    "test_many_threads_timeout": "in 10 µs it is not known whether the broker has an item: NotConnected (Queue.get)",
}

Make = Callable[..., Queue[Any]]


@pytest.fixture
def make(client: Client, raw: Raw, queue_name: str) -> Iterator[Make]:
    """Make queues, which are deleted in the end; classic ones, whose maxsize is exact."""
    names: list[str] = []

    def new(maxsize: int = 0) -> Queue[Any]:
        names.append(f"{queue_name}.{len(names)}")
        return client.queue(names[-1], maxsize, queue_type="classic")

    yield new
    client.close()
    for name in names:
        for each in (name, f"{name}.dead"):
            raw.connection.channel().queue_delete(each)


@pytest.mark.parametrize("name", names_of(queue_tests, "BaseQueueTestMixin", QUEUE, without="shutdown", why=SHUTDOWN))
def test_as_a_queue(name: str, make: Make) -> None:
    run(queue_tests, "BaseQueueTestMixin", name, type2test=make, queue=queue, cum=0, cumlock=threading.Lock())


@pytest.mark.timeout(600)  # 50 threads and 10 000 items
@pytest.mark.parametrize("name", names_of(queue_tests, "BaseSimpleQueueTest", SIMPLE))
def test_as_a_simple_queue(name: str, make: Make) -> None:
    run(queue_tests, "BaseSimpleQueueTest", name, type2test=make, queue=queue, q=make())
