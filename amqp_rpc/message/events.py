"""Events: their properties, and what a handler learns beside the payload. Pure.

An event's topic is the routing key of its publication. A retry comes back by another routing key, so a subscriber
writes the topic into a header when the event first comes: see `mark`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from amqp_rpc.message.envelope import Properties, Request, milliseconds
from amqp_rpc.message.headers import ADDED_TO_EVENTS, DEADLINE, TOPIC, others, read_time
from amqp_rpc.message.topology import comes_back


@dataclass(frozen=True, slots=True)
class Event:
    """An event without its payload; a handler gets it in a parameter with this type hint.

    Args:
        topic: The topic of its publication: ``"orders.eu.paid"``.
        headers: The headers of its publication.
        id: Its id, the same in every queue and on every attempt; None if its publisher gave none.
        time: When it was published, to the second, in UTC; None if unknown.
        redelivered: Whether another worker had it before, and died or lost its connection: it may have been handled.

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


@dataclass(frozen=True, slots=True)
class PublishedEvent(Event):
    """An event with its payload: `Client.listen` yields it.

    Args:
        payload: A value as it travels; ``bytes`` where the body is not what its content type says.
    """

    payload: Any


def mark(properties: Properties, exchange: str, routing_key: str) -> None:
    """Write the topic of an event, delivered by an exchange, into its headers; and remove its reply address."""
    headers = properties.headers = properties.headers or {}
    if not comes_back(exchange) or not isinstance(headers.get(TOPIC), str):
        headers[TOPIC] = routing_key
    properties.reply_to = None


def read(request: Request, properties: Properties) -> Event:
    """Return an event that was marked."""
    headers = properties.headers or {}
    return Event(
        topic=str(headers.get(TOPIC, "")),
        headers=others(headers, than=ADDED_TO_EVENTS),
        id=request.message_id,
        time=read_time(properties.timestamp, per_second=1),
        redelivered=request.redelivered or request.crashes > 0,
    )


def event_properties(
    *, content_type: str, headers: dict[str, Any], identity: str, expires: float | None, now: float
) -> Properties:
    """Return the properties of an event; no subscriber begins it after ``expires`` (Unix time; None for never)."""
    if expires is not None:
        headers = {**headers, DEADLINE: milliseconds(expires)}
    return Properties(
        content_type=content_type,
        headers=headers or None,
        delivery_mode=2,
        message_id=identity,
        timestamp=int(now),
    )
