"""Decides the end of a task or an event: run, retried later, kept apart after a crash, or dead-lettered. Pure.

Any bytes end in a `TaskInvocation` or an `Answer`, and never in an exception: no accepted task is lost.
An event is a task whose body is the payload, and which has no caller to reply to.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from amqp_rpc.errors import AmqpRpcError, CodecError, Expired, MaybeExecuted, NotAuthorized, Reject, Retry, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK, packed
from amqp_rpc.message.envelope import RESULT, Message, Properties, Request, read_event, republished
from amqp_rpc.message.failures import describe_raised, describe_verdict
from amqp_rpc.message.headers import ATTEMPT, CRASHES, LAST_ERROR, TRACEBACK, delivery_count
from amqp_rpc.message.text import bounded_logger, text_of
from amqp_rpc.message.timing import backoff
from amqp_rpc.message.topology import LONGEST_DELAY, units
from amqp_rpc.results.record import LONGEST_ERROR, Key, Record, State, fingerprint, is_ours
from amqp_rpc.server.invoke import (
    Answer,
    Dispatcher,
    HandlerOutcome,
    Invocation,
    NotAResult,
    Settings,
    exc_info,
    exceeded,
    raised,
    ran,
    traceback_of,
)
from amqp_rpc.service.catalog import dead_letter_arguments
from amqp_rpc.service.function import Function
from amqp_rpc.service.policy import Policy
from amqp_rpc.service.signature import EventSignature

logger: logging.Logger = bounded_logger(__name__)

#: Workers that may die with one task before it is dead-lettered. A task that kills workers costs as many of them. One
#: that only ran beside such tasks must be unlucky as often: five were too few for 100 000 tasks and a worker that dies
#: each second.
MOST_CRASHES = 8
#: Crashes from which on a task is suspected of killing workers.
SUSPECTED = 2
#: From RabbitMQ 4.0 on a quorum queue drops a message that it requeued 20 times; this many are close to that.
_ABOUT_TO_BE_DROPPED = 15
#: The least units of delay of a copy: the broker has the ack long before.
_SOON = 5
#: Characters of the error in a retry's header.
_LONGEST_LAST_ERROR = 1000


@dataclass(slots=True, eq=False)
class TaskInvocation(Invocation):
    """One attempt of a task that is ready to run."""

    properties: Properties = field(kw_only=True)


class Suspects:
    """Lets a worker run one task at a time of those that are suspected of killing workers.

    Most of them only ran beside the one that does. Two of them side by side would be counted together again, and in the
    end be dead-lettered together.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: TaskInvocation | None = None

    def enter(self, task: TaskInvocation) -> bool:
        """Return whether the task may run now; False while another one runs."""
        with self._lock:
            if self._running is not None:
                return False
            self._running = task
            return True

    def leave(self, task: TaskInvocation) -> None:
        """Let another one run; harmless if the task has left before, at its time limit."""
        with self._lock:
            if self._running is task:
                self._running = None


