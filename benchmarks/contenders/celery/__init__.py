"""Celery with results over RabbitMQ, ``rpc://``: https://docs.celeryq.dev (Optimizing; Workers; Result backends).

For speed: transient messages on a queue that is not durable, transient results, no confirms, no events, a pool of
connections; the worker without gossip, mingle and heartbeat, acknowledging early, with prefetch 100. It is measured
with ``-P solo`` (no pool) and ``-P threads``.
"""
