"""The receiver of RabbitMQ's first tutorial: it prints what is published under "hello".

Run ``amqp-rpc serve examples.receive``, and ``python -m examples.send`` in another terminal.
"""

from amqp_rpc import Service

service = Service()


# queue="hello": publishers without an exchange send there, as the tutorial's own send.py does.
@service.subscribe("hello", queue="hello")
def receive(message: str) -> None:
    """Print the message."""
    print(f" [x] Received {message}", flush=True)
