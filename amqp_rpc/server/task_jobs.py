"""Tasks that are ready to run: each runs a function, within its time limit, and says what becomes of the task. Pure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from amqp_rpc.message.envelope import Properties, Request
from amqp_rpc.results.record import Record
from amqp_rpc.server.jobs import Answer
from amqp_rpc.server.time_limits import exceeded, within
from amqp_rpc.service.context import handling
from amqp_rpc.service.registration import Function

logger = logging.getLogger(__name__)


class TaskAnswers(Protocol):
    """Who says what becomes of tasks: the dispatcher."""

    def started(self, request: Request, function: Function) -> Record | None:
        """Return what the store is told of a task that begins."""

    def succeeded(self, request: Request, function: Function, result: Any, seconds: float) -> Answer:
        """Return what becomes of a task that has run."""

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
        """Return what becomes of a task whose handler raised, and say so, unless another worker has it by now."""


class TaskJob:
    """One task that is ready to run: a function and its converted arguments.

    Where it has a time limit, somebody else may have settled it when its handler ends: see `claim`.
    """

    __slots__ = (
        "_dispatcher",
        "_leave",
        "args",
        "claim",
        "function",
        "gone",
        "kwargs",
        "limit",
        "properties",
        "request",
    )

    def __init__(
        self,
        dispatcher: TaskAnswers,
        request: Request,
        properties: Properties,
        function: Function,
        args: list[Any],
        kwargs: dict[str, Any],
        *,
        leave: Callable[[], None] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        #: To be called when it has ended: it is one of `redelivery.Suspects`.
        self._leave = leave
        self.request = request
        self.properties = properties
        self.function = function
        self.args = args
        self.kwargs = kwargs
        #: Seconds that it may take; None for no limit.
        self.limit = function.task.time_limit if function.task is not None else None
        #: Returns, once, whether what becomes of the task is still to be said, and not said already: who asks says it.
        self.claim: Callable[[], bool] | None = None
        #: Returns whether the broker has given it to another worker meanwhile.
        self.gone: Callable[[], bool] = lambda: False

    def started(self) -> Record | None:
        """Return what a store of results is told now that it begins; None where there is none."""
        return self._dispatcher.started(self.request, self.function)

    def run(self) -> Answer | None:
        """Call the function and return what becomes of the task, whatever the function raises; None past its limit."""
        try:
            return self._run()
        finally:
            self._ended()

    def _run(self) -> Answer | None:
        began = time.monotonic()
        try:
            with handling(self.function.name, self.request, self.limit):
                result = self.function.call(*self.args, **self.kwargs)
        except BaseException as error:
            return self._failed(error, began)
        return self._succeeded(result, began)

    async def run_async(self) -> Answer | None:
        """Await the ``async def`` function, which is cancelled at its limit, and return what becomes of the task."""
        try:
            return await self._run_async()
        finally:
            self._ended()

    async def _run_async(self) -> Answer | None:
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
        self._ended()
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
        seconds, gone = time.monotonic() - began, self.gone()
        return self._dispatcher.failed(self.request, self.properties, self.function, error, seconds, gone=gone)

    def _ended(self) -> None:
        if self._leave is not None:
            self._leave()

    def _is_late(self, how: str, began: float) -> bool:
        if self.claim is None or self.claim():
            return False
        logger.warning(
            "Task %s() [%s] has ended %s after %.3f s; that is dropped, since it failed at its time limit of %g s",
            self.function.name, self.request.message_id, how, time.monotonic() - began, self.limit,
        )  # fmt: skip
        return True
