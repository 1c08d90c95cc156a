"""What a type checker must refuse: each line below that ends in a mark has errors of those codes. It is never run."""

from __future__ import annotations

from amqp_rpc import AsyncClient, Client, Queue, Service, register_error

service = Service()


@service.rpc
def fib(n: int) -> int:
    """Take one argument."""
    return n


@service.rpc(idempotent=True)
async def wait(seconds: float, *, note: str = "") -> str:
    """Be awaited on the server."""
    return note


fib("30")  # error: arg-type
fib(1).upper()  # error: attr-defined


def calls(client: Client) -> None:
    """Each of these would fail when it runs."""
    client.call(fib, "30")  # error: call-overload
    client.call(fib)  # error: call-overload
    client.call(fib, 1, 2)  # error: call-overload
    client.call(fib, m=1)  # error: call-overload
    client.call(wait, "1")  # error: call-overload
    client.call(wait, 1.5, note=5)  # error: arg-type
    client.call(fib, 30, timeout="2")  # error: call-arg, arg-type
    client.call(fib, 30, timeout=None)  # error: call-arg, arg-type
    client.call("fib", 30, timeout=None)  # error: call-overload
    client.call("fib", 30, wait_for_server="yes")  # error: call-overload
    client.call(5, 30)  # error: call-overload
    client.call()  # error: call-overload
    client.call(fib, 30).upper()  # error: attr-defined
    client.submit(fib, "30")  # error: call-overload
    client.submit(fib, 30).result().upper()  # error: attr-defined
    client.call(wait, 1.5).no()  # error: attr-defined


def maps(client: Client) -> None:
    """So would these."""
    client.map(fib, 30)  # error: call-overload
    client.map(fib, range(3), chunksize="3")  # error: call-overload
    client.map(fib, range(3), timeout=None)  # error: call-overload
    next(client.map(fib, range(3))).upper()  # error: attr-defined


def queues(client: Client, numbers: Queue[int]) -> None:
    """Nor do these go into a queue, or come out of it."""
    numbers.put("1")  # error: arg-type
    numbers.put_many([1, "2"])  # error: list-item
    numbers.get().upper()  # error: attr-defined
    numbers.get(timeout="1")  # error: arg-type
    client.queue("numbers", queue_type="stream")  # error: arg-type
    with numbers.get_many("5"):  # error: arg-type
        pass


async def awaited(client: AsyncClient) -> None:
    """And these."""
    await client.call(fib, "30")  # error: call-overload
    await client.call(fib, 30, timeout="2")  # error: call-arg, arg-type
    (await client.call(wait, 1.5)).no()  # error: attr-defined
    client.submit(wait)  # error: call-overload


Client(timeout="5")  # error: arg-type
Client(timeout=None)  # error: arg-type
Client(retries=3)  # error: call-arg
Service(5)  # error: arg-type
service.rpc(5)  # error: call-overload
service.rpc(idempotent="yes")  # error: call-overload
register_error(int)  # error: type-var
