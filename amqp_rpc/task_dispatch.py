"""From a task's delivery to what becomes of it: it runs, is tried again later, or is a dead letter. Pure.

Whatever bytes come in, a `TaskJob` or an `Answer` comes out, and never an exception: nothing that was accepted is lost.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

from amqp_rpc.codec import text_of
from amqp_rpc.context import handling
from amqp_rpc.delays import LONGEST_DELAY, units
from amqp_rpc.dispatch import PLAIN, Dispatcher, ran, traceback_of
from amqp_rpc.envelope import (
    APPLICATION,
    RESULT,
    Message,
    Properties,
    Request,
    again_properties,
    copied,
    retry_properties,
    without_broker_headers,
)
from amqp_rpc.errors import AmqpRpcError, CodecError, Expired, MaybeExecuted, Reject, Retry, Undecodable
from amqp_rpc.failures import describe_raised, describe_verdict
from amqp_rpc.jobs import Answer
from amqp_rpc.policy import Policy
from amqp_rpc.records import LONGEST_ERROR, Record, State
from amqp_rpc.service import Function
from amqp_rpc.settings import DEFAULT_CLOCK_SKEW
from amqp_rpc.time_limits import exceeded, within

logger = logging.getLogger(__name__)

#: Workers that may die with one task, before it is a dead letter.
MOST_CRASHES = 5
#: How often a quorum queue has got a message back: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
_DELIVERY_COUNT = "x-delivery-count"
#: Units of delay of a copy at least: the broker has the acknowledgement long before.
_SOON = 5


class TaskDispatcher(Dispatcher):
    """The tasks of one queue, ready for deliveries; the arguments are those of `Dispatcher`, and one more.

    Args:
        records: Whether a store of results is told what becomes of the tasks.
    """

    def __init__(
        self,
        queue: str,
        functions: dict[str, Function],
        *,
        max_message_size: int,
        tracebacks: bool,
        clock: Callable[[], float] = time.time,
        clock_skew: float = DEFAULT_CLOCK_SKEW,
        records: bool = False,
    ) -> None:
        super().__init__(
            queue,
            functions,
            max_message_size=max_message_size,
            tracebacks=tracebacks,
            clock=clock,
            clock_skew=clock_skew,
        )
        self._records = records

    def accept(self, properties: Properties, body: bytes, *, redelivered: bool) -> TaskJob | Answer:  # type: ignore[override] # tasks have jobs of their own
        """Return the job that a delivery asks for, or what becomes of it where there is none to run.

        Args:
            properties: The delivery's, as they came.
            body: The delivery's.
            redelivered: Whether the broker gave it to a worker before.
        """
        request = Request.read(properties, body, redelivered=redelivered)
        # Before it is read: reading it may be what ends workers.
        if redelivered and (ended := self._crashed(request, properties)) is not None:
            return ended
        try:
            function = self._find(request)
            if self.expired(request):
                raise Expired(f"its time was over before a worker took it: {function.name}() did not run")  # noqa: TRY301 - one place turns every refusal into a dead letter
            if request.content_encoding not in PLAIN:
                raise Undecodable(f"content encoding {request.content_encoding!r} is not known here; send none")  # noqa: TRY301 - as above
            args, kwargs = self._arguments(request, function)
        except AmqpRpcError as error:
            return self._dead(request, f"{type(error).__name__}: {error}", "refused", error=error)
        # Nothing that a message holds may end the thread that reads messages.
        except Exception as error:
            logger.exception("A task for %s could not be read; it is a dead letter", request.function)
            reason = f"it could not be read: {error!r}"
            return self._dead(request, reason, "refused", error=Undecodable(reason))
        logger.info("Task %s() [%s] received", function.name, request.message_id)
        return TaskJob(self, request, properties, function, args, kwargs)

    def succeeded(self, request: Request, function: Function, result: Any, seconds: float) -> Answer:
        """Return what becomes of a task that has run; it has failed where its result is wanted, and can't be sent."""
        reply = None
        if self._records or request.reply_to is not None:
            try:
                reply = self._result(request, function, result)
            except CodecError as error:
                logger.warning(
                    "Task %s() [%s] failed after %.3f s: %s", function.name, request.message_id, seconds, error
                )
                refused = Answer(self._error(request, ran(error)), None, "raised")
                return self._recorded(request, function, refused, seconds=seconds, error=f"{error}")
        logger.info("Task %s() [%s] succeeded in %.3f s", function.name, request.message_id, seconds)
        return self._recorded(request, function, Answer(reply, None, "result"), seconds=seconds)

    def repeated(self, properties: Properties, body: bytes, record: Record) -> Answer:
        """Return what becomes of a task that has succeeded before, by the store's word: it is not run again."""
        request = Request.read(properties, body, redelivered=True)
        logger.warning(
            "Task %s() [%s] had succeeded when its worker died or lost its connection; it is not run again",
            record.function, record.id,
        )  # fmt: skip
        reply = None
        if request.reply_to is not None and record.body is not None:
            said = Properties(
                content_type=record.content_type,
                correlation_id=request.correlation_id,
                type=record.kind,
                delivery_mode=1,
                app_id=APPLICATION,
            )
            reply = Message(request.reply_to, said, record.body)
        return Answer(reply, None, "repeated")

    def started(self, request: Request, function: Function) -> Record | None:
        """Return what the store is told of a task that begins; None where there is no store, or the task has no id."""
        now = self._clock()
        return self._record(request, function.name, "STARTED", now, started=now)

    def failed(
        self, request: Request, properties: Properties, function: Function, error: BaseException, seconds: float
    ) -> Answer:
        """Return what becomes of a task whose handler raised: another try later, or a dead letter."""
        policy = function.task
        assert policy is not None
        said = f"{type(error).__name__}: {text_of(error)}"
        delay = _until_retry(policy, request, error)
        if delay is not None:
            logger.warning(
                "Task %s() [%s] failed after %.3f s (%s); retry %d of %d in %.1f s",
                function.name, request.message_id, seconds, said, request.attempt, policy.retries, delay,
            )  # fmt: skip
            again = retry_properties(request, properties, error=said)
            answer = Answer(None, None, "retried", again=Message(policy.queue, again, request.body, units(delay)))
            return self._recorded(request, function, answer, seconds=seconds, error=said, delay=delay)
        logger.error(
            "Task %s() [%s] failed after %.3f s (%s); it is a dead letter",
            function.name, request.message_id, seconds, said,
        )  # fmt: skip
        reason = f"rejected: {text_of(error)}" if isinstance(error, Reject) else said
        return self._dead(request, reason, "failed", function=function, error=error, seconds=seconds)

    def unanswered(self, properties: Properties, body: bytes, error: Exception) -> Answer:
        """Return the end of a task that met a defect of ours, before it ran or after.

        Args:
            properties: The delivery's, as they came.
            body: The delivery's.
            error: What the defect raised.
        """
        request = Request.read(properties, body, redelivered=False)
        reason = f"it could not be answered, and may have run: {text_of(repr(error))}"
        return self._dead(request, reason, "failed", error=MaybeExecuted(reason))

    def _crashed(self, request: Request, properties: Properties) -> Answer | None:
        """Return what becomes of a task that a worker died with, or lost its connection with; None where it runs."""
        counted = _delivery_count(properties)
        crashes = request.crashes + (1 if counted is None else counted)
        if crashes >= MOST_CRASHES:
            reason = f"{crashes} workers died, one after another, while they had it; it may be what ends them"
            return self._dead(request, reason, "crashed", error=MaybeExecuted(reason), crashes=crashes)
        logger.warning("A worker died with task %s() [%s]; it is tried again", request.function, request.message_id)
        if counted is not None and crashes == 1:
            return None
        # A classic queue counts nothing: a copy that goes back is counted, since a worker that is killed can't count.
        # It comes a moment later, when this one is acknowledged: else whoever it kills leaves both behind.
        # A quorum queue counts, but gives the next worker all at once that the last one died with: the one that kills,
        # and those that were only beside it. The second time they are parted, each coming back at a time of its own.
        # The broker must not drop it when its time is over, as it may a call: it is a dead letter then.
        again = again_properties(request, properties, now=self._clock())
        kept = copied(again, headers={**(again.headers or {}), "crashes": crashes}, delivery_mode=2, expiration=None)
        return Answer(None, None, "again", again=Message(self.queue, kept, request.body, _apart(crashes)))

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
        """Return the end of a task that can't be done; it did not run where there is no function."""
        details: dict[str, Any] = {
            "attempt": request.attempt,
            "crashes": request.crashes if crashes is None else crashes,
        }
        if function is not None:
            details["traceback"] = traceback_of(error)
        else:
            logger.error("Task %s() [%s] is a dead letter: %s", request.function, request.message_id, reason)
        reply = None
        if request.reply_to is not None or self._records:
            if isinstance(error, AmqpRpcError) and function is None:
                described = describe_verdict(error)
            else:
                described = describe_raised(error, traceback=details.get("traceback"))
            reply = self._error(request, described)
        answer = Answer(reply, reason, outcome, details=details)
        return self._recorded(request, function, answer, seconds=seconds, error=reason)

    def _recorded(
        self,
        request: Request,
        function: Function | None,
        answer: Answer,
        *,
        seconds: float | None,
        error: str | None = None,
        delay: float | None = None,
    ) -> Answer:
        """Return the answer with what the store is told of it, and without the reply where nobody asked for one."""
        if self._records:
            reply, now = answer.reply, self._clock()
            state: State = "RETRY"
            if reply is not None:
                state = "SUCCESS" if reply.properties.type == RESULT else "FAILURE"
            answer.record = self._record(
                request,
                function.name if function is not None else request.function or "",
                state,
                now,
                started=None if seconds is None else now - seconds,
                next_try=None if delay is None else now + delay,
                error=None if error is None else text_of(error)[:LONGEST_ERROR],
                reply=reply,
            )
            if request.reply_to is None:
                answer.reply = None
        return answer

    def _record(
        self,
        request: Request,
        function: str,
        state: State,
        now: float,
        *,
        started: float | None,
        next_try: float | None = None,
        error: str | None = None,
        reply: Message | None = None,
    ) -> Record | None:
        if not self._records or request.message_id is None:
            return None
        return Record(
            id=request.message_id,
            state=state,
            function=function,
            queue=self.queue,
            attempt=request.attempt,
            updated=now,
            started=started,
            next_try=next_try,
            error=error,
            kind=None if reply is None else reply.properties.type,
            content_type=None if reply is None else reply.properties.content_type,
            body=None if reply is None else reply.body,
        )


