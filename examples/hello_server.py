"""A server's code: a function that clients can call.

Run it with ``amqp-rpc serve examples.hello_server``, and call it with ``examples/hello_client.py``. Its queue is that
of ``services.fib``, so serve one or the other; `Service("greetings")` would have a queue of its own.
"""

from amqp_rpc import Service

service = Service()


@service.rpc
def hello(name: str) -> str:
    """Return a greeting."""
    return f"Hello, {name}!"
