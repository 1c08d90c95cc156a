"""What stands around a body: AMQP properties of requests and replies, written and read; pure values.

The names and their meaning are the wire format of the README's "Wire format" page; other languages rely on them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from amqp_rpc.codec import base_type

#: What ``type`` says of a reply.
RESULT: Final = "result"
#: The reply to a chunk of calls: a list of ``[true, result]`` and ``[false, error]``.
RESULTS: Final = "results"
ERROR: Final = "error"

#: Seconds by which the clocks of a client and a server may differ before a deadline is taken for over.
CLOCK_SKEW_ALLOWANCE = 1.0


@dataclass(slots=True)
class Properties:
    """The properties of an AMQP message, under the names that AMQP 0-9-1 gives them."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None


@dataclass(slots=True, frozen=True)
class Message:
    """One message for the default exchange: the routing key is a queue's name."""

    queue: str
    properties: Properties
    body: bytes


@dataclass(slots=True, frozen=True)
class Request:
    """A request as the server reads it, whoever wrote it: nothing in it is trusted to have the right type."""

    function: str | None
    content_type: str
    content_encoding: str | None
    reply_to: str | None
    correlation_id: str | None
    deadline: float | None
    idempotent: bool
    chunked: bool
    redelivered: bool
    body: bytes = field(repr=False)

    @classmethod
    def read(cls, properties: Properties, body: bytes, *, redelivered: bool) -> Request:
        """Return the request in a delivery."""
        headers = properties.headers or {}
        deadline = headers.get("deadline")
        numeric = isinstance(deadline, int | float) and not isinstance(deadline, bool)
        return cls(
            function=_text(properties.type) or None,
            content_type=base_type(_text(properties.content_type)),
            content_encoding=_text(properties.content_encoding),
            reply_to=properties.reply_to or None,
            correlation_id=properties.correlation_id,
            # AMQP has no larger number, but a message need not have come through AMQP.
            deadline=deadline / 1000 if numeric and abs(deadline) < 2**63 else None,  # type: ignore[operator, arg-type]
            idempotent=headers.get("idempotent") is True,
            chunked=headers.get("chunk") is True,
            redelivered=redelivered,
            body=body,
        )

    def expired(self, now: float) -> bool:
        """Return whether nobody waits for the answer any more.

        Args:
            now: Unix time in seconds.
        """
        return self.deadline is not None and now > self.deadline + CLOCK_SKEW_ALLOWANCE


def request_properties(
    *,
    function: str,
    content_type: str,
    identity: str,
    reply_to: str,
    remaining: float,
    attempt: int = 1,
    idempotent: bool = False,
    chunk: bool = False,
) -> Properties:
    """Return the properties of a request that is about to be written.

    Args:
        function: Its name on the server.
        content_type: The body's.
        identity: The request's id: the same on every retry of it.
        reply_to: The reply queue of the connection that will carry it.
        remaining: Seconds until nobody waits for it any more.
        attempt: 1 for the first time that it is sent.
        idempotent: Whether it may run more than once.
        chunk: Whether the body is a list of calls.
    """
    now = time.time()
    headers: dict[str, Any] = {"deadline": int((now + remaining) * 1000), "attempt": attempt}
    if idempotent:
        headers["idempotent"] = True
    if chunk:
        headers["chunk"] = True
    return Properties(
        content_type=content_type,
        headers=headers,
        correlation_id=identity,
        reply_to=reply_to,
        # The broker drops it by itself when the caller is gone: https://www.rabbitmq.com/docs/ttl
        expiration=str(max(1, int(remaining * 1000))),
        message_id=identity,
        timestamp=int(now),
        type=function,
    )


def _text(value: object) -> str | None:
    """Return a property's text; bytes that are not UTF-8 are shown escaped, never raised about."""
    if value is None or isinstance(value, str):
        return value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