def dispatchers(
    functions: dict[str, dict[str, Function]],
    tasks: dict[str, dict[str, Function]],
    *,
    max_message_size: int,
    tracebacks: bool,
    clock_skew: float,
    records: bool,
) -> dict[str, Dispatcher | TaskDispatcher]:
    """Return who sees to the deliveries of each queue: those of calls, and those of tasks; the rest as `Dispatcher`."""
    calls = {
        queue: Dispatcher(queue, each, max_message_size=max_message_size, tracebacks=tracebacks, clock_skew=clock_skew)
        for queue, each in functions.items()
    }
    return calls | {
        queue: TaskDispatcher(
            queue,
            each,
            max_message_size=max_message_size,
            tracebacks=True,
            clock_skew=clock_skew,
            records=records,
        )
        for queue, each in tasks.items()
    }


def given_back(queue: str, properties: Properties, body: bytes) -> Message:
    """Return a task as it goes back to its queue by a worker that has not begun it: nothing of it is changed.

    The workers that it ended before stay counted, though the broker counts the copy anew.
    """
    headers = without_broker_headers(properties.headers)
    if counted := _delivery_count(properties):
        before = Request.read(properties, body, redelivered=True).crashes
        headers["crashes"] = before + counted
    return Message(queue, copied(properties, headers=headers, delivery_mode=2, expiration=None), body)


