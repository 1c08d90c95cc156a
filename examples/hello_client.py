"""A client's code: a call, as if the function were here.

While ``amqp-rpc serve examples.hello_server`` runs: ``python -m examples.hello_client`` prints ``Hello, world!``.
"""

from amqp_rpc import Client

with Client() as client:
    print(client.call("hello", "world"))
