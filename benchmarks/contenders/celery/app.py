"""The Celery application, which the worker and the client share."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Queue

QUEUE = os.environ["BENCH_QUEUE"]
CONCURRENCY = int(os.environ["BENCH_THREADS"])

app = Celery("bench", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    # the manual's page "Optimizing": https://docs.celeryq.dev/en/stable/userguide/optimizing.html
    task_queues=[Queue(QUEUE, routing_key=QUEUE, durable=False, delivery_mode="transient")],
    task_default_queue=QUEUE,
    task_default_delivery_mode="transient",
    broker_pool_limit=20,
    broker_heartbeat=0,
    # per thread of the worker; in all, the prefetch of the others
    worker_prefetch_multiplier=max(1, int(os.environ["BENCH_PREFETCH"]) // CONCURRENCY),
    task_acks_late=False,
    result_persistent=False,
    worker_send_task_events=False,
    task_send_sent_event=False,
    task_track_started=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    result_serializer="json",
)


@app.task(name="echo")
def echo(text: str) -> str:
    return text
