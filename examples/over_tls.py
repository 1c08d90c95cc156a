"""A call over TLS: the client trusts one authority, and its certificate is its login.

While ``amqp-rpc serve services.fib`` runs: ``AMQP_URL=amqps://rabbit.example python -m examples.over_tls``.
"""

from amqp_rpc import Client

with Client(
    cacertfile="tls/ca.pem", certfile="tls/ann.pem", keyfile="tls/ann.key", auth_mechanism="external"
) as client:
    print(client.call("fib", 30))
