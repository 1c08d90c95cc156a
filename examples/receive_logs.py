"""RabbitMQ's third tutorial: every subscriber gets every line of the log.

Run ``amqp-rpc serve examples.receive_logs`` in one terminal, ``amqp-rpc serve examples.receive_logs >
logs_from_rabbit.log`` in another one, and ``python -m examples.emit_log`` in a third.
"""

from amqp_rpc import Exchange, Service

# Not durable, since the tutorial's own programs declare it so. Without that, Exchange("logs", "fanout").
LOGS = Exchange("logs", "fanout", durable=False)

service = Service()


# "broadcast": every running process gets each line. With "shared", the default, only one of them would.
@service.subscribe(exchange=LOGS, mode="broadcast")
def log(line: str) -> None:
    """Print the line, to the screen or to a file."""
    print(f" [x] {line}", flush=True)
