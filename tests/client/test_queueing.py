"""Any thread may make a client's queues, the first of them too."""

from __future__ import annotations

import threading

import pytest

from amqp_rpc import Client
from amqp_rpc.client import queueing
from amqp_rpc.queues.receipts import Receipts


def test_two_threads_that_make_the_first_queue_get_the_same_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("amqp://127.0.0.1:1/")
    made: list[Receipts] = []
    second = threading.Thread(target=client.queue, args=("second",))

    class Slow(Receipts):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)
            if len(made) == 1:
                # It may get as far as it does before this one goes on.
                second.start()
                second.join(0.5)

    monkeypatch.setattr(queueing, "Receipts", Slow)
    first = client.queue("first")
    second.join(20)
    assert made == [client._receipts]
    assert first in (client._queues or ())
