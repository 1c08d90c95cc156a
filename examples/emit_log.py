"""Publish a line to every ``examples/receive_logs.py``: ``python -m examples.emit_log info: it works``."""

import sys

from amqp_rpc import Client
from examples.receive_logs import LOGS

message = " ".join(sys.argv[1:]) or "info: Hello World!"
with Client() as client:
    client.publish("", message, exchange=LOGS)  # a fanout exchange looks at no topic
print(f" [x] Sent {message}")
