"""Publish a line under a topic: ``python -m examples.emit_log_topic kern.critical "A critical kernel error"``."""

import sys

from amqp_rpc import Client
from examples.receive_logs_topic import LOGS

topic = sys.argv[1] if len(sys.argv) > 1 else "anonymous.info"
message = " ".join(sys.argv[2:]) or "Hello World!"
with Client() as client:
    client.publish(topic, message, exchange=LOGS)
print(f" [x] Sent {topic}:{message}")
