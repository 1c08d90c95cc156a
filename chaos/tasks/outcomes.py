"""The meaning of a client's error for the task or event that it sent. Pure."""

from __future__ import annotations

from amqp_rpc import AmqpRpcError, ConnectionLost, NotConnected, PublishRefused

ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"


def outcome(error: Exception | None) -> tuple[str, str]:
    """Return the outcome of `enqueue` or `publish`, and the text of its error.

    The outcome is ``accepted``; ``refused`` if the error says that it will not run; ``unknown`` if the error says that
    it may run; or the name of an error that no fault explains.
    """
    if error is None:
        return ACCEPTED, ""
    name = type(error).__name__
    if not isinstance(error, PublishRefused | NotConnected | ConnectionLost):
        return name, str(error)
    assert isinstance(error, AmqpRpcError)
    return UNKNOWN if error.may_have_run else REFUSED, f"{name}: {error}"
