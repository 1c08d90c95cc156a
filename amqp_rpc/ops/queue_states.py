"""The states of queues, for clients. It is a seam: tools of operators ask for them too."""

from __future__ import annotations

from collections.abc import Iterable

from amqp_rpc.amqp.channel import ChannelClosed, QueueState
from amqp_rpc.amqp.session import Session
from amqp_rpc.message import topology
from amqp_rpc.message.refusals import ReplyCode


async def queue_states(session: Session, queues: Iterable[str]) -> dict[str, QueueState | None]:
    """Return the states of queues, by name; None for a queue that does not exist. It is a channel script."""
    states: dict[str, QueueState | None] = {}
    for queue in queues:
        # Each on a channel of its own: the broker closes it if there is no such queue.
        with await session.open_channel() as channel:
            try:
                states[queue] = await channel.inspect(queue)
            except ChannelClosed as closed:
                if closed.code != ReplyCode.NOT_FOUND:
                    raise
                states[queue] = None
    return states


async def never_served(session: Session, queue: str) -> bool:
    """Return whether no server has ever prepared a queue, and no other program consumes it. It is a channel script."""
    with await session.open_channel() as channel:
        try:
            await channel.inspect_exchange(topology.lasting(queue))
        except ChannelClosed as closed:
            if closed.code != ReplyCode.NOT_FOUND:
                raise
        else:
            return False
    state = (await queue_states(session, [queue]))[queue]
    return state is None or not state.consumers
