"""The states of queues, for clients. It is a seam: tools of operators ask for them too."""

from __future__ import annotations

from collections.abc import Iterable

from amqp_rpc.amqp.channel import ChannelClosed, QueueState, ReplyCode
from amqp_rpc.amqp.session import Session


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
