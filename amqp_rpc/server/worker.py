"""A server's work: what it does with deliveries. They run, and are settled by what they come to.

A delivery is settled once: acknowledged when its reply has left, or when what must not be lost is confirmed; where its
connection is lost before, the broker gives it to another server.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TypeVar

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.text import text_of
from amqp_rpc.message.topology import DIRECT_REPLY_TO
from amqp_rpc.server.calls import Dispatcher
from amqp_rpc.server.in_hand import InHand
from amqp_rpc.server.jobs import Answer, Chunk, Job
from amqp_rpc.server.overruns import Overruns
from amqp_rpc.server.pool import Handlers
from amqp_rpc.server.recorder import Recorder
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.sharing import Sharing
from amqp_rpc.server.task_jobs import TaskJob
from amqp_rpc.server.tasks import TaskDispatcher

logger = logging.getLogger(__name__)

#: Seconds until one more thread is woken for work that waits: what the loop's timers can tell apart.
_WAKE_ANOTHER = 0.001

#: Deliveries that are named in one line of the log.
_MOST_NAMED = 5

Limited = TypeVar("Limited", Job, Chunk, TaskJob, Job | Chunk | TaskJob)


class Work:
    """What a server does with deliveries.

    Args:
        connection: Which they come from.
        dispatchers: Who sees to those of each queue.
        handlers: Where functions run.
        in_hand: What was delivered and is not settled yet.
        recorder: Tells the store of results.
        replies: Publishes what becomes of deliveries.
        direct: Does so for names of direct reply-to, on a connection of its own that is opened when one is needed.
        shared: Queues whose tasks go back when they wait here: see `Sharing`.
        counters: What was done.
        on_stuck: As for `Overruns`.
        ends_when_stuck: As ``ends`` for `Overruns`.
        settled: Called when deliveries were settled.
    """

    def __init__(
        self,
        connection: Connection,
        dispatchers: Mapping[str, Dispatcher | TaskDispatcher],
        *,
        handlers: Handlers,
        in_hand: InHand,
        recorder: Recorder,
        replies: Replies,
        direct: Replies,
        shared: Collection[str],
        counters: Counter[str],
        on_stuck: Callable[[int], object],
        ends_when_stuck: Callable[[int], bool],
        settled: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._dispatchers = dispatchers
        self._handlers = handlers
        self._in_hand = in_hand
        self._recorder = recorder
        self._replies = replies
        self._direct = direct
        self._counters = counters
        self._settled = settled
        self._overruns = Overruns(connection, handlers, on_stuck=on_stuck, ends=ends_when_stuck)
        # From here on: the owner's alone.
        self._sharing = Sharing(connection, shared, replies.keep)
        self._direct_started = False
        self._hoping = False
        #: Whether what is in hand goes to other servers: said once, and not of each that fails after that.
        self._given_back = False

    def deliver(self, queue: str, delivery: Delivery) -> None:
        """Take a delivery in hand, and have it run; the owner's."""
        self._in_hand.take(delivery)
        if self._dispatchers[queue].asynchronous(delivery.properties):
            self._handlers.submit_async(partial(self._run_async, queue, delivery))
            return
        self._sharing.wait(queue, delivery)
        if self._handlers.submit(partial(self._run, queue, delivery)) and not self._hoping:
            self._hoping = True
            self._connection.loop.call_later(_WAKE_ANOTHER, self.wake_another)

    def _run(self, queue: str, delivery: Delivery) -> None:
        if not self._sharing.begin(queue, delivery) or self._taken_back(delivery):
            return
        try:
            todo = self._recorder.accept(self._dispatchers[queue], delivery)
            answer = todo if isinstance(todo, Answer) else self._limited(queue, delivery, todo).run()
            self._finish(queue, delivery, answer)
        except Exception as error:
            self._unanswered(queue, delivery, error)

    async def _run_async(self, queue: str, delivery: Delivery) -> None:
        if self._taken_back(delivery):
            return
        try:
            todo = await self._recorder.accept_async(self._dispatchers[queue], delivery)
            answer = todo if isinstance(todo, Answer) else await self._limited(queue, delivery, todo).run_async()
            if not self._is_another_s(delivery, answer):
                await self._recorder.record_async(answer)
                self._settle(queue, delivery, answer)
        except Exception as error:
            # It may write to the store.
            await asyncio.to_thread(self._unanswered, queue, delivery, error)

    def _limited(self, queue: str, delivery: Delivery, todo: Limited) -> Limited:
        if isinstance(todo, TaskJob):
            todo.gone = partial(_is_gone, delivery)
            if todo.limit is not None:
                self._overruns.watch(todo, partial(self._settle_overrun, queue, delivery))
        return todo

    def _settle_overrun(self, queue: str, delivery: Delivery, overrun: Callable[[], Answer]) -> None:
        if self._taken_back(delivery):
            return
        try:
            self._finish(queue, delivery, overrun())
        except Exception as error:
            self._unanswered(queue, delivery, error)

    def wake_another(self) -> None:
        """Wake one more handler where work waits, and look again in a moment; the owner's."""
        self._hoping = self._handlers.wake_another()
        if self._hoping:
            self._connection.loop.call_later(_WAKE_ANOTHER, self.wake_another)

    def _unanswered(self, queue: str, delivery: Delivery, error: Exception) -> None:
        """Settle a delivery that met a defect of ours: left alone it would take a place of the prefetch for good."""
        logger.error("A message of %s could not be answered", queue, exc_info=error)
        dispatcher = self._dispatchers[queue]
        if isinstance(dispatcher, TaskDispatcher):
            try:
                self._finish(queue, delivery, dispatcher.unanswered(delivery.properties, delivery.body, error))
            except Exception:
                logger.exception("What became of it could not be said")
            else:
                return
        self._replies.dead_letter(queue, delivery, f"it could not be answered: {text_of(repr(error))}")

    def _taken_back(self, delivery: Delivery) -> bool:
        """Return whether the broker has given the delivery to another server since it came here; forget it then."""
        if not _is_gone(delivery):
            return False
        self._connection.post(self.acknowledge, [delivery])
        return True

    def _is_another_s(self, delivery: Delivery, answer: Answer | None) -> bool:
        """Return whether what becomes of a delivery is another server's to say: its channel is lost, and it failed.

        Else what failed here would be there twice, and called a failure, while it runs there. What is done is done:
        that is recorded, and its reply sent. A loss that comes after this look is seen by `Replies` before it
        publishes; then the failure is recorded all the same, until the other server records what it comes to.
        """
        if answer is None or (answer.again is None and answer.dead_letter is None) or not self._taken_back(delivery):
            return False
        self._recorder.leave(answer)
        if not self._given_back:
            logger.warning(
                "Message [%s] failed here after its connection was lost: another server has it, and nothing is said "
                "of it", delivery.properties.message_id,
            )  # fmt: skip
        return True

    def _finish(self, queue: str, delivery: Delivery, answer: Answer | None) -> None:
        if not self._is_another_s(delivery, answer):
            self._recorder.record(answer)
            self._settle(queue, delivery, answer)

    def _settle(self, queue: str, delivery: Delivery, answer: Answer | None) -> None:
        if answer is None:
            return  # its time limit came first
        self._counters[answer.outcome] += 1
        if answer.dead_letter is not None:
            self._counters["dead_letters"] += 1
            # Only `_reply_directly` may have a name of the other kind: see there.
            if answer.reply is not None and not answer.reply.routing_key.startswith(DIRECT_REPLY_TO):
                self._replies.tell(answer.reply)
            self._replies.dead_letter(queue, delivery, answer.dead_letter, answer.details)
        elif answer.reply is not None and answer.reply.routing_key.startswith(DIRECT_REPLY_TO):
            self._connection.do(self._reply_directly, answer.reply, delivery)
        elif answer.reply is not None:
            # Who enqueued a task may well be gone: that is nothing to be told of.
            mandatory = not isinstance(self._dispatchers[queue], TaskDispatcher)
            self._replies.reply(answer.reply, delivery, mandatory=mandatory)
        elif answer.again is not None:
            self._replies.keep(answer.again, delivery)
        else:
            self._connection.do(self.acknowledge, [delivery])

    def _reply_directly(self, message: Message, delivery: Delivery) -> None:
        if not self._direct_started:
            self._direct_started = True
            self._direct.connection.start()
        self._direct.reply(message, delivery)

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Let the broker forget deliveries that were settled; the owner's."""
        tags: dict[Channel, list[int]] = {}
        for delivery in deliveries:
            self._in_hand.settle(delivery)
            tags.setdefault(delivery.channel, []).append(delivery.tag)
        for channel, settled in tags.items():
            if not channel.ack(settled):
                self._counters["stale_acks"] += len(settled)
        self._settled()

    def give_back(self, seconds: float) -> None:
        """Say which deliveries go back to the broker now, with the connection that is closed; any thread.

        Args:
            seconds: That they had to be done.
        """
        if self._given_back:
            return
        self._given_back = True
        left = [each for each in self._in_hand.left() if not _is_gone(each)]
        said = [f"{each.properties.type or 'a text'} [{each.properties.message_id}]" for each in left[:_MOST_NAMED]]
        more = f" and {len(left) - len(said)} more" if len(left) > len(said) else ""
        if left:
            logger.warning(
                "Given back to the broker, not done within %g s: %s%s. Another worker gets %s, or this one when it is "
                "started again", seconds, ", ".join(said), more, "it" if len(left) == 1 else "them",
            )  # fmt: skip

    def close(self, timeout: float) -> None:
        """Close the connection of direct replies, where it was opened; any thread but its owner's.

        Args:
            timeout: Seconds to wait for the broker's good-bye.
        """
        if self._direct_started:
            self._direct.connection.close(timeout)


def _is_gone(delivery: Delivery) -> bool:
    """Return whether the broker has given the delivery to another server, or is about to."""
    return not delivery.channel.is_open
