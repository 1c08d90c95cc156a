"""Calls that a type checker must refuse: each marked line has errors of those codes. It is never run."""

from __future__ import annotations

from amqp_rpc import AsyncClient, Client, Exchange, Queue, Service, register_error

service = Service()


@service.rpc
def fib(n: int) -> int:
    """Take one argument."""
    return n


@service.rpc(idempotent=True)
async def wait(seconds: float, *, note: str = "") -> str:
    """Be awaited on the server."""
    return note


@service.task(queue="thumbnails")
def resize(path: str, size: int = 128) -> bytes:
    """Be work that can wait."""
    return path.encode() * size


@service.task
async def notify(to: str) -> str:
    """Be such work as a coroutine."""
    return to


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


def options(client: Client) -> None:
    """So would these, with options; beside a function object there are none."""
    client.call(fib, 30, timeout=2.5)  # error: arg-type, call-arg
    client.submit(wait, 1.5, wait_for_server=True)  # error: call-arg
    client.enqueue(resize, "a.png", delay=2.5)  # error: arg-type, call-arg
    client.with_options(timeout=2.5).call(fib, "30")  # error: call-overload
    client.with_options(content_type="text")  # error: arg-type
    Service(declare="pasive")  # error: arg-type
    client.with_options(timeout=2.5).call(fib, 30).upper()  # error: attr-defined
    client.with_options(timeout=2.5).call(wait, 1.5, note=5)  # error: arg-type
    client.with_options(timeout=2.5).submit(fib)  # error: call-overload
    client.with_options(timeout=2.5).map(fib, 30)  # error: call-overload
    client.with_options(delay=2.5).enqueue(resize, 5)  # error: call-overload
    client.with_options(delay=2.5).enqueue(notify, "ann").result().no()  # error: attr-defined
    client.with_options(timeout=None).call(fib, 30)  # error: arg-type
    client.with_options(delay="2")  # error: arg-type
    client.with_options(retries=3)  # error: call-arg


def tasks(client: Client) -> None:
    """So would these."""
    client.enqueue(resize, 5)  # error: call-overload
    client.enqueue(resize)  # error: call-overload
    client.enqueue(resize, "a.png", 3, 4)  # error: call-overload
    client.enqueue(resize, "a.png", sise=3)  # error: arg-type, call-arg
    client.enqueue(notify, 5)  # error: call-overload
    client.enqueue(resize, "a.png", delay="2")  # error: arg-type, call-arg
    client.enqueue(resize, "a.png", eta=5)  # error: arg-type, call-arg
    client.enqueue("resize", "a.png", delay="2")  # error: call-overload
    client.enqueue("resize", "a.png", priority="high")  # error: call-overload
    client.enqueue(5)  # error: call-overload
    client.enqueue()  # error: call-overload
    client.enqueue(resize, "a.png").result().result()  # error: attr-defined
    client.enqueue(notify, "ann").result().no()  # error: attr-defined
    client.enqueue(resize, "a.png").result(5)  # error: call-arg
    client.enqueue_many(resize, [5])  # error: list-item
    client.enqueue_many(resize, "a.png")  # error: arg-type
    client.enqueue_many(resize, [("a.png",)], unique_for=5.0)  # error: call-arg
    client.task(5)  # error: call-overload


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
    await client.with_options(timeout=2.5).call(fib, "30")  # error: call-overload
    (await client.with_options(delay=2.5).enqueue(resize, "a.png")).no()  # error: attr-defined
    await client.enqueue(resize, 5)  # error: call-overload
    await client.enqueue(notify, "ann", delay="2")  # error: call-arg
    (await (await client.enqueue(notify, "ann")).result()).no()  # error: attr-defined
    await client.enqueue_many(resize, [5])  # error: list-item
    await client.publish(5)  # error: arg-type
    client.queue(5)  # error: arg-type
    await client.dead_letters("thumbnails").list(limit="5")  # error: arg-type


def events(client: Client) -> None:
    """So would these."""
    client.publish(5)  # error: arg-type
    client.publish("a", 1, 2)  # error: call-arg
    client.publish("a", mandatory="yes")  # error: arg-type
    client.publish("a", exchange=5)  # error: arg-type
    client.publish("a", content_type="text/html")  # error: arg-type
    client.publish("a", timeout=None)  # error: arg-type
    client.publish_many(["a"])  # error: list-item


Client(timeout="5")  # error: arg-type
Client(timeout=None)  # error: arg-type
Client(retries=3)  # error: call-arg
Client(cacertfile=5)  # error: arg-type
Client(ssl_context="tls")  # error: arg-type
AsyncClient(timeout="5")  # error: arg-type
AsyncClient(retries=3)  # error: call-arg
Service(5)  # error: arg-type
service.rpc(5)  # error: call-overload
service.rpc(idempotent="yes")  # error: call-overload
service.task(5)  # error: call-overload
service.task(retries="5")  # error: call-overload
service.task(queue_type="mirrored")  # error: call-overload
service.task(backoff=3.0)  # error: call-overload
service.task(retry_for=(5,))  # error: arg-type
service.subscribe(5)  # error: arg-type
service.subscribe("a", mode="latest")  # error: arg-type
service.subscribe("a", max_priority=3)  # error: call-arg
Exchange("logs", "fan-out")  # error: arg-type
register_error(int)  # error: type-var
