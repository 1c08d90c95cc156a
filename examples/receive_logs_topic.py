"""RabbitMQ's fifth tutorial: the lines of some facilities and severities.

Run ``python -m examples.receive_logs_topic "#"``, or with ``"kern.*"``, ``"*.critical"``, or several patterns:
``"kern.*" "*.critical"``; and ``python -m examples.emit_log_topic kern.critical "A critical kernel error"``.
"""

import contextlib
import sys

from amqp_rpc import Event, Exchange, Server, Service

LOGS = Exchange("topic_logs", durable=False)


def main(*patterns: str) -> None:
    """Print the lines whose topics match a pattern until Ctrl-C."""
    service = Service()

    @service.subscribe(*patterns, exchange=LOGS, mode="broadcast")
    def log(line: str, event: Event) -> None:
        print(f" [x] {event.topic}:{line}", flush=True)

    with Server(service) as server, contextlib.suppress(KeyboardInterrupt):
        print(" [*] Waiting for logs. To exit press CTRL+C", flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python -m examples.receive_logs_topic [pattern]...")
    main(*sys.argv[1:])
