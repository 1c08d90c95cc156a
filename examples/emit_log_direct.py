"""Publish a line with its severity: ``python -m examples.emit_log_direct error "Run. Run. Or it will explode."``."""

import sys

from amqp_rpc import Client
from examples.receive_logs_direct import LOGS

severity = sys.argv[1] if len(sys.argv) > 1 else "info"
message = " ".join(sys.argv[2:]) or "Hello World!"
with Client() as client:
    client.publish(severity, message, exchange=LOGS)
print(f" [x] Sent {severity}:{message}")
