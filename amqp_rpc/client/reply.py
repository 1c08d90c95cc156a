"""What a reply says: a result as its function's annotation names it, or the error that it stands for. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from amqp_rpc.client.calls import Reply
from amqp_rpc.errors import AmqpRpcError, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import ERROR, RESULT, RESULTS
from amqp_rpc.message.failures import rebuild
from amqp_rpc.service.function import Function

#: What stands for one call in the reply to a chunk.
_OUTCOME = ("has a result", "the result or the error")


def read(reply: Reply, known: Function | None, *, limit: int) -> Any:
    """Return a reply's result, or raise its error."""
    kind, value = _decoded(reply, limit)
    if kind != RESULT:
        raise Undecodable(f"a reply of type {kind!r} is not known here; is the server newer?")
    return _as_annotated(value, known)


def read_many(reply: Reply, known: Function | None, *, limit: int) -> list[Any]:
    """Return the results and errors of a reply, which is a chunk's or a single call's."""
    try:
        kind, value = _decoded(reply, limit)
        if kind == RESULT:
            return [_as_annotated(value, known)]
    except AmqpRpcError as error:
        # It answers every call of the message: whoever asks for the first one is told.
        return [error]
    match value:
        case [*outcomes] if kind == RESULTS and all(isinstance(o, list) and len(o) == len(_OUTCOME) for o in outcomes):
            return [_as_annotated(each, known) if ran else rebuild(each) for ran, each in outcomes]
    raise Undecodable(f"a reply of type {kind!r} is not known here; is the server newer?")


def _decoded(reply: Reply, limit: int) -> tuple[str | None, Any]:
    value = codec.decode(reply.body, codec.base_type(reply.properties.content_type), limit=limit)
    if reply.properties.type == ERROR:
        raise rebuild(value)
    return reply.properties.type, value


def _as_annotated(value: Any, known: Function | None) -> Any:
    """Return a result as the type that the function's annotation names, where the function is known here."""
    if known is None:
        return value
    try:
        return known.signature.compile().convert_result(value)
    except msgspec.ValidationError as error:
        raise Undecodable(f"{known.name}() returned something else than it is annotated with: {error}") from error
