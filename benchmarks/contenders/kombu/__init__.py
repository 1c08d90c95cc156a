"""kombu's ``SimpleQueue``: https://docs.celeryq.dev/projects/kombu (Simple Interface).

For the same promise as ours: a durable queue of the same type, persistent messages (its default), ``confirm_publish``,
and each message acknowledged. It sets no prefetch: the broker sends all that there is, the fastest that it can.

Events are published by its ``Producer.publish``, with ``confirm_publish``. It waits for each confirm: it can't have
several in flight.
"""
