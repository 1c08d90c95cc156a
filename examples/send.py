"""The sender of RabbitMQ's first tutorial: ``python -m examples.send``, once ``examples/receive.py`` was served."""

from amqp_rpc import Client

with Client() as client:
    # exchange="": straight to the queue of that name. It returns after the broker's confirm.
    client.publish("hello", "Hello World!", exchange="", mandatory=True)
print(" [x] Sent 'Hello World!'")
