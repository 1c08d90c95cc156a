"""The worker: it has each delivery run on a handler's thread, and settles it once, as its dispatcher has decided.

A delivery is acked when its reply has left, or when the copy that must not be lost is confirmed; if its connection is
lost before, the broker delivers it to another server. Calls and tasks have methods of their own here: only a task has a
record, a time limit, and a failure that another worker may settle.

It is longer than other modules: whatever happens to a delivery between its arrival and its ack is here.
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
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from amqp_rpc.amqp.channel import AddressedDelivery, Channel, ChannelClosed, Delivery, QueueState
from amqp_rpc.amqp.loop import Timer
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import ALIVE, PROBE, Message, Properties, mark, pack_names
from amqp_rpc.message.headers import WANTS_ALIVE
from amqp_rpc.message.settings import LIVENESS_INTERVAL
from amqp_rpc.message.signature import Gate, NotProved
from amqp_rpc.message.text import bounded_logger, quoted, text_of
from amqp_rpc.message.timing import LONGEST, Repeats
from amqp_rpc.message.topology import comes_back, named_by_broker
from amqp_rpc.results.recorder import Recorder
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.invoke import Answer, HandlerOutcome, Unfinished, finish, invoke, invoke_async
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher, TaskInvocation, requeued

logger: logging.Logger = bounded_logger(__name__)

#: The most deliveries that one log line names.
_MOST_NAMED = 5
#: Seconds until the first liveness message after a time without work: few calls take that long.
_FIRST_LIVENESS = 0.1
_NEVER = float("inf")
#: Seconds that a coroutine gets to end after it was cancelled at its time limit.
_GRACE = 1.0
#: Seconds until an exceeded limit is handled again, if no thread could be started for it.
_NEXT_CHECK = 1.0
#: Seconds that a task may wait here for a thread, and seconds between two polls of its queue.
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
        #: Those that admit the signed messages of a queue; and the log lines of others. By queue: each queue that an
        #: event is for has the same copy.
        self._gates: dict[str, Gate] = {}
        self._refusals = Repeats()
        #: Accepts a delivery, if it is signed where it must be; the I/O thread's.
        self.deliver: Callable[[CallDispatcher | TaskDispatcher, Delivery], object] = (
            self.accept if state.keys is None else self._deliver_signed
        )
        self._limits = TimeLimits(state, pool, self._overrun)
        self._backlog = Backlog(state, replies, fair)
        #: The deliveries that wait for the acks of their arrivals, by queue and id: see `ArrivalsConsumer`; the I/O
        #: thread's.
        self.arriving: dict[tuple[str, str | None], list[Delivery]] = {}
        #: The deliveries that were in progress here when the broker took them back: see `timed_out`.
        self._taken_back: dict[tuple[str, str], Delivery] = {}
        #: True while a timer runs `_send_liveness`; the I/O thread's.
        self._liveness_due = False
        #: True once `give_up` has logged the unacked deliveries: failures after that are not logged one by one.
        self._given_up = False

    def accept(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery) -> None:
        """Submit a delivery to the pool, once its arrival is acked: then it is accepted again; the I/O thread's."""
        if delivery.redelivered and self._taken_back and self._goes_on(dispatcher, delivery):
            return
        self._state.unacked[id(delivery)] = delivery
        if not self._liveness_due:
            self._liveness_due = True
            self._state.connection.loop.call_later(_FIRST_LIVENESS, self._send_liveness)
        if self.arriving:
            waiting = self.arriving.get((dispatcher.queue, delivery.properties.message_id))
            if waiting is not None:
                waiting.append(delivery)
                return
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
        """Accept an event, and add its topic to its headers, which retries and dead letters keep."""
        assert isinstance(delivery, AddressedDelivery)
        exchange, key = delivery.exchange, delivery.routing_key
        if self._state.keys is not None:
            # A retry was signed for its queue.
            target = ("", dispatcher.home) if comes_back(exchange) else (exchange, key)
            if not self._proved(dispatcher, delivery, target[1], exchange=target[0]):
                return
        mark(delivery.properties, exchange, key)
        self.accept(dispatcher, delivery)

    def _deliver_signed(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery) -> None:
        if self._proved(dispatcher, delivery, dispatcher.queue):
            self.accept(dispatcher, delivery)

    def _proved(
        self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery, key: str, *, exchange: str = ""
    ) -> bool:
        """Return whether a message is signed, and came for the first time; dead-letter any other, unsigned."""
        properties, queue = delivery.properties, dispatcher.queue
        if properties.type == PROBE and isinstance(dispatcher, CallDispatcher):
            # It asks for nothing, and is dropped. Only for calls: of an event the type means nothing.
            return True
        gate = self._gates.get(queue)
        if gate is None:
            assert self._state.keys is not None
            gate = self._gates[queue] = Gate(self._state.keys)
        try:
            gate.admit(properties, delivery.body, routing_key=key, exchange=exchange, redelivered=delivery.redelivered)
        except NotProved as error:
            self._state.unacked[id(delivery)] = delivery
            self._state.counters["unproved"] += 1
            self._state.counters["dead_letters"] += 1
            if (times := self._refusals.again(f"{queue}: {error}")) is not None:
                logger.warning(
                    "queue %s: message [%s] refused: %s%s", queue, quoted(properties.message_id), error, times
                )
            # A caller with keys would not believe a refusal; one without learns what it lacks.
            if error.unsigned and isinstance(dispatcher, CallDispatcher):
                refusal = dispatcher.unsigned(properties, delivery.body)
                if refusal is not None:
                    self._replies.tell(refusal)
            self._replies.dead_letter(queue, delivery, f"not allowed: {error}", signed=False)
            return False
        return True

    def timed_out(self, queue: str, channel: Channel) -> None:
        """Note that the broker took back what is unacked on a channel, since some of it was so for too long.

        No worker has died: what comes again while its handler runs here is settled by that handler, and does not run
        beside itself. The I/O thread's.
        """
        unacked = self._state.unacked
        self._taken_back = {key: each for key, each in self._taken_back.items() if unacked.get(id(each)) is each}
        for each in unacked.values():
            if each.channel is channel and (key := _identity(queue, each)) is not None:
                self._taken_back[key] = each

    def give_up(self, seconds: float) -> None:
        """Log the deliveries that the broker requeues when the server closes its connection next; any thread."""
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
        if self._forget_if_gone(delivery):
            return
        try:
            answer = dispatcher.run(delivery.properties, delivery.body, redelivered=delivery.redelivered)
            if isinstance(answer, Answer):
                self._settle(dispatcher, delivery, answer)
            else:
                self._pool.submit_async(partial(self._finish_call, dispatcher, delivery, answer))
        except Exception as error:
            self._unanswered(dispatcher, delivery, error)

    async def _finish_call(
        self, dispatcher: CallDispatcher, delivery: Delivery, answer: Coroutine[Any, Any, Answer]
    ) -> None:
        try:
            self._settle(dispatcher, delivery, await answer)
        except Exception as error:
            self._unanswered(dispatcher, delivery, error)

    async def _run_call_async(self, dispatcher: CallDispatcher, delivery: Delivery) -> None:
        if self._forget_if_gone(delivery):
            return
        try:
            answer = await dispatcher.run_async(delivery.properties, delivery.body, redelivered=delivery.redelivered)
            self._settle(dispatcher, delivery, answer)
        except Exception as error:
            self._unanswered(dispatcher, delivery, error)

    def _run_task(self, dispatcher: TaskDispatcher, delivery: Delivery) -> None:
        if not self._backlog.begin(dispatcher.queue, delivery) or self._forget_if_gone(delivery):
            return
        try:
            task = self._accept_task(dispatcher, delivery)
            if isinstance(task, Answer):
                self._end_task(dispatcher, delivery, task)
                return
            outcome = invoke(task)
            if isinstance(outcome, Unfinished):
                if task.limit is None or self._limits.move(task):
                    self._pool.submit_async(partial(self._finish_task, dispatcher, delivery, task, outcome))
                    return
                outcome.drop()
                outcome = HandlerOutcome(None, None, outcome.seconds)
            self._end_task(dispatcher, delivery, self._answer(dispatcher, delivery, task, outcome))
        except Exception as error:
            self._task_unanswered(dispatcher, delivery, error)

    async def _finish_task(
        self, dispatcher: TaskDispatcher, delivery: Delivery, task: TaskInvocation, unfinished: Unfinished
    ) -> None:
        try:
            answer = self._answer(dispatcher, delivery, task, await finish(task, unfinished))
            await self._end_task_async(dispatcher, delivery, answer)
        except Exception as error:
            # Off the event loop: it may write to the store.
            await asyncio.to_thread(self._task_unanswered, dispatcher, delivery, error)

    async def _run_task_async(self, dispatcher: TaskDispatcher, delivery: Delivery) -> None:
        if self._forget_if_gone(delivery):
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
            await self._end_task_async(dispatcher, delivery, answer)
        except Exception as error:
            # As in `_finish_task`.
            await asyncio.to_thread(self._task_unanswered, dispatcher, delivery, error)

    def _accept_task(self, dispatcher: TaskDispatcher, delivery: Delivery) -> TaskInvocation | Answer:
        properties, body = delivery.properties, delivery.body
        if delivery.redelivered and (key := dispatcher.record_key(properties, body)) is not None:
            # The task may have succeeded before its worker died. Only a redelivery costs a read of the store.
            found = self._recorder.succeeded(key)
            if found is not None:
                return dispatcher.repeated(properties, body, found)
        crashed = delivery.redelivered and self._had(dispatcher, delivery) is None
        task = dispatcher.accept(properties, body, redelivered=crashed)
        if isinstance(task, TaskInvocation):
            if (record := dispatcher.started(task)) is not None:
                self._recorder.begin(record)
            if task.limit is not None:
                self._limits.begin(dispatcher, delivery, task)
        return task

    def _answer(
        self, dispatcher: TaskDispatcher, delivery: Delivery, task: TaskInvocation, outcome: HandlerOutcome
    ) -> Answer | None:
        """Return the answer to an outcome; None if the task was already settled at its time limit."""
        dispatcher.leave(task)
        if task.limit is None or self._limits.end(task):
            return dispatcher.answer(task, outcome, gone=_is_gone(delivery))
        logger.warning(
            "%s ended with %s after %.3f s; dropped, since it failed at its time limit of %g s",
            dispatcher.named(task.request, task.function.name),
            "a result" if outcome.error is None else type(outcome.error).__name__, outcome.seconds, task.limit,
            extra=dispatcher.keys(task.request, task.function.name),
        )  # fmt: skip
        return None

    def _overrun(self, late: TimedAttempt, seconds: float, stack: str | None) -> None:
        """Settle a task that has exceeded its time limit; runs on a thread of its own."""
        if self._forget_if_gone(late.delivery):
            return
        try:
            self._end_task(late.dispatcher, late.delivery, late.dispatcher.overrun(late.task, seconds, stack))
        except Exception as error:
            self._task_unanswered(late.dispatcher, late.delivery, error)

    def _end_task(self, dispatcher: TaskDispatcher, delivery: Delivery, answer: Answer | None) -> None:
        if answer is None or self._belongs_to_another(delivery, answer):
            return
        if answer.record is not None:
            self._recorder.end(answer.record)
        self._settle(dispatcher, delivery, answer)

    async def _end_task_async(self, dispatcher: TaskDispatcher, delivery: Delivery, answer: Answer | None) -> None:
        if answer is not None and answer.record is not None:
            await asyncio.to_thread(self._end_task, dispatcher, delivery, answer)
        else:
            self._end_task(dispatcher, delivery, answer)

    def _belongs_to_another(self, delivery: Delivery, answer: Answer) -> bool:
        """Return whether another worker settles the task, since it failed here after its channel was lost.

        A retry or a dead letter from here would be a second copy of the task, and its record would say that the task
        failed while it runs elsewhere. A success is recorded and replied in any case. If the channel is lost after this
        check, `Copy.is_obsolete` notices that before it publishes; the recorded failure then stands until the other
        worker records its own outcome.
        """
        if (answer.again is None and answer.dead_letter is None) or not self._forget_if_gone(delivery):
            return False
        if answer.record is not None:
            self._recorder.leave(answer.record)
        if not self._given_up:
            logger.warning(
                "message [%s] failed after its connection was lost; dropped here, since another worker has it",
                delivery.properties.message_id,
            )  # fmt: skip
        return True

    def _settle(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery, answer: Answer) -> None:
        self._state.counters[answer.outcome] += 1
        if self._state.keys is not None and answer.reply is not None:
            self._state.keys.sign(answer.reply, like=delivery.properties)
        if answer.dead_letter is not None:
            self._state.counters["dead_letters"] += 1
            if answer.reply is not None:
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
        """Dead-letter a delivery after a defect of this library: unacked, it would use up prefetch."""
        logger.error("queue %s: running or settling a delivery failed", dispatcher.queue, exc_info=error)
        self._replies.dead_letter(dispatcher.queue, delivery, f"it could not be run or settled: {text_of(repr(error))}")

    def _task_unanswered(self, dispatcher: TaskDispatcher, delivery: Delivery, error: Exception) -> None:
        try:
            answer = dispatcher.unanswered(delivery.properties, delivery.body, error)
            self._end_task(dispatcher, delivery, answer)
        except Exception:
            logger.exception("queue %s: recording or settling a failed task failed", dispatcher.queue)
            self._unanswered(dispatcher, delivery, error)
        else:
            logger.error("queue %s: running or settling a delivery failed", dispatcher.queue, exc_info=error)

    def _forget_if_gone(self, delivery: Delivery) -> bool:
        """Return whether the broker has requeued the delivery meanwhile; if so, it no longer counts as unacked."""
        channel = delivery.channel
        if channel.is_open:
            return False
        self._state.connection.post(self._forget, delivery, channel)
        return True

    def _forget(self, delivery: Delivery, lost: Channel) -> None:
        if delivery.channel is not lost:
            # It has come again in between (`_goes_on`), and no handler settles it any more.
            delivery.channel.reject(delivery.tag, requeue=True)
            delivery.channel = lost
        self._state.acknowledge([delivery])

    def _goes_on(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery) -> bool:
        """Return whether a message that comes again is in progress here: its end settles this delivery, too."""
        held = self._had(dispatcher, delivery)
        if held is None or held is delivery or self._state.unacked.get(id(held)) is not held or not _is_gone(held):
            return False
        held.channel, held.tag = delivery.channel, delivery.tag
        logger.info(
            "queue %s: message [%s] came again while it runs here", dispatcher.queue, held.properties.message_id
        )
        return True

    def _had(self, dispatcher: CallDispatcher | TaskDispatcher, delivery: Delivery) -> Delivery | None:
        """Return the delivery of the same message that the broker took back from this process, if there was one."""
        key = _identity(dispatcher.queue, delivery)
        held = None if key is None else self._taken_back.get(key)
        # Programs may number their messages, each from 1.
        same = held is not None and held.body == delivery.body and held.properties.type == delivery.properties.type
        return held if same else None

    def _send_liveness(self) -> None:
        """Send liveness messages to the callers of the calls in flight here; again every `LIVENESS_INTERVAL`.

        A caller can't see its call once it has left the queue. These messages let it tell a slow call from a lost one.
        The many calls that end before the first one is due cost none.
        """
        self._liveness_due = bool(self._state.unacked)
        if self._liveness_due:
            self._state.connection.loop.call_later(LIVENESS_INTERVAL, self._send_liveness)
            for message, like in _liveness_messages(self._state.unacked.values()):
                if self._state.keys is not None:
                    self._state.keys.sign(message, like=like)
                self._replies.tell(message)


