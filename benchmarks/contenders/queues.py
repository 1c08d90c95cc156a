"""The contenders with queues between processes; all are durable, persistent, confirmed, and acked one by one."""

from __future__ import annotations

from benchmarks.contenders import FLOOR, OURS, Contender

_HERE = __name__.rpartition(".")[0]

KOMBU = "kombu"
#: Of each queue's type, in both.
TYPES = ["quorum", "classic"]
#: The rate of a client in C, one item at a time, is the limit of the broker.
QUEUES = [
    Contender(FLOOR, FLOOR, "c", (), ("task_client",), "bench.queue.c"),
    Contender(OURS, OURS, "amqp_rpc", (), ("-m", f"{_HERE}.amqp_rpc.queue_client"), "bench.queue.ours"),
    Contender(KOMBU, KOMBU, "kombu", (), ("-m", f"{_HERE}.kombu.client"), "bench.queue.kombu"),
]