def _delivery_count(properties: Properties) -> int | None:
    """Return how often a worker died with it, as a quorum queue counts; None where nobody does."""
    counted = (properties.headers or {}).get(_DELIVERY_COUNT)
    return counted if isinstance(counted, int) else None


def _apart(crashes: int) -> int:
    """Return the units of delay after so many workers died with a task: by chance, and the more the wider."""
    return _SOON + random.randint(0, _SOON * 2 ** (crashes - 1))  # noqa: S311 - no secret


def _until_retry(policy: Policy, request: Request, error: BaseException) -> float | None:
    """Return the seconds until a task is tried again; None where it is not."""
    if isinstance(error, Reject) or request.attempt > policy.retries:
        return None
    if isinstance(error, Retry):
        return policy.delay(request.attempt) if error.after is None else min(max(0.0, error.after), LONGEST_DELAY)
    # SystemExit of a handler ends the task's try, not the worker.
    worth = isinstance(error, policy.retry_for) or not isinstance(error, Exception)
    return policy.delay(request.attempt) if worth else None


class TaskJob:
    """One task that is ready to run: a function and its converted arguments.

    Where it has a time limit, somebody else may have settled it when its handler ends: see `claim`.
    """

    __slots__ = ("_dispatcher", "args", "claim", "function", "kwargs", "limit", "properties", "request")

    def __init__(
        self,
        dispatcher: TaskDispatcher,
        request: Request,
        properties: Properties,
        function: Function,
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> None:
        self._dispatcher = dispatcher
        self.request = request
        self.properties = properties
        self.function = function
        self.args = args
        self.kwargs = kwargs
        #: Seconds that it may take; None for no limit.
        self.limit = function.task.time_limit if function.task is not None else None
        #: Returns, once, whether what becomes of the task is still to be said, and not said already: who asks says it.
        self.claim: Callable[[], bool] | None = None

    def started(self) -> Record | None:
        """Return what a store of results is told now that it begins; None where there is none."""
        return self._dispatcher.started(self.request, self.function)

    def run(self) -> Answer | None:
        """Call the function and return what becomes of the task, whatever the function raises; None past its limit."""
        began = time.monotonic()
        try:
            with handling(self.function.name, self.request, self.limit):
                result = self.function.call(*self.args, **self.kwargs)
        except BaseException as error:
            return self._failed(error, began)
        return self._succeeded(result, began)

    async def run_async(self) -> Answer | None:
        """Await the ``async def`` function, which is cancelled at its limit, and return what becomes of the task."""
        began = time.monotonic()
        try:
            with handling(self.function.name, self.request, self.limit):
                called = self.function.call(*self.args, **self.kwargs)
                result = await (called if self.limit is None else within(self.limit, called, self.function.name))
        except BaseException as error:
            return self._failed(error, began)
        return self._succeeded(result, began)

    def overrun(self, seconds: float, stack: str | None) -> Answer:
        """Return what becomes of it when its time is over and its handler has not ended; who claimed it asks.

        Args:
            seconds: That it has run for.
            stack: Where its handler is; None where that is not known.
        """
        assert self.limit is not None
        error = exceeded(self.function.name, self.limit)
        if stack is not None:
            error.add_note(f"It could not be ended, and was here:\n{stack}")
        return self._dispatcher.failed(self.request, self.properties, self.function, error, seconds)

    def _succeeded(self, result: Any, began: float) -> Answer | None:
        if self._is_late("with a result", began):
            return None
        return self._dispatcher.succeeded(self.request, self.function, result, time.monotonic() - began)

    def _failed(self, error: BaseException, began: float) -> Answer | None:
        if self._is_late(f"with {type(error).__name__}", began):
            return None
        seconds = time.monotonic() - began
        return self._dispatcher.failed(self.request, self.properties, self.function, error, seconds)

    def _is_late(self, how: str, began: float) -> bool:
        if self.claim is None or self.claim():
            return False
        logger.warning(
            "Task %s() [%s] has ended %s after %.3f s; that is dropped, since it failed at its time limit of %g s",
            self.function.name, self.request.message_id, how, time.monotonic() - began, self.limit,
        )  # fmt: skip
        return True
