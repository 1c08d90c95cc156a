"""FastStream on RabbitMQ, ``broker.request``: https://faststream.ag2.ai (RabbitMQ, RPC).

For speed: ``apply_types=False`` (no validation by pydantic), ``Channel(prefetch_count=100, publisher_confirms=False)``,
no logger; transient messages are its default. A broker makes one request at a time, behind a lock of its own, so 100
tasks are no faster than one: that is FastStream's doing, not the bench's.

Its events are as ours: ``persist=True``, durable queues, a channel with confirms.
"""
