"""dramatiq, for the cases with tasks: https://dramatiq.io (Guide; Advanced Topics, "Prefetch Limits"; RabbitmqBroker).

``confirm_delivery=True``, its default middleware, no results. For speed: one process with 1, 4 or 8 threads, of which
the fastest is compared, and ``dramatiq_queue_prefetch=100`` instead of two for each thread. It acknowledges a task
after it ran, and has no other way.
"""
