"""Who is measured with queues between processes: durable, persistent, confirmed, acknowledged one by one, for all."""

from __future__ import annotations

from benchmarks.contenders import FLOOR, OURS, Contender

_HERE = __name__.rpartition(".")[0]

KOMBU = "kombu"
#: Of each queue's type, in both.
TYPES = ["quorum", "classic"]
#: What a client in C can put, one item at a time, is what the broker allows.
QUEUES = [
    Contender(FLOOR, FLOOR, "c", (), ("task_client",), "bench.queue.c"),
    Contender(OURS, OURS, "amqp_rpc", (), ("-m", f"{_HERE}.amqp_rpc.queue_client"), "bench.queue.ours"),
    Contender(KOMBU, KOMBU, "kombu", (), ("-m", f"{_HERE}.kombu.client"), "bench.queue.kombu"),
]
