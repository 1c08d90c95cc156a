"""The rights of RabbitMQ that a program needs for its role: the narrowest that let it work on a new virtual host.

Pure. Each set has the names that the requests of `amqp.declare`, `server.consumers` and so on are about, and the right
that RabbitMQ wants for each: https://www.rabbitmq.com/docs/access-control#authorisation

Write on the default exchange is write to every queue of the virtual host: a permission can't name the queue there.
"""

from __future__ import annotations

from amqp_rpc.message import topology
from amqp_rpc.message.refusals import CONFIGURE, READ, WRITE, Need
from amqp_rpc.message.topology import DEFAULT_EXCHANGE, NAMED_BY_BROKER, delay
from amqp_rpc.service.catalog import Catalog, queue_arguments

Needs = set[Need]
#: The roles of a server.
SERVER, WORKER, SUBSCRIBER, SCHEDULER = "server", "worker", "subscriber", "scheduler"

#: The prefix of the exchanges of every broker, which nobody may declare.
_PREDECLARED = "amq."


def _all(name: str, *, configure: bool = True) -> Needs:
    return {(WRITE, name), (READ, name), *([(CONFIGURE, name)] if configure else ())}


def caller(*, delays: bool = False, unique: bool = False) -> Needs:
    """Return the rights of a client that calls functions and enqueues tasks, once their servers have been started.

    Args:
        delays: Whether it enqueues tasks with a delay.
        unique: Whether it enqueues tasks with ``unique_for``.
    """
    needs = {(CONFIGURE, NAMED_BY_BROKER), (READ, NAMED_BY_BROKER), (WRITE, DEFAULT_EXCHANGE)}
    needs |= {(WRITE, delay(0))} if delays else set()
    key = topology.unique("", b"", 0.0)
    # Read, to give a key back whose task was refused.
    return needs | ({(CONFIGURE, key), (READ, key)} if unique else set())


def publisher(exchange: str) -> Needs:
    """Return the rights of a client that publishes events, once a subscriber has been started."""
    return {(WRITE, exchange)}


def listener(exchange: str) -> Needs:
    """Return the rights for ``amqp-rpc listen`` and `Client.listen`, once the exchange exists."""
    return _all(NAMED_BY_BROKER) | {(READ, exchange)}


def operator(queue: str) -> Needs:
    """Return the rights for ``amqp-rpc dlq`` on a queue; a reader needs no write."""
    return {(WRITE, DEFAULT_EXCHANGE), (READ, topology.dead_letter_queue(queue))}


def server(queue: str, *, declares: bool = True, bounded: bool = False) -> Needs:
    """Return the rights of a server for the calls of a queue; ``declares``: not another program.

    One that is ``bounded`` (``Service(max_length=)``) has an exchange that says so.
    """
    needs = {(CONFIGURE, topology.dead_letter_queue(queue)), (READ, queue), (WRITE, DEFAULT_EXCHANGE)}
    needs |= {(CONFIGURE, topology.bounded(queue))} if bounded else set()
    return needs | ({(CONFIGURE, queue)} if declares else set())


def worker(queue: str, *, declares: bool = True) -> Needs:
    """Return the rights of a server for the tasks of a queue, with their retries and delays."""
    markers = {(CONFIGURE, topology.lasting(name)) for name in (queue, "delay")}
    return server(queue, declares=declares) | _delays() | _all(topology.arrivals_queue(queue)) | markers


def scheduler(clock: str, queue: str) -> Needs:
    """Return the rights of a server for schedules: for the queue of their token, and that of their tasks."""
    return worker(queue) | {(CONFIGURE, clock), (READ, clock)}


def subscriber(queue: str, exchange: str, *, declares: bool = True, broadcast: bool = False) -> Needs:
    """Return the rights of a server for a subscription, whose events come from one exchange."""
    needs = {(READ, exchange)} if exchange else set()
    if exchange and not exchange.startswith(_PREDECLARED):
        needs.add((CONFIGURE, exchange))
    if broadcast:
        dead = (CONFIGURE, topology.dead_letter_queue(queue))
        own = _all(topology.instance_queue(queue, "0"))
        gone = {(CONFIGURE, topology.GONE), (WRITE, topology.GONE)}
        return needs | {dead, (WRITE, DEFAULT_EXCHANGE)} | own | gone | _delays()
    record = topology.bindings_record(queue)
    return needs | worker(queue, declares=declares) | {(WRITE, queue), (CONFIGURE, record), (READ, record)}


def _delays() -> Needs:
    """Return the rights for the delay queues, which all workers share: the first one declares them."""
    return _all(delay(0)) | _all(topology.ARRIVALS) | _all(topology.UNROUTED) | _all(topology.ABANDONED)


def parts(catalog: Catalog) -> dict[str, Needs]:
    """Return the rights of a server of some services, by role; those of the server are all of them."""
    needs: dict[str, Needs] = {SERVER: set(), WORKER: set(), SUBSCRIBER: set(), SCHEDULER: set()}
    for queue, functions in catalog.functions.items():
        arguments = queue_arguments(functions)
        bounded = arguments is not None and "x-max-length" in arguments
        needs[SERVER] |= server(queue, declares=arguments is not None, bounded=bounded)
    for queue, functions in catalog.tasks.items():
        needs[WORKER] |= worker(queue, declares=queue_arguments(functions) is not None)
    for queue, functions in catalog.events.items():
        for function in functions.values():
            assert function.subscription is not None
            needs[SUBSCRIBER] |= subscriber(
                queue,
                function.subscription.exchange.name,
                declares=function.queue_arguments is not None,
                broadcast=not function.shared,
            )
    for clock, schedules in catalog.schedules.items():
        for schedule in schedules:
            needs[SCHEDULER] |= scheduler(clock, schedule.queue)
    needs[SERVER] = set().union(*needs.values())
    return needs
