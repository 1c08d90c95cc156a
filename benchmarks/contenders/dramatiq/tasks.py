"""The task, for the worker and the client."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.tally import TALLY

# no heartbeats: its client sends none during the turns of others
dramatiq.set_broker(RabbitmqBroker(url=f"{os.environ['AMQP_URL']}?heartbeat=0", confirm_delivery=True))


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def note(text: str) -> None:
    TALLY.ran(text)
