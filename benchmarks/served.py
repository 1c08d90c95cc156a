"""The services that the call benchmark measures: the same function behind queues of their own."""

from __future__ import annotations

from amqp_rpc import Service
from benchmarks.raw_pika import fib

as_it_is = Service("bench-as-it-is")
prefetching = Service("bench-prefetching")
for service in (as_it_is, prefetching):
    service.rpc(fib)
