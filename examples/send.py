"""The sender of RabbitMQ's first tutorial: ``python -m examples.send``, once ``examples/receive.py`` was served."""

from amqp_rpc import Client

with Client() as client:
    # exchange="": straight to the queue of that name, whoever reads it. It returns when the broker has it safe.
    client.publish("hello", "Hello World!", exchange="", mandatory=True)
print(" [x] Sent 'Hello World!'")
