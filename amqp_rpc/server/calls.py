"""From a delivery to an answer: which function runs, with which arguments, and what is said when none can.

Pure: it opens nothing, starts nothing, and its clock is given to it. Whatever bytes come in, an `Answer`, a `Job` or a
`Chunk` comes out, and never an exception: a bad message must not stop a server.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from amqp_rpc.errors import (
    AmqpRpcError,
    CodecError,
    Expired,
    FunctionNotFound,
    InvalidArguments,
    MaybeExecuted,
    Undecodable,
)
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, PLAIN, TEXT
from amqp_rpc.message.envelope import (
    APPLICATION,
    ERROR,
    PROBE,
    RESULT,
    RESULTS,
    Message,
    Properties,
    Request,
    republished,
)
from amqp_rpc.message.failures import describe_raised, describe_verdict
from amqp_rpc.message.headers import CRASHES
from amqp_rpc.message.settings import DEFAULT_CLOCK_SKEW
from amqp_rpc.message.text import brief, text_of
from amqp_rpc.server.jobs import Answer, Chunk, Job, Outcome
from amqp_rpc.service.catalog import default_function
from amqp_rpc.service.registration import Function

logger = logging.getLogger(__name__)

#: Characters of a traceback that travel: its end, where the cause is.
LONGEST_TRACEBACK = 20_000

#: Servers that an idempotent call may take with it.
MOST_CRASHES = 3


class Dispatcher:
    """The functions of one queue, ready for deliveries.

    Args:
        queue: Its name.
        functions: By name.
        max_message_size: The most bytes of a body, in either direction.
        tracebacks: Whether error replies carry the handler's traceback.
        clock: Unix time in seconds.
        clock_skew: Seconds by which it may differ from a caller's.
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
    ) -> None:
        #: Which they come from.
        self.queue = queue
        self._functions = functions
        self._default = default_function(functions)
        self._limit = max_message_size
        self._tracebacks = tracebacks
        self._clock = clock
        self._clock_skew = clock_skew

    def asynchronous(self, properties: Properties) -> bool:
        """Return whether the delivery is for an ``async def`` function."""
        function = self._functions.get(properties.type) if properties.type else self._default
        return function is not None and function.asynchronous

    def accept(self, properties: Properties, body: bytes, *, redelivered: bool) -> Job | Chunk | Answer:
        """Return the job that a delivery asks for, or the answer where there is none to run.

        Args:
            properties: The delivery's, as they came.
            body: The delivery's.
            redelivered: Whether the broker gave it to a server before.
        """
        if properties.type == PROBE:
            return Answer(None, None, "probe")
        request = Request.read(properties, body, redelivered=redelivered)
        try:
            function = self._find(request)
            if redelivered and not self.expired(request) and (request.idempotent or function.idempotent):
                return self._again(request, function, properties)
            if redelivered:
                # It may have run: the server that had it died before it answered. Running it again could charge twice.
                raise MaybeExecuted(  # noqa: TRY301 - one place turns every refusal into an answer
                    f"the server that had the call of {function.name}() died before it answered; the function may "
                    "have run. If it may run twice, declare it idempotent=True"
                )
            if self.expired(request):
                raise Expired(f"the time for {function.name}() was over before it started")  # noqa: TRY301 - as above
            if request.content_encoding not in PLAIN:
                raise Undecodable(f"content encoding {request.content_encoding!r} is not known here; send none")  # noqa: TRY301 - as above
            if request.chunked:
                return Chunk(self, request, function, self._chunk(request, function))
            args, kwargs = self._arguments(request, function)
        except AmqpRpcError as error:
            return self._refused(request, error)
        # Nothing that a message holds may end the thread that reads messages.
        except Exception as error:
            logger.exception("A message for %s could not be read; it is refused", request.function)
            return self._refused(request, Undecodable(f"the message could not be read: {error!r}"))
        return Job(self, request, function, args, kwargs)

    def expired(self, request: Request) -> bool:
        """Return whether nobody waits for the answer any more."""
        return request.expired(self._clock(), clock_skew=self._clock_skew)

    def returned(self, request: Request, function: Function, result: Any) -> Answer:
        """Return the answer for a result."""
        return Answer(None, None, "result") if request.reply_to is None else self._told(request, function, result)

    def _told(self, request: Request, function: Function, result: Any) -> Answer:
        try:
            return Answer(self._result(request, function, result), None, "result")
        except CodecError as refusal:
            logger.warning("%s", refusal)
            return Answer(self._error(request, ran(refusal)), None, "raised")

    def _result(self, request: Request, function: Function, result: Any) -> Message:
        """Return the reply with a result.

        Raises:
            CodecError: It can't be sent; the text says that the function ran.
        """
        try:
            body = codec.encode(result, _reply_type(request), limit=self._limit)
        except CodecError as error:
            raise type(error)(f"{function.name}() ran, and its result was not sent: {error}") from error
        return self._reply(request, RESULT, body)

    def raised(self, request: Request, function: Function, error: BaseException) -> Answer:
        """Return the answer for what a handler raised."""
        if request.reply_to is None:
            logger.warning(
                "%s() raised, and nobody asked for an answer: %s: %s",
                function.name,
                type(error).__name__,
                text_of(error),
            )
            return Answer(None, None, "raised")
        return Answer(self._error(request, self.described(function, error)), None, "raised")

    def described(self, function: Function, error: BaseException) -> dict[str, Any]:
        """Return the map for what a handler raised."""
        logger.info("%s() raised %s: %s", function.name, type(error).__name__, text_of(error))
        return describe_raised(error, traceback=traceback_of(error) if self._tracebacks else None)

    def returned_many(self, request: Request, function: Function, outcomes: list[Outcome]) -> Answer:
        """Return the answer to a chunk; a result that can't be sent is an error in its place."""
        if request.reply_to is None:
            return Answer(None, None, "result")
        content_type = _reply_type(request)
        try:
            body = codec.encode(outcomes, content_type, limit=self._limit)
        except CodecError:
            # What can't be sent becomes an error in its place; the other results are good.
            sendable = [self._sendable(function, outcome, content_type) for outcome in outcomes]
            try:
                body = codec.encode(sendable, content_type, limit=self._limit)
            except CodecError as error:
                refusal = type(error)(f"{len(outcomes)} calls of {function.name}() ran; together, {error}")
                return Answer(self._error(request, ran(refusal)), None, "raised")
        return Answer(self._reply(request, RESULTS, body), None, "result")

    def _sendable(self, function: Function, outcome: Outcome, content_type: str) -> Outcome:
        try:
            codec.encode([outcome], content_type, limit=self._limit)
        except CodecError as error:
            return (False, ran(type(error)(f"{function.name}() ran, and its result was not sent: {error}")))
        return outcome

    def _again(self, request: Request, function: Function, properties: Properties) -> Answer:
        """Return the answer for a call that may run again: it goes back to the queue, counted.

        It is counted before it runs, and by the broker's own copy, since a server that it kills can't count.
        """
        if request.crashes + 1 >= MOST_CRASHES:
            raise MaybeExecuted(
                f"{MOST_CRASHES} servers died, one after another, while they had the call of {function.name}(); it may "
                "be what ends them. It is not tried again"
            )
        logger.warning("A server died with a call of %s(), which is idempotent: it is tried again", function.name)
        # The copy keeps the time that is left of the call.
        left = None if request.deadline is None else max(1, int((request.deadline - self._clock()) * 1000))
        counted = republished(
            properties,
            {CRASHES: request.crashes + 1},
            delivery_mode=properties.delivery_mode,
            expiration=properties.expiration if left is None else str(left),
        )
        return Answer(None, None, "again", again=Message(function.queue, counted, request.body))

    def _find(self, request: Request) -> Function:
        if request.function is None:
            if self._default is None:
                raise FunctionNotFound(
                    f"the message names no function (AMQP property 'type'), and none is the default; "
                    f"there are: {', '.join(self._functions)}"
                )
            return self._default
        function = self._functions.get(request.function)
        if function is None:
            raise FunctionNotFound(f"no function {request.function!r} here; there are: {', '.join(self._functions)}")
        return function

    def _arguments(self, request: Request, function: Function) -> tuple[list[Any], dict[str, Any]]:
        value = codec.decode(request.body, request.content_type, limit=self._limit)
        if request.content_type == TEXT:
            return function.signature.compile().bind_text(value)
        return self._bound(request, function, value)

    def _chunk(self, request: Request, function: Function) -> list[tuple[Any, Any] | AmqpRpcError]:
        value = codec.decode(request.body, request.content_type, limit=self._limit)
        if not isinstance(value, list):
            raise InvalidArguments(f"the body of a chunk is a list of calls; it was {brief(value)}")
        calls: list[tuple[Any, Any] | AmqpRpcError] = []
        for each in value:
            try:
                calls.append(self._bound(request, function, each))
            except InvalidArguments as error:
                calls.append(error)
        return calls

    @staticmethod
    def _bound(request: Request, function: Function, value: Any) -> tuple[list[Any], dict[str, Any]]:
        match value:
            case [list() as args, dict() as kwargs] if all(isinstance(name, str) for name in kwargs):
                return function.signature.compile().bind(args, kwargs, binary=request.content_type == MSGPACK)
        raise InvalidArguments(f"a call is [positional, named], such as [[30], {{}}]; it was {brief(value)}")

    def _refused(self, request: Request, error: AmqpRpcError) -> Answer:
        outcome = "expired" if isinstance(error, Expired) else "refused"
        if request.reply_to is not None:
            logger.log(logging.INFO if outcome == "expired" else logging.WARNING, "Refused a call: %s", error)
            return Answer(self._error(request, describe_verdict(error)), None, outcome)
        if isinstance(error, Expired | MaybeExecuted):
            logger.warning("Dropped a message that nobody waits for: %s", error)
            return Answer(None, None, outcome)
        logger.warning("Dead-lettered a message without reply_to: %s", error)
        return Answer(None, str(error), outcome)

    def _error(self, request: Request, described: dict[str, Any]) -> Message:
        content_type = _reply_type(request)
        if content_type == TEXT:
            text = f"{described['type']}: {described['message']}"
            return self._reply(request, ERROR, text.encode(errors="backslashreplace")[: self._limit])
        try:
            body = codec.encode(described, content_type, limit=self._limit)
        except CodecError as error:
            # An error that can't be told whole is told in part: its type and that the rest was not sent.
            part = {"type": described["type"], "message": f"(not sent: {error})", "data": {}}
            body = codec.encode(part, content_type, limit=max(self._limit, 1024))
        return self._reply(request, ERROR, body)

    def _reply(self, request: Request, kind: str, body: bytes) -> Message:
        properties = Properties(
            content_type=_reply_type(request),
            correlation_id=request.correlation_id,
            type=kind,
            delivery_mode=1,
            app_id=APPLICATION,
        )
        # A task's may be for the store alone.
        return Message(request.reply_to or "", properties, body)


def ran(error: AmqpRpcError) -> dict[str, Any]:
    """Return the map of a verdict on a call that ran."""
    return {**describe_verdict(error), "data": {"ran": True}}


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback as text, from the handler on: the frame that called it says nothing."""
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    return text_of("".join(traceback.format_exception(type(error), error, frames))[-LONGEST_TRACEBACK:])


def _reply_type(request: Request) -> str:
    """Return the content type that the caller speaks; text for one that nobody knows."""
    return request.content_type if request.content_type in (MSGPACK, JSON) else TEXT
