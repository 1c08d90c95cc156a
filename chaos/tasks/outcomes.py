"""What a client's error means for what it was to enqueue or publish. Pure."""

from __future__ import annotations

from amqp_rpc import AmqpRpcError, ConnectionLost, NotConnected, PublishRefused

ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"


def outcome(error: Exception | None) -> tuple[str, str]:
    """Return how it ended, and what was said.

    ``accepted``; ``refused``, by an error that says that it will not run; ``unknown``, by one that says that it may;
    or the name of an error that no fault explains.
    """
    if error is None:
        return ACCEPTED, ""
    name = type(error).__name__
    if not isinstance(error, PublishRefused | NotConnected | ConnectionLost):
        return name, str(error)
    assert isinstance(error, AmqpRpcError)
    return UNKNOWN if error.may_have_run else REFUSED, f"{name}: {error}"
