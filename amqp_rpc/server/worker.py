"""From a delivery to its settlement: a handler's thread runs it, and its answer settles it, once.

A delivery is acked when its reply has left, or when the copy that must not be lost is confirmed; if its connection is
lost before, the broker delivers it to another server. A call and a task take different ways here: only a task has a
record, a time limit and a failure that another worker may settle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from amqp_rpc.amqp.channel import AddressedDelivery, ChannelClosed, Delivery, QueueState
from amqp_rpc.amqp.loop import Timer
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import ALIVE, Message, Properties
from amqp_rpc.message.events import mark
from amqp_rpc.message.headers import WANTS_ALIVE
from amqp_rpc.message.settings import SIGN_INTERVAL
from amqp_rpc.message.text import text_of
from amqp_rpc.message.timing import LONGEST
from amqp_rpc.message.topology import DIRECT_REPLY_TO
from amqp_rpc.results.recorder import Recorder
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.invoke import Answer, Outcome, invoke, invoke_async
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher, TaskInvocation, requeued

logger = logging.getLogger(__name__)

#: Deliveries that one log line names.
_MOST_NAMED = 5
#: Calls that one liveness message names: far below any limit of a message's size.
_MOST_ALIVE = 1000
_LONGEST_SIGN = 1024 * 1024
#: Seconds until the first liveness message after a time without work: few calls take that long.
_FIRST_SIGN = 0.1
_NEVER = float("inf")
#: Seconds that a coroutine gets to end after it was cancelled at its time limit.
_GRACE = 1.0
#: Seconds until an exceeded limit is handled again, if no thread could be started for it.
_LOOK_AGAIN = 1.0
#: Seconds that a task may wait here for a thread, and between two polls.
_PATIENCE, _POLL = 1.0, 0.5


class Worker:
    """Runs deliveries and settles them. Tasks of ``fair`` queues don't wait long for a thread: see `Backlog`."""

    def __init__(
        self, state: State, pool: Pool, *, replies: Replies, recorder: Recorder, fair: Collection[str]
    ) -> None:
        self._state = state
        self._pool = pool
        self._replies = replies
        self._recorder = recorder
        self._limits = TimeLimits(state, pool, self._overrun)
        # From here on: the I/O thread's alone.
        self._backlog = Backlog(state, replies, fair)
        self._signing = False
        #: True once `give_up` has logged the unacked deliveries: failures after that are not logged one by one.
        self._given_up = False

    def deliver(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery) -> None:
        """Accept a delivery and have it run; the I/O thread's."""
        self._state.unacked[id(delivery)] = delivery
        if not self._signing:
            self._signing = True
            self._state.connection.loop.call_later(_FIRST_SIGN, self._sign)
        asynchronous = dispatcher.asynchronous(delivery.properties)
        if isinstance(dispatcher, CallDispatcher):
            if asynchronous:
                self._pool.submit_async(partial(self._run_call_async, dispatcher, delivery))
            else:
                self._pool.submit(partial(self._run_call, dispatcher, delivery))
        elif asynchronous:
            self._pool.submit_async(partial(self._run_task_async, dispatcher, delivery))
        else:
            self._backlog.add(dispatcher.queue, delivery)
            self._pool.submit(partial(self._run_task, dispatcher, delivery))

    def deliver_event(self, dispatcher: EventDispatcher, delivery: Delivery) -> None:
        """Accept an event, and write its topic into its headers, which retries and dead letters keep."""
        assert isinstance(delivery, AddressedDelivery)
        mark(delivery.properties, delivery.exchange, delivery.routing_key)
        self.deliver(dispatcher, delivery)

    def give_up(self, seconds: float) -> None:
        """Log the deliveries that the broker requeues when the connection closes, which is next; any thread."""
        if self._given_up:
            return
        self._given_up = True
        left = [each for each in list(self._state.unacked.values()) if not _is_gone(each)]
        named = [f"{each.properties.type or 'a text'} [{each.properties.message_id}]" for each in left[:_MOST_NAMED]]
        more = f" and {len(left) - len(named)} more" if len(left) > len(named) else ""
        if left:
            logger.warning(
                "drain: not done within %g s, requeued by the broker: %s%s. Another worker gets %s, or this one at its "
                "next start", seconds, ", ".join(named), more, "it" if len(left) == 1 else "them",
            )  # fmt: skip

    def _run_call(self, dispatcher: CallDispatcher, delivery: Delivery) -> None:
        if self._taken_back(delivery):
            return
        try:
            answer = dispatcher.run(delivery.properties, delivery.body, redelivered=delivery.redelivered)
            self._settle(dispatcher, delivery, answer)
        except Exception as error:
            self._unanswered(dispatcher, delivery, error)

    async def _run_call_async(self, dispatcher: CallDispatcher, delivery: Delivery) -> None:
        if self._taken_back(delivery):
            return
        try:
            answer = await dispatcher.run_async(delivery.properties, delivery.body, redelivered=delivery.redelivered)
            self._settle(dispatcher, delivery, answer)
        except Exception as error:
            self._unanswered(dispatcher, delivery, error)

    def _run_task(self, dispatcher: TaskDispatcher, delivery: Delivery) -> None:
        if not self._backlog.begin(dispatcher.queue, delivery) or self._taken_back(delivery):
            return
        try:
            task = self._accept_task(dispatcher, delivery)
            answer = task if isinstance(task, Answer) else self._answer(dispatcher, delivery, task, invoke(task))
            self._end_task(dispatcher, delivery, answer)
        except Exception as error:
            self._task_unanswered(dispatcher, delivery, error)

    async def _run_task_async(self, dispatcher: TaskDispatcher, delivery: Delivery) -> None:
        if self._taken_back(delivery):
            return
        try:
            if delivery.redelivered and self._recorder.records:
                task = await asyncio.to_thread(self._accept_task, dispatcher, delivery)
            else:
                task = self._accept_task(dispatcher, delivery)
            if isinstance(task, Answer):
                answer: Answer | None = task
            else:
                answer = self._answer(dispatcher, delivery, task, await invoke_async(task))
            if answer is not None and answer.record is not None:
                await asyncio.to_thread(self._end_task, dispatcher, delivery, answer)
            else:
                self._end_task(dispatcher, delivery, answer)
        except Exception as error:
            # It may write to the store.
            await asyncio.to_thread(self._task_unanswered, dispatcher, delivery, error)

    def _accept_task(self, dispatcher: TaskDispatcher, delivery: Delivery) -> TaskInvocation | Answer:
        properties, body = delivery.properties, delivery.body
        if delivery.redelivered and self._recorder.records:
            # The task may have succeeded before its worker died. Only a redelivery costs a read of the store.
            found = self._recorder.succeeded(properties.message_id)
            if found is not None:
                return dispatcher.repeated(properties, body, found)
        task = dispatcher.accept(properties, body, redelivered=delivery.redelivered)
        if isinstance(task, TaskInvocation):
            if (record := dispatcher.started(task)) is not None:
                self._recorder.begin(record)
            if task.limit is not None:
                self._limits.begin(dispatcher, delivery, task)
        return task

    def _answer(
        self, dispatcher: TaskDispatcher, delivery: Delivery, task: TaskInvocation, outcome: Outcome
    ) -> Answer | None:
        """Return the answer to an outcome; None if the task was settled before, at its time limit."""
        dispatcher.leave(task)
        if task.limit is None or self._limits.end(task):
            return dispatcher.answer(task, outcome, gone=_is_gone(delivery))
        logger.warning(
            "Task %s() [%s] ended with %s after %.3f s; dropped, since it failed at its time limit of %g s",
            task.function.name, task.request.message_id,
            "a result" if outcome.error is None else type(outcome.error).__name__, outcome.seconds, task.limit,
        )  # fmt: skip
        return None

    def _overrun(self, late: Attempt, seconds: float, stack: str | None) -> None:
        """Settle a task that has exceeded its time limit; a thread of its own."""
        if self._taken_back(late.delivery):
            return
        try:
            self._end_task(late.dispatcher, late.delivery, late.dispatcher.overrun(late.task, seconds, stack))
        except Exception as error:
            self._task_unanswered(late.dispatcher, late.delivery, error)

    def _end_task(self, dispatcher: TaskDispatcher, delivery: Delivery, answer: Answer | None) -> None:
        if answer is None or self._is_another_workers(delivery, answer):
            return
        if answer.record is not None:
            self._recorder.end(answer.record)
        self._settle(dispatcher, delivery, answer)

    def _is_another_workers(self, delivery: Delivery, answer: Answer) -> bool:
        """Return whether another worker settles the task: it failed here after its channel was lost.

        Otherwise the task would be in the broker twice, and count as a failure while it runs there. A success is
        recorded and its reply sent. `Replies` notices a loss after this check before it publishes. Then the failure is
        recorded all the same, until the other worker records its own outcome of the task.
        """
        if (answer.again is None and answer.dead_letter is None) or not self._taken_back(delivery):
            return False
        if answer.record is not None:
            self._recorder.leave(answer.record)
        if not self._given_up:
            logger.warning(
                "message [%s] failed after its connection was lost; dropped here, since another server has it",
                delivery.properties.message_id,
            )  # fmt: skip
        return True

    def _settle(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery, answer: Answer) -> None:
        self._state.counters[answer.outcome] += 1
        if answer.dead_letter is not None:
            self._state.counters["dead_letters"] += 1
            # A name of the other kind may only be used by `Replies.reply`: see there.
            if answer.reply is not None and not answer.reply.routing_key.startswith(DIRECT_REPLY_TO):
                self._replies.tell(answer.reply)
            self._replies.dead_letter(dispatcher.queue, delivery, answer.dead_letter, answer.details)
        elif answer.reply is not None:
            # The client of a task may well be gone: its reply is not mandatory, and no return is logged.
            self._replies.reply(answer.reply, delivery, mandatory=isinstance(dispatcher, CallDispatcher))
        elif answer.again is not None:
            self._replies.keep(answer.again, delivery)
        else:
            self._state.connection.loop.do(self._state.acknowledge, [delivery])

    def _unanswered(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery, error: Exception) -> None:
        """Settle a delivery that met a defect of this library: unacked, it would use up prefetch."""
        logger.error("queue %s: running or settling a delivery failed", dispatcher.queue, exc_info=error)
        self._replies.dead_letter(dispatcher.queue, delivery, f"it could not be run or settled: {text_of(repr(error))}")

    def _task_unanswered(self, dispatcher: TaskDispatcher, delivery: Delivery, error: Exception) -> None:
        try:
            answer = dispatcher.unanswered(delivery.properties, delivery.body, error)
            self._end_task(dispatcher, delivery, answer)
        except Exception:
            logger.exception("queue %s: outcome of a task could not be recorded or replied", dispatcher.queue)
            self._unanswered(dispatcher, delivery, error)
        else:
            logger.error("queue %s: running or settling a delivery failed", dispatcher.queue, exc_info=error)

    def _taken_back(self, delivery: Delivery) -> bool:
        """Return whether the broker has requeued the delivery meanwhile; forget it then."""
        if not _is_gone(delivery):
            return False
        self._state.connection.post(self._state.acknowledge, [delivery])
        return True

    def _sign(self) -> None:
        """Publish the calls in flight here, twice a second, for callers that wait for one.

        A caller can't see its call once it has left the queue. By these messages it distinguishes a slow call from a
        lost one. The many calls that take less time cost none.
        """
        self._signing = bool(self._state.unacked)
        if self._signing:
            self._state.connection.loop.call_later(SIGN_INTERVAL, self._sign)
            for message in _signs(self._state.unacked.values()):
                self._replies.tell(message)


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of a task, from its start to its end or its limit."""

    dispatcher: TaskDispatcher
    delivery: Delivery
    task: TaskInvocation
    began: float
    due: float
    thread: int


class TimeLimits:
    """The attempts with a limit, and one timer of the I/O thread for the earliest.

    A thread can't be ended (https://docs.python.org/3/library/threading.html), nor can a coroutine that ignores its
    cancellation. The task has failed at its limit all the same. The first of two events, the handler's end and the
    limit, removes the attempt from the table here and settles the task; the other one does nothing. No process is ended
    here.

    ``settle`` is called with an attempt, its seconds, and the stack of its handler, on a thread of its own.
    """

    def __init__(self, state: State, pool: Pool, settle: Callable[[Attempt, float, str | None], object]) -> None:
        self._state = state
        self._pool = pool
        self._settle = settle
        #: Held briefly: by a handler that ends, and while one is given up.
        self._lock = threading.Lock()
        self._attempts: dict[TaskInvocation, Attempt] = {}
        self._stuck = 0
        self._timer: Timer | None = None
        #: When the timer is due. A handler's thread reads it after it has entered an attempt, and the I/O thread sets
        #: it before it reads the attempts: so one of the two sees the other.
        self._due = _NEVER

    def begin(self, dispatcher: TaskDispatcher, delivery: Delivery, task: TaskInvocation) -> None:
        """Limit an attempt that starts now; on the thread that runs it. `end` must follow."""
        assert task.limit is not None
        began = time.monotonic()
        # The event loop cancels a coroutine; this timer is for one that ignores that.
        due = began + task.limit + (_GRACE if task.function.asynchronous else 0.0)
        self._attempts[task] = Attempt(dispatcher, delivery, task, began, due, threading.get_ident())
        if due < self._due:
            self._state.connection.post(self._set_timer)

    def end(self, task: TaskInvocation) -> bool:
        """Return whether a handler ended in time, so that its task is still to be settled."""
        with self._lock:
            if self._attempts.pop(task, None) is not None:
                return True
            self._stuck -= 1
            return False

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = _NEVER
        due = min((each.due for each in list(self._attempts.values())), default=_NEVER)
        if due != _NEVER:
            self._due = due
            delay = min(max(0.0, due - time.monotonic()), LONGEST)
            self._timer = self._state.connection.loop.call_later(delay, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        late = [each for each in list(self._attempts.values()) if each.due <= now]
        for each in late:
            each.due = now + _LOOK_AGAIN
        self._set_timer()
        for each in late:
            # Settling takes time, and may write to the store: not on the I/O thread.
            threading.Thread(target=self._exceeded, args=(each,), name="amqp_rpc time limit", daemon=True).start()

    def _exceeded(self, late: Attempt) -> None:
        task = late.task
        with self._lock:
            if self._attempts.pop(task, None) is None:
                return  # its handler has just ended
            self._stuck += 1
            stuck = self._stuck
            stack = None if task.function.asynchronous else _stack(late.thread)
            replaced = task.function.asynchronous or self._pool.replace(late.thread)
        seconds = time.monotonic() - late.began
        if self._state.ends_when_stuck(stuck):
            fate = "its handler ends with this process, which accepts no more and ends when its other handlers are done"
        else:
            fate = f"its handler can't be ended: it runs on, maybe beside its retry ({stuck} such handlers now)"
            if not replaced:
                fate += "; no other thread replaces it: this process has too many of them. Restart it"
        logger.error(
            "Task %s() [%s] has exceeded its time limit of %g s, and %s",
            task.function.name, task.request.message_id, task.limit, fate,
        )  # fmt: skip
        self._settle(late, seconds, stack)
        self._state.on_stuck(stuck)


class Backlog:
    """Tasks that wait here for a thread, and are requeued if a free worker may run them.

    RabbitMQ bounds the deliveries of each consumer, and those of several together only with ``global`` in
    ``basic.qos``, which newer versions refuse (https://www.rabbitmq.com/docs/consumer-prefetch). So a server of several
    queues may hold a task of one while tasks of another keep all its threads. A task that has waited for a second is
    requeued, as a copy, while its queue is empty and has other consumers: while the queue has more, no other worker is
    free, and the task would only lose its place. It belongs to the I/O thread, but for `begin`.
    """

    def __init__(self, state: State, replies: Replies, queues: Collection[str]) -> None:
        self._state = state
        self._replies = replies
        self._queues = frozenset(queues)
        self._waiting: dict[int, tuple[str, Delivery, float]] = {}
        self._polling = False

    def add(self, queue: str, delivery: Delivery) -> None:
        """Enter a delivery that waits for a thread."""
        if queue in self._queues:
            self._waiting[id(delivery)] = queue, delivery, time.monotonic()
            if not self._polling:
                self._state.connection.run(self._poll())

    def begin(self, queue: str, delivery: Delivery) -> bool:
        """Return whether a delivery is still here, and starts now; any thread. Each is removed once."""
        return queue not in self._queues or self._waiting.pop(id(delivery), None) is not None

    async def _poll(self) -> None:
        self._polling = True
        try:
            while self._waiting:
                await self._state.connection.pause(_POLL)
                for queue, channel in {queue: delivery.channel for queue, delivery in self._overdue()}.items():
                    # The queue was deleted: its consumer has noticed that.
                    with contextlib.suppress(ChannelClosed):
                        self._requeue(await channel.inspect(queue))
        finally:
            self._polling = False

    def _requeue(self, state: QueueState) -> None:
        if state.messages or state.consumers < 2:  # noqa: PLR2004 - another one than this
            return
        for queue, delivery in self._overdue():
            if queue == state.name and self._waiting.pop(id(delivery), None) is not None:
                logger.info("queue %s: task requeued: all threads are busy here", queue)
                self._replies.keep(requeued(queue, delivery.properties, delivery.body), delivery)

    def _overdue(self) -> list[tuple[str, Delivery]]:
        long_ago = time.monotonic() - _PATIENCE
        # The broker has redelivered those of a lost connection.
        return [
            (queue, delivery)
            for queue, delivery, since in list(self._waiting.values())
            if since <= long_ago and not _is_gone(delivery)
        ]


def _signs(unacked: Collection[Delivery]) -> Iterator[Message]:
    """Yield a liveness message for each caller whose calls ask for one (header ``alive``)."""
    callers: defaultdict[str, list[str]] = defaultdict(list)
    for delivery in unacked:
        properties = delivery.properties
        asked = (properties.headers or {}).get(WANTS_ALIVE) is True
        reply_to, identity = properties.reply_to, properties.correlation_id
        # pika gives bytes for text that is not UTF-8.
        if asked and reply_to and isinstance(reply_to, str) and isinstance(identity, str):
            callers[reply_to].append(identity)
    for reply_to, identities in callers.items():
        # A malformed name of that kind would cost the connection, and callers with such names don't ask.
        if reply_to.startswith(DIRECT_REPLY_TO):
            continue
        for start in range(0, len(identities), _MOST_ALIVE):
            properties = Properties(
                content_type=MSGPACK,
                delivery_mode=1,
                # An old one is useless: it must not pile up at a caller that does not read.
                expiration=str(int(SIGN_INTERVAL * 1000)),
                type=ALIVE,
            )
            named = identities[start : start + _MOST_ALIVE]
            yield Message(reply_to, properties, codec.encode(named, MSGPACK, limit=_LONGEST_SIGN))


def _is_gone(delivery: Delivery) -> bool:
    """Return whether the broker has requeued the delivery, or will soon."""
    return not delivery.channel.is_open


def _stack(thread: int) -> str | None:
    """Return the stack of a thread; None if it has just ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and the only way
    return None if frame is None else "".join(traceback.format_stack(frame))
