"""Tests of ``examples/hello_server.py``: its function alone, and a call of it through a broker.

Run ``python -m pytest examples/test_hello.py`` while a broker runs: ``amqp-rpc broker start`` starts one.
"""

from amqp_rpc import Client, Server
from examples.hello_server import hello, service


def test_the_function_without_a_broker() -> None:
    """A registered function is still an ordinary one."""
    assert hello("world") == "Hello, world!"


def test_a_call() -> None:
    """The server of the test runs in the test's own process."""
    with Server(service), Client() as client:
        assert client.call(hello, "world") == "Hello, world!"