@dataclass(slots=True, eq=False)
class TimedAttempt:
    """An attempt that has a time limit, from its start until its handler ends or the limit passes."""

    dispatcher: TaskDispatcher
    delivery: Delivery
    task: TaskInvocation
    began: float
    due: float
    #: The thread that runs it; None for the event loop.
    thread: int | None


class TimeLimits:
    """The running attempts that have a time limit, and one timer of the I/O thread for the earliest limit.

    A thread can't be ended (https://docs.python.org/3/library/threading.html), nor can a coroutine that ignores its
    cancellation: the handler may run on, but the task fails at its limit. The handler's end and the limit each try to
    remove the attempt from the table here; whichever comes first settles the task, and the other does nothing. Only
    `State.on_stuck` may end the process.

    ``settle`` is called with an attempt, its seconds, and the stack of its handler, on a thread of its own.
    """

    def __init__(self, state: State, pool: Pool, settle: Callable[[TimedAttempt, float, str | None], object]) -> None:
        self._state = state
        self._pool = pool
        self._settle = settle
        #: Guards an attempt's removal and the replacement of its thread: the handler must not end between the two.
        self._lock = threading.Lock()
        self._attempts: dict[TaskInvocation, TimedAttempt] = {}
        #: The handlers that run on after their limit.
        self._stuck = 0
        self._timer: Timer | None = None
        #: When the timer is due. In this order, so that no attempt is missed: a handler's thread adds its attempt and
        #: then reads this; the I/O thread sets this and then reads the attempts.
        self._due = _NEVER

    def begin(self, dispatcher: TaskDispatcher, delivery: Delivery, task: TaskInvocation) -> None:
        """Start the time limit of an attempt, on the thread that runs it; `end` must follow."""
        assert task.limit is not None
        began = time.monotonic()
        thread = None if task.function.asynchronous else threading.get_ident()
        # The event loop cancels a coroutine; this timer is for one that ignores that.
        due = began + task.limit + (_GRACE if thread is None else 0.0)
        self._attempts[task] = TimedAttempt(dispatcher, delivery, task, began, due, thread)
        if due < self._due:
            self._state.connection.post(self._set_timer)

    def move(self, task: TaskInvocation) -> bool:
        """Note that an attempt goes on on the event loop; return False if its limit has passed, and settled it."""
        with self._lock:
            attempt = self._attempts.get(task)
            if attempt is None:
                return False
            attempt.thread = None
            attempt.due += _GRACE
            return True

    def end(self, task: TaskInvocation) -> bool:
        """Note that a handler has ended; return whether it was in time: then its task is not settled yet."""
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
            self._timer = self._state.connection.loop.call_later(delay, self._check)

    def _check(self) -> None:
        now = time.monotonic()
        late = [each for each in list(self._attempts.values()) if each.due <= now]
        for each in late:
            each.due = now + _NEXT_CHECK
        self._set_timer()
        for each in late:
            # Settling takes time, and may write to the store: not on the I/O thread.
            threading.Thread(target=self._exceeded, args=(each,), name="amqp_rpc time limit", daemon=True).start()

    def _exceeded(self, late: TimedAttempt) -> None:
        task = late.task
        with self._lock:
            if self._attempts.pop(task, None) is None:
                return  # its handler has just ended
            self._stuck += 1
            stuck = self._stuck
            stack = None if late.thread is None else _stack(late.thread)
            replaced = late.thread is None or self._pool.replace(late.thread)
        seconds = time.monotonic() - late.began
        if self._state.ends_when_stuck(stuck):
            fate = "its handler ends with this process, which accepts no more and ends when its other handlers are done"
        else:
            fate = f"its handler can't be ended: it runs on, maybe beside its retry ({stuck} such handlers now)"
            if not replaced:
                fate += "; no other thread replaces it: this process has too many of them. Restart it"
        logger.error(
            "%s has exceeded its time limit of %g s, and %s",
            late.dispatcher.named(task.request, task.function.name), task.limit, fate,
            extra=late.dispatcher.keys(task.request, task.function.name),
        )  # fmt: skip
        self._settle(late, seconds, stack)
        self._state.on_stuck(stuck)


