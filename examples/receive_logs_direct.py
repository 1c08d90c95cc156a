"""RabbitMQ's fourth tutorial: the lines of some severities.

Run ``python -m examples.receive_logs_direct info warning error``, or ``python -m examples.receive_logs_direct warning
error > logs_from_rabbit.log``, and ``python -m examples.emit_log_direct error "Run. Run."`` in another terminal.
"""

import contextlib
import sys

from amqp_rpc import Event, Exchange, Server, Service

LOGS = Exchange("direct_logs", "direct", durable=False)


def main(*severities: str) -> None:
    """Print the lines of these severities until Ctrl-C."""
    service = Service()

    @service.subscribe(*severities, exchange=LOGS, mode="broadcast")
    def log(line: str, event: Event) -> None:
        print(f" [x] {event.topic}:{line}", flush=True)

    # A program can do itself what `amqp-rpc serve` does for a module.
    with Server(service) as server, contextlib.suppress(KeyboardInterrupt):
        print(" [*] Waiting for logs. To exit press CTRL+C", flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python -m examples.receive_logs_direct [info] [warning] [error]")
    main(*sys.argv[1:])
