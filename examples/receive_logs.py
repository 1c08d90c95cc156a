"""RabbitMQ's third tutorial: everybody who listens gets every line of the log.

Run ``amqp-rpc serve examples.receive_logs`` in one terminal, ``amqp-rpc serve examples.receive_logs >
logs_from_rabbit.log`` in another one, and ``python -m examples.emit_log`` in a third.
"""

from amqp_rpc import Exchange, Service

# Not durable, since the tutorial's own programs declare it so. Without that, Exchange("logs", "fanout").
LOGS = Exchange("logs", "fanout", durable=False)

service = Service()


# "broadcast": every process that runs gets each line. With "shared", which is the default, one of them would.
@service.subscribe(exchange=LOGS, mode="broadcast")
def log(line: str) -> None:
    """Print it: to the screen, or to where the shell sends it."""
    print(f" [x] {line}", flush=True)