class Backlog:
    """Tasks that wait here for a thread, and are requeued when another worker may be free to run them.

    RabbitMQ's prefetch bounds the deliveries of one consumer; a bound for several together needs ``global`` in
    ``basic.qos``, which newer versions refuse (https://www.rabbitmq.com/docs/consumer-prefetch). So a server of several
    queues may hold a task of one queue while tasks of another keep all its threads busy. A task that has waited for a
    second is requeued, as a copy, if its queue is empty and has another consumer. A queue that is not empty shows that
    no other worker is free: the task would only lose its place. Only the I/O thread may call it, except for `begin`.
    """

    def __init__(self, state: State, replies: Replies, queues: Collection[str]) -> None:
        self._state = state
        self._replies = replies
        self._queues = frozenset(queues)
        self._waiting: dict[int, tuple[str, Delivery, float]] = {}
        self._polling = False

    def add(self, queue: str, delivery: Delivery) -> None:
        """Add a delivery that waits for a thread, if its queue is one of these."""
        if queue in self._queues:
            self._waiting[id(delivery)] = queue, delivery, time.monotonic()
            if not self._polling:
                self._state.connection.run(self._poll())

    def begin(self, queue: str, delivery: Delivery) -> bool:
        """Remove a delivery that starts now; return False if it was requeued instead. Any thread."""
        return queue not in self._queues or self._waiting.pop(id(delivery), None) is not None

    async def _poll(self) -> None:
        self._polling = True
        try:
            while self._waiting:
                await self._state.connection.pause(_POLL)
                for queue, channel in {queue: delivery.channel for queue, delivery in self._overdue()}.items():
                    # The queue was deleted: its consumer handles that.
                    with contextlib.suppress(ChannelClosed):
                        self._requeue(await channel.inspect(queue))
        finally:
            self._polling = False

    def _requeue(self, state: QueueState) -> None:
        if state.messages or state.consumers < 2:  # noqa: PLR2004 - another one than this
            return
        for queue, delivery in self._overdue():
            if queue == state.name and self._waiting.pop(id(delivery), None) is not None:
                logger.info("queue %s: task requeued for another worker: all threads are busy here", queue)
                self._replies.keep(requeued(queue, delivery.properties, delivery.body), delivery)

    def _overdue(self) -> list[tuple[str, Delivery]]:
        long_ago = time.monotonic() - _PATIENCE
        # Without those of a lost connection: the broker has requeued them.
        return [
            (queue, delivery)
            for queue, delivery, since in list(self._waiting.values())
            if since <= long_ago and not _is_gone(delivery)
        ]


