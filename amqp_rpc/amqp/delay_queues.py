"""The queues in which messages wait for their time, and by which they arrive, declared; `delays` says how they work."""

from __future__ import annotations

from functools import partial

from amqp_rpc.amqp.channel import Channel
from amqp_rpc.amqp.steps import Step, Steps
from amqp_rpc.message import topology


def declare_levels(channel: Channel) -> Steps:
    """Declare all levels, and what is behind them."""
    yield from declare_arrivals(channel)
    # From below, so that each level finds the next; all of them, so that none is new when it is needed.
    for level in range(topology.LEVELS):
        name = topology.delay(level)
        yield partial(channel.declare_exchange, name)
        yield _queue(channel, name, topology.delay_arguments(level, unit=topology.UNIT))
        yield partial(channel.bind, name, name, topology.held_binding(level))
        yield partial(channel.bind_exchange, topology.after_delay(level), name, topology.passed_binding(level))


def declare_arrivals(channel: Channel) -> Steps:
    """Declare the exchange behind all levels, and where goes what nobody is there for."""
    unrouted = topology.UNROUTED
    yield partial(channel.declare_exchange, unrouted, kind="fanout")
    yield _queue(channel, unrouted, topology.unrouted_arguments())
    yield partial(channel.bind, unrouted, unrouted, "")
    yield partial(channel.declare_exchange, topology.ARRIVALS, arguments={"alternate-exchange": unrouted})


def declare_arrival(channel: Channel, queue: str) -> Steps:
    """Declare the way from the exchange of arrivals to a task queue."""
    arrivals = topology.arrivals_queue(queue)
    yield _queue(channel, arrivals, topology.arrivals_arguments(queue))
    yield partial(channel.bind, arrivals, topology.ARRIVALS, topology.arrived_binding(queue))


def _queue(channel: Channel, name: str, arguments: dict[str, object]) -> Step:
    return lambda then: channel.declare(name, lambda _state: then(), arguments=arguments)
