"""Decides the answer to a call: refused, run, or requeued after a crash; writes the reply, and settles nothing.

Any bytes end in an `Answer` and never in an exception: a bad message must not stop a server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from amqp_rpc.errors import (
    AmqpRpcError,
    CodecError,
    Expired,
    InvalidArguments,
    MaybeExecuted,
    NotAuthorized,
    Undecodable,
)
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import (
    PROBE,
    RESULTS,
    Message,
    Properties,
    Request,
    read_time_to_live,
    republished,
    time_to_live,
)
from amqp_rpc.message.failures import describe_raised, describe_verdict
from amqp_rpc.message.headers import CRASHES
from amqp_rpc.message.text import bounded_logger, brief
from amqp_rpc.server.invoke import (
    Answer,
    Dispatcher,
    HandlerOutcome,
    Invocation,
    Settings,
    Unfinished,
    exc_info,
    finish,
    invoke,
    invoke_async,
    raised,
    ran,
    traceback_of,
)
from amqp_rpc.service.function import Function

logger: logging.Logger = bounded_logger(__name__)

#: The counters of refused calls; all others are ``refused``.
_OUTCOMES: dict[type[AmqpRpcError], str] = {Expired: "expired", NotAuthorized: "unauthorized"}
#: Servers that may die with one idempotent call.
MOST_CRASHES = 3

#: One call of a chunk, as its reply has it: whether there is a result, and the result or the error's map.
Item = tuple[bool, Any]


@dataclass(slots=True)
class Chunk:
    """Many calls of one function in one message, as they arrived; each is checked, and runs, by itself."""

    request: Request
    function: Function
    calls: list[Any]


class CallDispatcher(Dispatcher):
    """The calls of one queue."""

    kind = "Call"

    def __init__(self, queue: str, functions: dict[str, Function], settings: Settings) -> None:
        super().__init__(queue, functions, settings)
        self._concurrency = settings.concurrency
        #: The room on the event loop for the calls of all chunks; that loop's.
        self._room: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    def run(self, properties: Properties, body: bytes, *, redelivered: bool) -> Answer | Coroutine[Any, Any, Answer]:
        """Run the call in a delivery, or refuse it, and return the answer, whatever the function raises.

        Where the function returned an awaitable, return a coroutine for the event loop, which returns the answer.
        """
        ready = self.accept(properties, body, redelivered=redelivered)
        if isinstance(ready, Invocation):
            outcome = invoke(ready)
            if isinstance(outcome, Unfinished):
                return self._finish(ready, outcome)
            return self._answer(ready, outcome)
        if isinstance(ready, Chunk):
            ran = self._run_some(ready, 0)
            items = [each for each in ran if isinstance(each, tuple)]
            return self._answer_all(ready, items) if len(items) == len(ready.calls) else self._finish_all(ready, ran)
        return ready

    async def run_async(self, properties: Properties, body: bytes, *, redelivered: bool) -> Answer:
        """Do as `run` for an ``async def`` function; of the calls of all chunks, `Settings.concurrency` run at once."""
        ready = self.accept(properties, body, redelivered=redelivered)
        if isinstance(ready, Invocation):
            return self._answer(ready, await invoke_async(ready))
        if isinstance(ready, Chunk):
            return self._answer_all(ready, await self._run_all_async(ready))
        return ready

    def accept(self, properties: Properties, body: bytes, *, redelivered: bool) -> Invocation | Chunk | Answer:
        """Return the invocation, or the chunk, of a delivery; or the answer if it is refused."""
        if properties.type == PROBE:
            return Answer(None, None, "probe")
        request = Request.read(properties, body, redelivered=redelivered)
        try:
            request.check()
            function = self._find(request, properties)
            if redelivered and not self._expired(request) and (request.idempotent or function.idempotent):
                return self._again(request, function, properties)
            if redelivered:
                # It may have run: the server that had it died before it answered. Running it again could charge twice.
                raise MaybeExecuted(  # noqa: TRY301 - one place turns every refusal into an answer
                    f"the server that had the call of {function.name}() died before it answered; the function may "
                    "have run. If it may run twice, declare it idempotent=True"
                )
            if self._expired(request):
                raise Expired(f"the time for {function.name}() was over before it started")  # noqa: TRY301 - as above
            codec.check_encoding(request.content_encoding)
            if request.chunked:
                return Chunk(request, function, self._calls(request))
            args, kwargs = self._arguments(request, function)
        except AmqpRpcError as error:
            return self._refused(request, error)
        # Nothing in a message may end the thread that reads messages.
        except Exception as error:
            if (times := self._refusals.again(repr(error))) is not None:
                logger.exception(
                    "queue %s: message for %s() could not be read; refused%s", self.queue, request.function, times
                )
            return self._refused(request, Undecodable(f"the message could not be read: {error!r}"))
        return Invocation(request, function, args, kwargs)

    def unsigned(self, properties: Properties, body: bytes) -> Message | None:
        """Return the reply to a call that is not signed, and should be; None if it wants none."""
        request = Request.read(properties, body, redelivered=False)
        if request.reply_to is None:
            return None
        refused = NotAuthorized(
            f"the call is not signed, and {self.queue} takes signed ones alone: give the client keys="
        )
        return self._error(request, describe_verdict(refused))

    def _again(self, request: Request, function: Function, properties: Properties) -> Answer:
        """Requeue an idempotent call that a server died with, as a copy that counts the crash.

        The copy is counted before it runs, since a server that is killed by a call can't count.
        """
        if request.crashes + 1 >= MOST_CRASHES:
            raise MaybeExecuted(
                f"{MOST_CRASHES} servers died, one after another, while they had the call of {function.name}(); it may "
                "be what kills them. It is not retried"
            )
        logger.warning("queue %s: a server died with a call of %s(), which is retried", self.queue, function.name)
        # The copy keeps the time that is left of the call, and is no more persistent than the call was.
        expiration = read_time_to_live(properties)
        if request.deadline is not None:
            expiration = time_to_live((request.deadline - self._clock()) * 1000)
        counted = republished(
            properties,
            {CRASHES: request.crashes + 1},
            delivery_mode=2 if properties.delivery_mode == 2 else 1,  # noqa: PLR2004 - persistent
            expiration=expiration,
        )
        return Answer(None, None, "again", again=Message(function.queue, counted, request.body))

    def _calls(self, request: Request) -> list[Any]:
        value = codec.decode(request.body, request.content_type, limit=self._max_size)
        if not isinstance(value, list):
            raise InvalidArguments(f"the body of a chunk is a list of calls; it was {brief(value)}")
        return value

    def _refused(self, request: Request, error: AmqpRpcError) -> Answer:
        outcome = _OUTCOMES.get(type(error), "refused")
        if request.reply_to is not None:
            self._log_refused("call refused", request, error)
            return Answer(self._error(request, describe_verdict(error, earlier=request.may_have_run)), None, outcome)
        if isinstance(error, Expired | MaybeExecuted):
            self._log_refused("message without reply_to dropped", request, error)
            return Answer(None, None, outcome)
        self._log_refused("message without reply_to dead-lettered", request, error)
        return Answer(None, str(error), outcome)

    def _log_refused(self, what: str, request: Request, error: AmqpRpcError) -> None:
        level = logging.INFO if isinstance(error, Expired) and request.reply_to is not None else logging.WARNING
        if logger.isEnabledFor(level) and (times := self._refusals.again(str(error))) is not None:
            logger.log(level, "queue %s: %s: %s%s", self.queue, what, error, times, extra=self.keys(request))

    def _run_some(self, chunk: Chunk, start: int) -> list[Item | Coroutine[Any, Any, Item]]:
        """Run the calls of a chunk from one on, until all have run, or as many are to be awaited as may be at once."""
        found: list[Item | Coroutine[Any, Any, Item]] = []
        room = self._concurrency
        while room and start + len(found) < len(chunk.calls):
            found.append(one := self._run_one(chunk, chunk.calls[start + len(found)]))
            room -= not isinstance(one, tuple)
        return found

    def _run_one(self, chunk: Chunk, arrived: Any) -> Item | Coroutine[Any, Any, Item]:
        call = self._late(chunk) or self._bound_one(chunk, arrived)
        if not isinstance(call, Invocation):
            return call
        outcome = invoke(call)
        return self._finish_one(chunk, call, outcome) if isinstance(outcome, Unfinished) else self._item(chunk, outcome)

    async def _run_all_async(self, chunk: Chunk) -> list[Item]:
        room = self._shared_room()
        items: list[Item] = [(False, None)] * len(chunk.calls)
        left = iter(enumerate(chunk.calls))

        async def run_next() -> None:
            for number, arrived in left:
                async with room:
                    call = self._late(chunk) or self._bound_one(chunk, arrived)
                    if isinstance(call, Invocation):
                        call = self._item(chunk, await invoke_async(call))
                    items[number] = call
                # Functions that never wait must not keep the others from the loop.
                await asyncio.sleep(0)

        await asyncio.gather(*(run_next() for _ in range(min(self._concurrency, len(items)))))
        return items

    def _bound_one(self, chunk: Chunk, arrived: Any) -> Invocation | Item:
        request, function = chunk.request, chunk.function
        try:
            return Invocation(request, function, *self._bound(request, function, arrived))
        except InvalidArguments as error:
            return False, describe_verdict(error, earlier=request.may_have_run)

    async def _finish(self, call: Invocation, unfinished: Unfinished) -> Answer:
        return self._answer(call, await finish(call, unfinished))

    async def _finish_one(self, chunk: Chunk, call: Invocation, unfinished: Unfinished) -> Item:
        async with self._shared_room():
            return self._item(chunk, await finish(call, unfinished))

    def _shared_room(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._room is None or self._room[0] is not loop:
            self._room = loop, asyncio.Semaphore(self._concurrency)
        return self._room[1]

    async def _finish_all(self, chunk: Chunk, ran: list[Item | Coroutine[Any, Any, Item]]) -> Answer:
        """Await those of a chunk that returned an awaitable, and run the others then."""
        items: list[Item] = []
        while True:
            left = iter(await asyncio.gather(*(each for each in ran if not isinstance(each, tuple))))
            items += [each if isinstance(each, tuple) else next(left) for each in ran]
            if len(items) == len(chunk.calls):
                return self._answer_all(chunk, items)
            # Ordinary functions never run on the event loop.
            ran = await asyncio.to_thread(self._run_some, chunk, len(items))

    def _late(self, chunk: Chunk) -> Item | None:
        """Return the error of a call that is too late in its chunk to start; None while there is time."""
        if not self._expired(chunk.request):
            return None
        late = Expired(f"the time for {chunk.function.name}() was over before it started")
        return (False, describe_verdict(late, earlier=chunk.request.may_have_run))

    def _item(self, chunk: Chunk, outcome: HandlerOutcome) -> Item:
        if outcome.error is not None:
            self._log_raised(chunk.request, chunk.function, outcome)
            return (False, self._described(outcome.error))
        return (True, outcome.result)

    def _answer(self, call: Invocation, outcome: HandlerOutcome) -> Answer:
        request, function = call.request, call.function
        if outcome.error is not None:
            return self._raised(request, function, outcome)
        reply = None
        if request.reply_to is not None:
            try:
                reply = self._result(request, function, outcome.result)
            except CodecError as refusal:
                self._log_unsent(request, function, refusal)
                return Answer(self._error(request, ran(refusal)), None, "raised")
        # Asked first: a call has nothing else to log, and a busy server nothing to spare.
        if logger.isEnabledFor(logging.INFO):
            subject, keys = self.named(request, function.name), self.keys(request, function.name)
            logger.info("%s succeeded in %.3f s", subject, outcome.seconds, extra=keys)
        return Answer(reply, None, "result")

    def _raised(self, request: Request, function: Function, outcome: HandlerOutcome) -> Answer:
        assert outcome.error is not None
        self._log_raised(request, function, outcome)
        if request.reply_to is None:
            return Answer(None, None, "raised")
        return Answer(self._error(request, self._described(outcome.error)), None, "raised")

    def _described(self, error: BaseException) -> dict[str, Any]:
        return describe_raised(error, traceback=traceback_of(error) if self._tracebacks else None)

    def _log_raised(self, request: Request, function: Function, outcome: HandlerOutcome) -> None:
        assert outcome.error is not None
        if logger.isEnabledFor(logging.ERROR):
            nobody = "" if request.reply_to is not None else "; no reply_to, nobody is told"
            logger.error(
                "%s failed after %.3f s (%s)%s",
                self.named(request, function.name), outcome.seconds, raised(outcome.error), nobody,
                exc_info=exc_info(outcome.error), extra=self.keys(request, function.name),
            )  # fmt: skip

    def _log_unsent(self, request: Request, function: Function, refusal: CodecError) -> None:
        subject, keys = self.named(request, function.name), self.keys(request, function.name)
        logger.error("%s failed: %s", subject, refusal, extra=keys)

    def _answer_all(self, chunk: Chunk, items: list[Item]) -> Answer:
        """Return the answer to a chunk; an error takes the place of a result that can't be sent."""
        request, name = chunk.request, chunk.function.name
        if request.reply_to is None:
            return Answer(None, None, "result")
        content_type = self._reply_type(request)
        try:
            body = codec.encode(items, content_type, limit=self._max_size)
        except CodecError:
            # The other results are good.
            sendable = [self._sendable(chunk, item, content_type) for item in items]
            try:
                body = codec.encode(sendable, content_type, limit=self._max_size)
            except CodecError as error:
                refusal = type(error)(f"{len(items)} calls of {name}() ran; together, {error}")
                self._log_unsent(request, chunk.function, refusal)
                return Answer(self._error(request, ran(refusal)), None, "raised")
        if logger.isEnabledFor(logging.INFO):
            good, subject = sum(ok for ok, _ in items), self.named(request, name)
            logger.info("%s: %d of its %d calls succeeded", subject, good, len(items), extra=self.keys(request, name))
        return Answer(self._reply(request, RESULTS, body), None, "result")

    def _sendable(self, chunk: Chunk, item: Item, content_type: str) -> Item:
        try:
            codec.encode([item], content_type, limit=self._max_size)
        except CodecError as error:
            refusal = type(error)(f"{chunk.function.name}() ran, and its result was not sent: {error}")
            self._log_unsent(chunk.request, chunk.function, refusal)
            return (False, ran(refusal))
        return item