def _liveness_messages(unacked: Collection[Delivery]) -> Iterator[tuple[Message, Properties]]:
    """Yield a liveness message for each caller whose calls ask for one (header ``alive``), and a call's properties."""
    callers: defaultdict[str, list[str]] = defaultdict(list)
    asking: dict[str, Properties] = {}
    for delivery in unacked:
        properties = delivery.properties
        asked = (properties.headers or {}).get(WANTS_ALIVE) is True
        reply_to, identity = properties.reply_to, properties.correlation_id
        # pika gives bytes for text that is not UTF-8.
        if asked and reply_to and isinstance(reply_to, str) and isinstance(identity, str):
            callers[reply_to].append(identity)
            asking[reply_to] = properties
    for reply_to, identities in callers.items():
        # Our clients, which ask, have reply queues that the broker named, and no program can declare another one with
        # such a name. Any other queue may be one of tasks.
        if not named_by_broker(reply_to):
            continue
        for body in pack_names(identities):
            ours = Properties(
                content_type=MSGPACK,
                delivery_mode=1,
                # An old one is useless, and must not pile up in the queue of a caller that does not read.
                expiration=str(int(LIVENESS_INTERVAL * 1000)),
                type=ALIVE,
            )
            yield Message(reply_to, ours, body), asking[reply_to]


def _identity(queue: str, delivery: Delivery) -> tuple[str, str] | None:
    """Return the key of a message that may come again: its queue and its id; None without an id."""
    properties = delivery.properties
    identity = properties.message_id or properties.correlation_id
    return (queue, identity) if isinstance(identity, str) else None


def _is_gone(delivery: Delivery) -> bool:
    """Return whether the broker has requeued the delivery, or will soon."""
    return not delivery.channel.is_open


def _stack(thread: int) -> str | None:
    """Return the stack of a thread; None if it has just ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and the only way
    return None if frame is None else "".join(traceback.format_stack(frame))
