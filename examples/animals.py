"""The animals of RabbitMQ's fifth tutorial, ``<speed>.<colour>.<species>``, and two who are interested in some.

Run ``amqp-rpc serve examples.animals``, and ``amqp-rpc publish quick.orange.rabbit`` in another terminal: both get it,
each of them once. ``lazy.orange.male.rabbit`` has four words and matches ``lazy.#``; ``orange`` matches nothing.
"""

from amqp_rpc import Event, Service

service = Service("animals")


@service.subscribe("*.orange.*")
def orange(event: Event) -> None:
    """Take an interest in all the orange animals."""
    print(f"orange: {event.topic}", flush=True)


@service.subscribe("*.*.rabbit", "lazy.#")
def rabbits(event: Event) -> None:
    """Want to hear of everything about rabbits, and everything about lazy animals."""
    print(f"rabbits: {event.topic}", flush=True)
