"""What users are told of calls without an answer, and of queues: what happened, whether it ran, what to do. Pure."""

from __future__ import annotations

from amqp_rpc.client.call import Call
from amqp_rpc.errors import AmqpRpcError, CallTimeout, NoServer, NotSent
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.text import plural

_START = "`amqp-rpc serve` starts one, and wait_for_server=True waits for it"


def lost(call: Call, cause: str) -> str:
    """Return the words for a call whose answer can't come any more."""
    said = f"{call.function}() was sent, and then: {cause}. It may have run"
    return said if call.idempotent else f"{said}; if it may run twice, use idempotent=True"


def unsent(call: Call, cause: str) -> str:
    """Return the words for a call that did not leave this process."""
    return f"{call.function}() was not sent: {cause}"


def nobody_consumes(queue: str) -> str:
    """Return why a call to a queue without consumers is not sent."""
    return f"nobody consumes queue {queue!r}: is its server running? {_START}"


def no_queue(queue: str, addresses: Addresses) -> str:
    """Return why a call to a queue that does not exist is not sent."""
    return f"there is no queue {queue!r} on {addresses}: no server for it was started there. {_START}"


def too_many(call: Call, pending: int) -> str:
    """Return the words for a call that found no room among those under way."""
    return unsent(
        call,
        f"{plural(pending, 'call is', 'calls are')} under way, and none ended within {call.timeout:g} s "
        "(max_pending, max_pending_bytes)",
    )


def too_late(call: Call, *, blocked: str | None, unconnected: str | None) -> AmqpRpcError:
    """Return the error of a call whose time is over.

    Args:
        call: As it is now: written or not, sent before or not.
        blocked: Why the broker takes no messages; None where it does.
        unconnected: Why there is no connection; None where there is one.
    """
    if call.written:
        why = "Is its server overloaded? timeout= gives it longer"
        if blocked is not None:
            why = f"The broker takes no messages at the moment ({blocked})"
        return CallTimeout(
            f"no answer from {call.function}() within {call.timeout:g} s; it may have run, or may run still. {why}"
        )
    if call.attempt > 1:
        return CallTimeout(
            f"no answer from {call.function}() within {call.timeout:g} s: it was sent and lost, and could not be sent "
            "again in time. It may have run"
        )
    if unconnected is not None:
        cause = unconnected
    elif blocked is not None:
        cause = f"the broker takes no messages ({blocked})"
    elif call.wait_for_server:
        return NoServer(f"{call.function}() was not sent: no server within {call.timeout:g} s")
    else:
        cause = "the broker did not say in time whether it has a server"
    return NotSent(f"{call.function}() was not sent within {call.timeout:g} s: {cause}")


def other_arguments(queue: str, error: BaseException) -> str:
    """Return what is said of a queue that is there and was declared in another way."""
    return (
        f"queue {queue!r} exists with other arguments than this object's: {error}. Nothing was put or taken; give "
        "client.queue() the same queue_type= and maxsize=, delete the queue, or take another name"
    )


def closed(queue: str) -> str:
    """Return what is said of an object that was closed."""
    return f"this object for queue {queue!r} is closed, or its client is; client.queue() makes another"
