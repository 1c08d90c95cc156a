"""The sender of RabbitMQ's first tutorial: ``python -m examples.send``, while ``examples/receive.py`` is served."""

from amqp_rpc import Client

with Client() as client:
    client.publish("hello", "Hello World!")  # the broker has it safe
print(" [x] Sent 'Hello World!'")
