"""The error for a store that has failed, whatever its package raised."""

from __future__ import annotations

from amqp_rpc.errors import StoreUnavailable
from amqp_rpc.message.text import text_of


def unavailable(store: object, error: BaseException | str) -> StoreUnavailable:
    """Return the error for a store that has failed, for whatever reason."""
    reason = text_of(error).rstrip(". ")
    # A database's own errors need no name; a TypeError of a package does.
    known = isinstance(error, str | OSError) or type(error).__module__ != "builtins"
    return StoreUnavailable(
        f"the store of results {str(store)!r} can't be used: {reason if known else f'{type(error).__name__}: {reason}'}"
    )
