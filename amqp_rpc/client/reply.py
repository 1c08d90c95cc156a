"""Decodes replies: a result, as the type that the function's annotation names, or the error that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from amqp_rpc.errors import AmqpRpcError, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import ERROR, RESULT, RESULTS, Properties
from amqp_rpc.message.failures import rebuild
from amqp_rpc.service.function import Function

#: The items that stand for one call in the reply to a chunk: whether it has a result, and the result or the error.
_OUTCOME = 2


@dataclass(slots=True)
class Reply:
    """A reply as it came from the broker."""

    properties: Properties
    body: bytes


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes the replies of a function."""

    #: The function's registration; None where only its name is known.
    known: Function | None
    #: Bytes of a body at most.
    limit: int
    #: True if a reply has a list of results and errors, since its request was a chunk of calls.
    many: bool = False

    @property
    def idempotent(self) -> bool:
        """The registration allows the function to run twice."""
        return self.known is not None and self.known.idempotent

    def read(self, reply: Reply) -> Any:
        """Return a reply's result, or raise its error; of a chunk, return all its results and errors."""
        return self._outcomes(reply) if self.many else self._result(*self._decoded(reply))

    def _outcomes(self, reply: Reply) -> list[Any]:
        try:
            kind, value, lenient = self._decoded(reply)
        except AmqpRpcError as error:
            # It answers every call of the message: the first one raises it.
            return [error]
        match value:
            case [*outcomes] if kind == RESULTS and all(isinstance(o, list) and len(o) == _OUTCOME for o in outcomes):
                return [self._annotated(each) if ran else rebuild(each) for ran, each in outcomes]
        return [self._result(kind, value, lenient)]

    def _decoded(self, reply: Reply) -> tuple[str, Any, bool]:
        """Return a reply's type and value, and whether it is text: ``"30"`` is 30 for an ``int`` then."""
        properties = reply.properties
        content_type = codec.base_type(properties.content_type)
        value = codec.decode(reply.body, content_type, limit=self.limit)
        if properties.type == ERROR:
            raise rebuild(value)
        # Servers written as RabbitMQ's tutorials teach give their replies no type.
        return properties.type or RESULT, value, content_type == codec.TEXT

    def _result(self, kind: str, value: Any, lenient: bool) -> Any:
        if kind != RESULT:
            raise Undecodable(f"a reply of type {kind!r} is not known here; is the server newer?")
        return self._annotated(value, strict=not lenient)

    def _annotated(self, value: Any, *, strict: bool = True) -> Any:
        """Return a result as the type that the function's annotation names, where the function is known here."""
        if self.known is None:
            return value
        try:
            return self.known.signature.compile().convert_result(value, strict=strict)
        except msgspec.ValidationError as error:
            raise Undecodable(f"{self.known.name}() returned something else than its annotation: {error}") from error
