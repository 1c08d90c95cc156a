"""The animals of RabbitMQ's fifth tutorial, ``<speed>.<colour>.<species>``, and two subscribers.

Run ``amqp-rpc serve examples.animals``, and ``amqp-rpc publish quick.orange.rabbit`` in another terminal: each
subscriber gets it once. ``lazy.orange.male.rabbit`` has four words and matches ``lazy.#``; ``orange`` matches nothing.
"""

from amqp_rpc import Event, Service

service = Service("animals")


@service.subscribe("*.orange.*")
def orange(event: Event) -> None:
    """Print all orange animals."""
    print(f"orange: {event.topic}", flush=True)


@service.subscribe("*.*.rabbit", "lazy.#")
def rabbits(event: Event) -> None:
    """Print all rabbits, and all lazy animals."""
    print(f"rabbits: {event.topic}", flush=True)
