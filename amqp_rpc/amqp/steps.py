"""Things to ask of the broker one after another, each of which calls back; belongs to the connection's owner."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from amqp_rpc.amqp.channel import Channel
from amqp_rpc.message.exchanges import Exchange

#: One thing to ask for; it calls back, some with an answer.
Step = Callable[[Callable[..., object]], object]
Steps = Generator[Step, Any, None]


def run(steps: Steps, then: Callable[[], object], *, going: Callable[[], bool]) -> None:
    """Do steps one after another, each with the answer of the one before."""

    def go(answer: object = None) -> None:
        if not going():
            return
        try:
            step = steps.send(answer)
        except StopIteration:
            then()
            return
        step(go)

    go()


def declare_exchange(channel: Channel, exchange: Exchange) -> Steps:
    """Declare an exchange."""
    yield partial(channel.declare_exchange, exchange.name, kind=exchange.kind, durable=exchange.durable)
