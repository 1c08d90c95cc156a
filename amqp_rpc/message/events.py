"""What a handler can know of an event beside its payload, and how that stays with it until it is done. Pure.

The topic is the routing key by which an event was published. A copy that is tried again comes by another key, so a
subscriber writes the topic into a header when the event first comes: see `mark`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Properties, Request
from amqp_rpc.message.headers import ADDED_TO_EVENTS, BROKER_PREFIX, DEADLINE, RESERVED, TOPIC, read_time
from amqp_rpc.message.text import brief
from amqp_rpc.message.topology import comes_back


@dataclass(frozen=True, slots=True)
class Event:
    """What is known of an event beside its payload; a handler gets it by a parameter with this type hint.

    Args:
        topic: By which it was published: ``"orders.eu.paid"``.
        headers: Those that its publisher gave it.
        id: The same in every queue, and on every try; None where a foreign program gave none.
        time: When it was published, to the second, in UTC; None where that is not known.
        redelivered: Whether a worker had it before, and died, or lost its connection: it may have been handled.

    Example:
        >>> from amqp_rpc import Service
        >>> service = Service("mail")
        >>> @service.subscribe("orders.*.paid")
        ... def thank(order: dict, event: Event) -> None:
        ...     print(event.topic, event.id, order)
    """

    topic: str
    headers: dict[str, Any]
    id: str | None
    time: datetime | None
    redelivered: bool


def mark(properties: Properties, exchange: str, routing_key: str) -> None:
    """Have an event that was just delivered keep its topic, and nobody be answered.

    Args:
        properties: As they came.
        exchange: To which it was published, or by which it came back.
        routing_key: With which it was.
    """
    headers = properties.headers = properties.headers or {}
    if not comes_back(exchange) or not isinstance(headers.get(TOPIC), str):
        headers[TOPIC] = routing_key
    properties.reply_to = None


def read(request: Request, properties: Properties) -> Event:
    """Return what is known of an event that was marked."""
    headers = properties.headers or {}
    return Event(
        topic=str(headers.get(TOPIC, "")),
        headers={
            name: value for name, value in headers.items() if name not in ADDED_TO_EVENTS and name[:2] != BROKER_PREFIX
        },
        id=request.message_id,
        time=read_time(properties.timestamp, per_second=1),
        redelivered=request.redelivered or request.crashes > 0,
    )


def check_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of the headers that somebody wants to give an event.

    Raises:
        ConfigurationError: A name is no text, is one of ours, or begins with ``x-``, as the broker's do.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers= is a mapping of names to values, not {brief(headers)}")
    for name in headers:
        if not isinstance(name, str):
            raise ConfigurationError(f"a header's name is text, not {name!r}")
        if name in RESERVED or name.startswith(BROKER_PREFIX):
            raise ConfigurationError(
                f"an event can't have a header {name!r}: those that begin with 'x-' are the broker's, and "
                f"{', '.join(sorted(RESERVED))} are amqp_rpc's"
            )
    return dict(headers)


def event_properties(
    *, content_type: str, headers: dict[str, Any], identity: str, expires: float | None, now: float
) -> Properties:
    """Return the properties of an event.

    Args:
        content_type: The body's.
        headers: Those that its publisher gives it.
        identity: Its id.
        expires: Unix time in seconds after which it is not handled any more; None for never.
        now: Unix time in seconds.
    """
    if expires is not None:
        headers = {**headers, DEADLINE: int(expires * 1000)}
    return Properties(
        content_type=content_type,
        headers=headers or None,
        delivery_mode=2,
        message_id=identity,
        timestamp=int(now),
    )
