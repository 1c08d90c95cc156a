"""From an event's delivery to what becomes of it: as of a task, but its body is the payload, and nobody waits. Pure."""

from __future__ import annotations

from typing import Any

from amqp_rpc.message import codec, events
from amqp_rpc.message.codec import MSGPACK, TEXT
from amqp_rpc.message.envelope import Properties, Request
from amqp_rpc.server.jobs import Answer
from amqp_rpc.server.tasks import TaskDispatcher
from amqp_rpc.service.registration import Function
from amqp_rpc.service.subscription import EventSignature


class EventDispatcher(TaskDispatcher):
    """The events of one subscription, ready for deliveries that were marked; the arguments are those of `Dispatcher`.

    Args:
        function: The subscription's only one.
    """

    kind = "Event"

    def __init__(self, function: Function, *, max_message_size: int, clock_skew: float) -> None:
        super().__init__(
            function.queue,
            {function.name: function},
            max_message_size=max_message_size,
            tracebacks=True,
            clock_skew=clock_skew,
        )
        self._function = function
        signature = function.signature
        assert isinstance(signature, EventSignature)
        self._signature = signature
        #: The names of the parameters that take them.
        self._payload, self._event = signature.roles()

    def asynchronous(self, properties: Properties) -> bool:  # noqa: ARG002 - whatever it says
        """Return whether the function is an ``async def`` one."""
        return self._function.asynchronous

    def _crashed(self, request: Request, properties: Properties) -> Answer | None:
        self._find(request)
        return super()._crashed(request, properties)

    def _find(self, request: Request) -> Function:
        # An event's type is its publisher's, and no function's name.
        request.function = self._function.name
        return self._function

    def _taken(
        self,
        request: Request,
        properties: Properties,
        function: Function,  # noqa: ARG002 - the only one
    ) -> tuple[list[Any], dict[str, Any]]:
        arguments: dict[str, Any] = {}
        if self._payload is not None:
            value = codec.decode(request.body, request.content_type, limit=self._limit)
            # An event without a payload has None there.
            if value is not None or not self._signature.has_default(self._payload):
                arguments[self._payload] = self._signature.payload(
                    self._payload, value, binary=request.content_type == MSGPACK, text=request.content_type == TEXT
                )
        if self._event is not None:
            arguments[self._event] = events.read(request, properties)
        return [], arguments


def event_dispatchers(
    functions: dict[str, dict[str, Function]], *, max_message_size: int, clock_skew: float
) -> dict[str, EventDispatcher]:
    """Return who sees to the deliveries of each subscription's queue."""
    return {
        queue: EventDispatcher(function, max_message_size=max_message_size, clock_skew=clock_skew)
        for queue, each in functions.items()
        for function in each.values()
    }


def shared(functions: dict[str, dict[str, Function]]) -> dict[str, dict[str, Function]]:
    """Return those of the subscriptions that have a queue which stays, by queue and name."""
    return {queue: each for queue, each in functions.items() if all(function.shared for function in each.values())}
