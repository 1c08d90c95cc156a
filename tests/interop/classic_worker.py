"""A worker of ours for the queue that the tutorial's programs have declared without arguments: a classic one."""

from amqp_rpc import Service

service = Service()


@service.task(queue_type="classic")
def work(text: str) -> None:
    print(f" [x] Received {text}", flush=True)
