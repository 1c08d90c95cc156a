"""The application of the cases with tasks: durable queue, persistent messages, confirms, no results."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Queue

from benchmarks.tally import TALLY

QUEUE = os.environ["BENCH_QUEUE"]
CONCURRENCY = int(os.environ.get("BENCH_THREADS", "1"))


def application(*, confirm: bool) -> Celery:
    """Return the application; the one without confirms only fills queues, which is not measured."""
    made = Celery("bench", broker=os.environ["AMQP_URL"])
    made.conf.update(
        broker_transport_options={"confirm_publish": confirm},
        task_queues=[Queue(QUEUE, routing_key=QUEUE, durable=True)],
        task_default_queue=QUEUE,
        task_default_delivery_mode="persistent",
        # "late" is what the others promise: a task is acknowledged after it ran
        task_acks_late=os.environ.get("BENCH_ACKS", "late") == "late",
        task_ignore_result=True,
        worker_prefetch_multiplier=max(1, int(os.environ["BENCH_PREFETCH"]) // CONCURRENCY),
        broker_heartbeat=0,
        worker_send_task_events=False,
        task_send_sent_event=False,
        task_track_started=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        task_serializer="json",
    )
    return made


app = application(confirm=True)


@app.task(name="note", ignore_result=True)
def note(text: str) -> None:
    TALLY.ran(text)
