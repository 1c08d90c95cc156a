"""From a task's delivery to what becomes of it: it runs, is tried again later, or is a dead letter. Pure.

Whatever bytes come in, a `TaskJob` or an `Answer` comes out, and never an exception: nothing that was accepted is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from amqp_rpc.errors import AmqpRpcError, CodecError, Expired, MaybeExecuted, Reject, Retry, Undecodable
from amqp_rpc.message.codec import PLAIN
from amqp_rpc.message.envelope import (
    APPLICATION,
    RESULT,
    Message,
    Properties,
    Request,
    republished,
)
from amqp_rpc.message.failures import describe_raised, describe_verdict
from amqp_rpc.message.headers import ATTEMPT, CRASHES, LAST_ERROR, TRACEBACK, delivery_count
from amqp_rpc.message.settings import DEFAULT_CLOCK_SKEW
from amqp_rpc.message.text import text_of
from amqp_rpc.message.topology import LONGEST_DELAY, units
from amqp_rpc.results.record import LONGEST_ERROR, Record, State
from amqp_rpc.server.calls import Dispatcher, ran, traceback_of
from amqp_rpc.server.jobs import Answer
from amqp_rpc.server.redelivery import MOST_CRASHES, SUSPECTED, Suspects, apart, deaths, given_back
from amqp_rpc.server.task_jobs import TaskJob
from amqp_rpc.service.policy import Policy
from amqp_rpc.service.registration import Function

logger = logging.getLogger(__name__)

#: Characters that a retry's header says of the error before it.
_LONGEST_LAST_ERROR = 1000


class TaskDispatcher(Dispatcher):
    """The tasks of one queue, ready for deliveries; the arguments are those of `Dispatcher`, and two more.

    Args:
        records: Whether a store of results is told what becomes of the tasks.
        suspects: Those of all the queues of a worker; None for this one's alone.
    """

    #: What the log calls them.
    kind = "Task"

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
        suspects: Suspects | None = None,
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
        self._suspects = suspects or Suspects()
        #: Where what is tried again comes back to.
        self.home = queue

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
            args, kwargs = self._taken(request, properties, function)
        except AmqpRpcError as error:
            return self._dead(request, f"{type(error).__name__}: {error}", "refused", error=error)
        # Nothing that a message holds may end the thread that reads messages.
        except Exception as error:
            logger.exception("A task for %s could not be read; it is a dead letter", request.function)
            reason = f"it could not be read: {error!r}"
            return self._dead(request, reason, "refused", error=Undecodable(reason))
        leave = None
        if request.crashes >= SUSPECTED and (leave := self._suspects.enter()) is None:
            # One that was counted by this very delivery has gone back in `_crashed`.
            return Answer(None, None, "again", again=given_back(self.home, properties, body, delay=apart(SUSPECTED)))
        if not _told(function):
            request.reply_to = None
        logger.info("%s %s() [%s] received", self.kind, function.name, request.message_id)
        return TaskJob(self, request, properties, function, args, kwargs, leave=leave)

    def _taken(
        self,
        request: Request,
        properties: Properties,  # noqa: ARG002 - an event's
        function: Function,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the function."""
        return self._arguments(request, function)

    def succeeded(self, request: Request, function: Function, result: Any, seconds: float) -> Answer:
        """Return what becomes of a task that has run; it has failed where its result is wanted, and can't be sent."""
        reply = None
        if request.reply_to is not None or (self._records and _told(function)):
            try:
                reply = self._result(request, function, result)
            except CodecError as error:
                logger.warning(
                    "%s %s() [%s] failed after %.3f s: %s",
                    self.kind,
                    function.name,
                    request.message_id,
                    seconds,
                    error,
                )
                refused = Answer(self._error(request, ran(error)), None, "raised")
                return self._recorded(request, function, refused, seconds=seconds, error=f"{error}")
        logger.info("%s %s() [%s] succeeded in %.3f s", self.kind, function.name, request.message_id, seconds)
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
        return self._record(request, function.name, "STARTED", now, started=now) if _told(function) else None

    def failed(
        self,
        request: Request,
        properties: Properties,
        function: Function,
        error: BaseException,
        seconds: float,
        *,
        gone: bool = False,
    ) -> Answer:
        """Return what becomes of a task whose handler raised: another try later, or a dead letter.

        Args:
            request: As it was read.
            properties: As they came.
            function: Which raised.
            error: What it raised.
            seconds: That it took.
            gone: Whether another worker has the task by now, which says what becomes of it: then it is not said here.
        """
        policy = function.task
        assert policy is not None
        said = f"{type(error).__name__}: {text_of(error)}"
        delay = _until_retry(policy, request, error)
        if delay is not None:
            logger.log(
                logging.DEBUG if gone else logging.WARNING,
                "%s %s() [%s] failed after %.3f s (%s); retry %d of %d in %.1f s",
                self.kind, function.name, request.message_id, seconds, said, request.attempt, policy.retries, delay,
            )  # fmt: skip
            # Each try has its own count of the workers that died with it.
            added = {ATTEMPT: request.attempt + 1, LAST_ERROR: said[:_LONGEST_LAST_ERROR]}
            again = republished(properties, added, without={CRASHES})
            answer = Answer(None, None, "retried", again=Message(self.home, again, request.body, units(delay)))
            return self._recorded(request, function, answer, seconds=seconds, error=said, delay=delay)
        logger.log(
            logging.DEBUG if gone else logging.ERROR,
            "%s %s() [%s] failed after %.3f s (%s); it is a dead letter",
            self.kind, function.name, request.message_id, seconds, said,
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
        counted = delivery_count(properties.headers)
        crashes = deaths(request.crashes, properties)
        if crashes >= MOST_CRASHES:
            reason = f"{crashes} workers died, one after another, while they had it; it may be what ends them"
            return self._dead(request, reason, "crashed", error=MaybeExecuted(reason), crashes=crashes)
        logger.warning(
            "A worker died with %s %s() [%s], lost its connection, or was stopped; it is tried again",
            self.kind.lower(), request.function, request.message_id,
        )  # fmt: skip
        if counted is not None and crashes == 1:
            return None
        # A classic queue counts nothing: a copy that goes back is counted, since a worker that is killed can't count.
        # It comes a moment later, when this one is acknowledged: else whoever it kills leaves both behind.
        # A quorum queue counts, but gives the next worker all at once that the last one died with: the one that kills,
        # and those that were only beside it. The second time they are parted, each coming back at a time of its own.
        # The broker must not drop it when its time is over, as it may a call: it is a dead letter then.
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
        """Return the end of a task that can't be done; it did not run where there is no function."""
        details: dict[str, Any] = {
            ATTEMPT: request.attempt,
            CRASHES: request.crashes if crashes is None else crashes,
        }
        if function is not None:
            details[TRACEBACK] = traceback_of(error)
        else:
            logger.error("%s %s() [%s] is a dead letter: %s", self.kind, request.function, request.message_id, reason)
        reply = None
        if request.reply_to is not None or (self._records and _told(function)):
            if isinstance(error, AmqpRpcError) and function is None:
                described = describe_verdict(error)
            else:
                described = describe_raised(error, traceback=details.get(TRACEBACK))
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
        if self._records and _told(function):
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
    suspects = Suspects()
    return calls | {
        queue: TaskDispatcher(
            queue,
            each,
            max_message_size=max_message_size,
            tracebacks=True,
            clock_skew=clock_skew,
            records=records,
            suspects=suspects,
        )
        for queue, each in tasks.items()
    }


def _told(function: Function | None) -> bool:
    """Return whether anybody is told what becomes of a function's tasks; None stands for one that is not known."""
    return function is None or function.task is None or function.task.result


def _until_retry(policy: Policy, request: Request, error: BaseException) -> float | None:
    """Return the seconds until a task is tried again; None where it is not."""
    if isinstance(error, Reject) or request.attempt > policy.retries:
        return None
    if isinstance(error, Retry):
        return policy.delay(request.attempt) if error.after is None else min(error.after, LONGEST_DELAY)
    # SystemExit of a handler ends the task's try, not the worker.
    worth = isinstance(error, policy.retry_for) or not isinstance(error, Exception)
    return policy.delay(request.attempt) if worth else None
