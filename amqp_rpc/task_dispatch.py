"""From a task's delivery to what becomes of it: it runs, is tried again later, or is a dead letter. Pure.

Whatever bytes come in, a `TaskJob` or an `Answer` comes out, and never an exception: nothing that was accepted is lost.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any

from amqp_rpc.codec import text_of
from amqp_rpc.context import handling
from amqp_rpc.delays import LONGEST_DELAY, units
from amqp_rpc.dispatch import PLAIN, Dispatcher, traceback_of
from amqp_rpc.envelope import Message, Properties, Request, again_properties, copied, retry_properties
from amqp_rpc.errors import AmqpRpcError, Expired, Reject, Retry, Undecodable
from amqp_rpc.failures import describe_raised
from amqp_rpc.jobs import Answer
from amqp_rpc.policy import Policy
from amqp_rpc.service import Function

logger = logging.getLogger(__name__)

#: Workers that may die with one task, before it is a dead letter.
MOST_CRASHES = 5
#: How often a quorum queue has got a message back: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
_DELIVERY_COUNT = "x-delivery-count"
#: Units of delay of a copy at least: the broker has the acknowledgement long before.
_SOON = 5


class TaskDispatcher(Dispatcher):
    """The tasks of one queue, ready for deliveries; the arguments are those of `Dispatcher`."""

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
            return self._dead(request, f"{type(error).__name__}: {error}", "refused")
        # Nothing that a message holds may end the thread that reads messages.
        except Exception as error:
            logger.exception("A task for %s could not be read; it is a dead letter", request.function)
            return self._dead(request, f"it could not be read: {error!r}", "refused")
        logger.info("Task %s() [%s] received", function.name, request.message_id)
        return TaskJob(self, request, properties, function, args, kwargs)

    def succeeded(self, request: Request, function: Function, result: Any, seconds: float) -> Answer:
        """Return what becomes of a task that has run."""
        logger.info("Task %s() [%s] succeeded in %.3f s", function.name, request.message_id, seconds)
        return self.returned(request, function, result)

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
            return Answer(None, None, "retried", again=Message(policy.queue, again, request.body, units(delay)))
        logger.error(
            "Task %s() [%s] failed after %.3f s (%s); it is a dead letter",
            function.name, request.message_id, seconds, said,
        )  # fmt: skip
        reason = f"rejected: {text_of(error)}" if isinstance(error, Reject) else said
        return self._dead(request, reason, "failed", function=function, error=error)

    def _crashed(self, request: Request, properties: Properties) -> Answer | None:
        """Return what becomes of a task that a worker died with, or lost its connection with; None where it runs."""
        counted = (properties.headers or {}).get(_DELIVERY_COUNT)
        crashes = request.crashes + (counted if isinstance(counted, int) else 1)
        if crashes >= MOST_CRASHES:
            reason = f"{crashes} workers died, one after another, while they had it; it may be what ends them"
            return self._dead(request, reason, "crashed", crashes=crashes)
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
        function: Function | None = None,
        error: BaseException | None = None,
        crashes: int | None = None,
    ) -> Answer:
        if error is None:
            logger.error("Task %s() [%s] is a dead letter: %s", request.function, request.message_id, reason)
        details: dict[str, Any] = {
            "attempt": request.attempt,
            "crashes": request.crashes if crashes is None else crashes,
        }
        reply = None
        if error is not None and function is not None:
            details["traceback"] = traceback_of(error)
            if request.reply_to is not None:
                reply = self._error(request, describe_raised(error, traceback=details["traceback"]))
        return Answer(reply, reason, outcome, details=details)


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
    """One task that is ready to run: a function and its converted arguments."""

    __slots__ = ("_dispatcher", "args", "function", "kwargs", "properties", "request")

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

    def run(self) -> Answer:
        """Call the function and return what becomes of the task, whatever the function raises."""
        began = time.monotonic()
        try:
            with handling(self.function.name, self.request):
                result = self.function.call(*self.args, **self.kwargs)
        except BaseException as error:
            return self._failed(error, began)
        return self._dispatcher.succeeded(self.request, self.function, result, time.monotonic() - began)

    async def run_async(self) -> Answer:
        """Await the ``async def`` function and return what becomes of the task, whatever it raises."""
        began = time.monotonic()
        try:
            with handling(self.function.name, self.request):
                result = await self.function.call(*self.args, **self.kwargs)
        except BaseException as error:
            return self._failed(error, began)
        return self._dispatcher.succeeded(self.request, self.function, result, time.monotonic() - began)

    def _failed(self, error: BaseException, began: float) -> Answer:
        seconds = time.monotonic() - began
        return self._dispatcher.failed(self.request, self.properties, self.function, error, seconds)