class TaskDispatcher(Dispatcher):
    """The tasks of one queue. The suspects are those of all the queues of a worker, or, with None, of this one."""

    kind = "Task"

    def __init__(
        self, queue: str, functions: dict[str, Function], settings: Settings, suspects: Suspects | None = None
    ) -> None:
        super().__init__(queue, functions, settings)
        self._records = settings.records
        self._suspects = suspects or Suspects()
        #: The queue that retries come back to.
        self.home = queue
        #: The arguments of its dead-letter queue.
        self.dead_letter_arguments: dict[str, Any] = dead_letter_arguments(functions)

    @property
    def time_limits(self) -> dict[str, float | None]:
        """The time limits of its functions, by their names."""
        return {name: each.task.time_limit for name, each in self._functions.items() if each.task is not None}

    def accept(self, properties: Properties, body: bytes, *, redelivered: bool) -> TaskInvocation | Answer:
        """Return the invocation for a delivery, or the end of a task that can't run."""
        request = Request.read(properties, body, redelivered=redelivered)
        # Before it is decoded: the decoding may be what kills workers.
        if redelivered and request.unreadable is None and (ended := self._crashed(request, properties)) is not None:
            return ended
        try:
            request.check()
            function = self._find(request, properties)
            if self._expired(request):
                raise Expired(f"its time was over before a worker received it: {function.name}() did not run")  # noqa: TRY301 - one place turns every refusal into a dead letter
            codec.check_encoding(request.content_encoding)
            args, kwargs = self._task_arguments(request, function, properties)
        except AmqpRpcError as error:
            outcome = "unauthorized" if isinstance(error, NotAuthorized) else "refused"
            return self._dead(request, f"{type(error).__name__}: {error}", outcome, error=error)
        # Nothing in a message may end the thread that reads messages.
        except Exception as error:
            if (times := self._refusals.again(repr(error))) is not None:
                logger.exception(
                    "queue %s: task %s() could not be read; dead-lettered%s", self.queue, request.function, times
                )
            reason = f"it could not be read: {error!r}"
            return self._dead(request, reason, "refused", error=Undecodable(reason))
        assert function.task is not None
        task = TaskInvocation(request, function, args, kwargs, function.task.time_limit, properties=properties)
        if request.crashes >= SUSPECTED and not self._suspects.enter(task):
            # `_crashed` has handled a crash that this very delivery counted.
            return Answer(None, None, "again", again=requeued(self.home, properties, body, delay=apart(SUSPECTED)))
        if not function.task.result:
            request.reply_to = None
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s received", self.named(request, function.name), extra=self.keys(request, function.name))
        return task

    def started(self, task: TaskInvocation) -> Record | None:
        """Return the record of a task that starts; None without a store or an id."""
        if not self._recorded(task.function):
            return None
        now = self._clock()
        return self._record(task.request, task.function.name, "STARTED", now, started=now)

    def record_key(self, properties: Properties, body: bytes) -> Key | None:
        """Return the key of a redelivered task's record; None if no record says that it has succeeded.

        Ids of other programs are not looked up: these may number their tasks 1, 2, 3 again at each start.
        """
        if not self._records or not is_ours(properties.message_id):
            return None
        request = Request.read(properties, body, redelivered=True)
        assert request.message_id is not None
        return request.message_id, self._fingerprint(request)

    def answer(self, task: TaskInvocation, outcome: HandlerOutcome, *, gone: bool = False) -> Answer:
        """Return the end of a task that has run: its result, a retry later, or a dead letter.

        A task that is ``gone`` was given to another worker by the broker: its failure here is not logged.
        """
        if outcome.error is None:
            return self._succeeded(task, outcome)
        return self._failed(task, outcome.error, outcome.seconds, gone=gone)

    def overrun(self, task: TaskInvocation, seconds: float, stack: str | None) -> Answer:
        """Return the end of a task that exceeds its time limit, and whose handler runs on, as the stack shows."""
        assert task.limit is not None
        error = exceeded(task.function.name, task.limit)
        if stack is not None:
            error.add_note(f"It could not be ended, and was here:\n{stack}")
        self.leave(task)
        return self.answer(task, HandlerOutcome(None, error, seconds))

    def leave(self, task: TaskInvocation) -> None:
        """Let the next suspected task run; called for each accepted task, once its handler has ended."""
        if task.request.crashes >= SUSPECTED:
            self._suspects.leave(task)

    def repeated(self, properties: Properties, body: bytes, record: Record) -> Answer:
        """Return the end of a redelivered task that the store knows to have succeeded: it is not run again."""
        request = Request.read(properties, body, redelivered=True)
        logger.warning(
            "%s had succeeded when its worker died or lost its connection; it is not run again",
            self.named(request, record.function), extra=self.keys(request, record.function),
        )  # fmt: skip
        reply = None
        if request.reply_to is not None and record.body is not None:
            reply = self._reply(request, record.kind or RESULT, record.body)
            reply.properties.content_type = record.content_type
        return Answer(reply, None, "repeated")

    def unanswered(self, properties: Properties, body: bytes, error: Exception) -> Answer:
        """Return the end of a task that met a defect of this library, before it ran or after."""
        request = Request.read(properties, body, redelivered=False)
        reason = f"it could not be answered, and may have run: {text_of(repr(error))}"
        return self._dead(request, reason, "failed", error=MaybeExecuted(reason))

    def _task_arguments(
        self, request: Request, function: Function, _properties: Properties
    ) -> tuple[list[Any], dict[str, Any]]:
        return self._arguments(request, function)

    def _succeeded(self, task: TaskInvocation, outcome: HandlerOutcome) -> Answer:
        request, function, seconds = task.request, task.function, outcome.seconds
        reply = None
        if request.reply_to is not None or self._recorded(function):
            try:
                reply = self._result(request, function, outcome.result)
            # A wanted result that can't be sent is a failure.
            except CodecError as error:
                subject, keys = self.named(request, function.name), self.keys(request, function.name)
                logger.error("%s failed after %.3f s: %s", subject, seconds, error, extra=keys)  # noqa: TRY400 - the text has all
                refused = Answer(self._error(request, ran(error)), None, "raised")
                return self._with_record(refused, request, function, seconds=seconds, error=f"{error}")
        if logger.isEnabledFor(logging.INFO):
            subject, keys = self.named(request, function.name), self.keys(request, function.name)
            logger.info("%s succeeded in %.3f s", subject, seconds, extra=keys)
        return self._with_record(Answer(reply, None, "result"), request, function, seconds=seconds)

    def _failed(self, task: TaskInvocation, error: BaseException, seconds: float, *, gone: bool) -> Answer:
        request, function, policy = task.request, task.function, task.function.task
        assert policy is not None
        text = f"{type(error).__name__}: {text_of(error)}"
        delay = _until_retry(policy, request, error)
        level = logging.DEBUG if gone else logging.ERROR if delay is None else logging.WARNING
        if logger.isEnabledFor(level):
            fate = "dead-lettered" if delay is None else f"retry {request.attempt} of {policy.retries} in {delay:.1f} s"
            logger.log(
                level, "%s failed after %.3f s (%s); %s",
                self.named(request, function.name), seconds, raised(error), fate,
                exc_info=exc_info(error), extra=self.keys(request, function.name),
            )  # fmt: skip
        if delay is not None:
            # Each attempt has its own count of the workers that died with it.
            added = {ATTEMPT: request.attempt + 1, LAST_ERROR: text[:_LONGEST_LAST_ERROR]}
            again = republished(task.properties, added, without={CRASHES})
            answer = Answer(None, None, "retried", again=Message(self.home, again, request.body, units(delay)))
            return self._with_record(answer, request, function, seconds=seconds, error=text, delay=delay)
        reason = f"rejected: {text_of(error)}" if isinstance(error, Reject) else text
        return self._dead(request, reason, "failed", function=function, error=error, seconds=seconds)

    def _crashed(self, request: Request, properties: Properties) -> Answer | None:
        """Return the answer for a task whose last worker died or lost its connection; None if it runs now."""
        counted = delivery_count(properties.headers)
        crashes = deaths(request.crashes, properties)
        if crashes >= MOST_CRASHES:
            reason = (
                f"{crashes} workers died, one after another, while they had it; it may be what kills them, or take "
                "longer than the broker's consumer_timeout"
            )
            return self._dead(request, reason, "crashed", error=MaybeExecuted(reason), crashes=crashes)
        logger.warning(
            "%s: its worker died, was stopped, or lost its connection, or had it for longer than the broker's "
            "consumer_timeout; retrying it",
            self.named(request), extra=self.keys(request),
        )  # fmt: skip
        if counted is not None and crashes < SUSPECTED:
            return None
        # A classic queue counts nothing: the requeued copy is counted, since a worker that is killed can't count.
        # It arrives a moment later, after this delivery's ack: else a worker that it kills leaves both behind.
        # A quorum queue counts, but gives the next worker at once everything that the last one died with: the task that
        # kills, and those beside it. The second time they are separated: each comes back at a time of its own.
        # The broker must not drop the copy at its expiration, as it may drop a call: it is dead-lettered then.
        again = republished(properties, {CRASHES: crashes})
        return Answer(None, None, "again", again=Message(self.home, again, request.body, apart(crashes)))

    def _dead(
        self,
        request: Request,
        reason: str,
        outcome: str,
        *,
        error: BaseException,
        function: Function | None = None,
        crashes: int | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Return the answer for a dead-lettered task; without a function, it did not run."""
        details: dict[str, Any] = {ATTEMPT: request.attempt, CRASHES: request.crashes if crashes is None else crashes}
        if function is not None:
            details[TRACEBACK] = traceback_of(error)
        else:
            # One that crashed its workers is no bad message of which there may be a flood.
            times = self._refusals.again(reason) if outcome != "crashed" else ""
            if times is not None:
                logger.error("%s dead-lettered: %s%s", self.named(request), reason, times, extra=self.keys(request))
        reply = None
        if request.reply_to is not None or self._recorded(function):
            if isinstance(error, AmqpRpcError) and function is None:
                described = describe_verdict(error, earlier=request.may_have_run)
            else:
                described = describe_raised(error, traceback=details.get(TRACEBACK))
            reply = self._error(request, described)
        answer = Answer(reply, reason, outcome, details=details)
        return self._with_record(answer, request, function, seconds=seconds, error=reason)

    def _recorded(self, function: Function | None) -> bool:
        """Return whether the store keeps a function's tasks; None stands for an unknown function."""
        return self._records and (function is None or function.task is None or function.task.result)

    def _with_record(
        self,
        answer: Answer,
        request: Request,
        function: Function | None,
        *,
        seconds: float | None,
        error: str | None = None,
        delay: float | None = None,
    ) -> Answer:
        """Add the task's record to an answer, and remove the reply if the task has no address for one."""
        if not self._recorded(function):
            return answer
        reply, now = answer.reply, self._clock()
        state: State = "RETRY"
        body: dict[str, Any] = {}
        if reply is not None:
            kind = reply.properties.type
            state = "SUCCESS" if kind == RESULT else "FAILURE"
            body = {"kind": kind, "content_type": reply.properties.content_type, "body": reply.body}
        answer.record = self._record(
            request,
            function.name if function is not None else request.function or "",
            state,
            now,
            started=None if seconds is None else now - seconds,
            next_try=None if delay is None else now + delay,
            error=None if error is None else text_of(error)[:LONGEST_ERROR],
            **body,
        )
        if request.reply_to is None:
            answer.reply = None
        return answer

    def _record(self, request: Request, function: str, state: State, now: float, **more: Any) -> Record | None:
        if request.message_id is None:
            return None
        key = request.message_id, self._fingerprint(request)
        return Record(*key, state, function, self.queue, request.attempt, now, **more)

    def _fingerprint(self, request: Request) -> str:
        return fingerprint(self.queue, request.function, request.said, request.body)


class EventDispatcher(TaskDispatcher):
    """The events of one subscription, whose deliveries have their topic in a header (`envelope.mark`)."""

    kind = "Event"

    def __init__(self, function: Function, settings: Settings) -> None:
        super().__init__(function.queue, {function.name: function}, settings)
        # An event has no caller that asks for its state.
        self._records = False
        self.function = function
        signature = function.signature
        assert isinstance(signature, EventSignature)
        self._signature = signature
        #: The names of the parameters for the payload and for the `Event`.
        self._payload, self._event = signature.roles()

    def asynchronous(self, properties: Properties) -> bool:  # noqa: ARG002 - the same for all
        """Return whether the function is an ``async def`` one."""
        return self.function.asynchronous

    def _crashed(self, request: Request, properties: Properties) -> Answer | None:
        request.function = self.function.name
        return super()._crashed(request, properties)

    def _find(self, request: Request, properties: Properties) -> Function:
        # An event's type is its publisher's, and no function's name.
        request.function = self.function.name
        return super()._find(request, properties)

    def _task_arguments(
        self, request: Request, _function: Function, properties: Properties
    ) -> tuple[list[Any], dict[str, Any]]:
        arguments: dict[str, Any] = {}
        if self._payload is not None:
            raw = self._signature.takes_bytes(self._payload)
            value = codec.decode(request.body, request.content_type, limit=self._max_size, raw=raw)
            # An event without a payload has None there.
            if value is not None or not self._signature.has_default(self._payload):
                arguments[self._payload] = self._signature.payload(
                    self._payload,
                    value,
                    binary=request.content_type == MSGPACK,
                    text=not packed(request.content_type),
                )
        if self._event is not None:
            arguments[self._event] = read_event(request, properties)
        return [], arguments


def requeued(queue: str, properties: Properties, body: bytes, *, delay: int = 0) -> Message:
    """Return the copy of a task by which a worker requeues it, after a delay, before it has begun.

    Nothing of the task is changed. The copy keeps the count of crashes, since the broker counts it anew.
    """
    counted = {}
    if delivery_count(properties.headers):
        counted[CRASHES] = deaths(Request.read(properties, body, redelivered=True).crashes, properties)
    return Message(queue, republished(properties, counted), body, delay)


def deaths(before: int, properties: Properties) -> int:
    """Return how many workers died with a task that is redelivered; ``before`` is the number in its header.

    A quorum queue counts each requeue, and a broker that stops delivers the task to one worker after another as it
    closes their connections. None of them has begun it: from `SUSPECTED` on a worker begins no redelivered task, but
    requeues a copy. So no more than one crash is counted then, and up to `SUSPECTED` before.
    """
    counted = delivery_count(properties.headers)
    return before + (1 if counted is None else min(counted, max(1, SUSPECTED - before)))


def about_to_be_dropped(properties: Properties) -> bool:
    """Return whether the broker may drop a message after a few more requeues."""
    return (delivery_count(properties.headers) or 0) >= _ABOUT_TO_BE_DROPPED


def apart(crashes: int) -> int:
    """Return the units of delay after so many crashes: random, 0.5 to 1, 2.5 and then 8.5 seconds.

    Without it, tasks that only ran beside one that kills workers would come back with it each time, and be counted with
    it.
    """
    # Two doublings a crash, and a jitter of the whole wait: up to 0.5, 2 and 8 seconds.
    return _SOON + units(backoff(2 * crashes - 1, first=0.25, most=4.0, jitter=1.0))


def _until_retry(policy: Policy, request: Request, error: BaseException) -> float | None:
    """Return the seconds until a task is retried; None if it is not."""
    if isinstance(error, Reject | NotAResult) or request.attempt > policy.retries:
        return None
    if isinstance(error, Retry):
        return policy.delay(request.attempt) if error.after is None else min(error.after, LONGEST_DELAY)
    # SystemExit of a handler ends the task's attempt, not the worker.
    worth = isinstance(error, policy.retry_for) or not isinstance(error, Exception)
    return policy.delay(request.attempt) if worth else None
