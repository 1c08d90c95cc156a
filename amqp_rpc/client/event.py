"""Events: how each is published, and the errors of those that do not reach their exchange."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from amqp_rpc.amqp.publisher import Publication, Publisher
from amqp_rpc.errors import BrokerError, ConfigurationError, ConnectionLost, PublishRefused, Unroutable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.events import check_headers, event_properties
from amqp_rpc.message.exchanges import Exchange, as_exchange, check_topic, other_exchange
from amqp_rpc.message.settings import LONGEST_EXPIRES, positive

#: What an event's body may be.
ContentType = Literal["application/msgpack", "application/json", "text/plain"]
_CONTENT_TYPES = (MSGPACK, JSON, TEXT)


@dataclass(frozen=True, slots=True)
class EventPlan:
    """How events are published, as one call of the client says.

    Args:
        exchange: Their exchange.
        headers: Their headers.
        content_type: Of their bodies; None for text where a payload is text, and msgpack elsewhere.
        mandatory: Whether it is an error that no queue is bound for one.
        expires: Seconds after which no subscriber starts with one any more; None for never.
        limit: Bytes of a body at most.
        counters: Counts those that no queue was bound for, as ``unrouted``.
    """

    exchange: Exchange
    headers: dict[str, Any]
    content_type: ContentType | None
    mandatory: bool
    expires: float | None
    limit: int
    counters: Counter[str]

    def publication(self, topic: str, payload: Any, identity: str, *, timeout: float) -> EventPublication:
        """Return an event that is ready to be published.

        Args:
            topic: Its topic.
            payload: Its payload.
            identity: Its id.
            timeout: Seconds for the broker to confirm it.

        Raises:
            ConfigurationError: The topic can't be one.
            Unencodable, MessageTooLarge: The payload can't be sent.
        """
        check_topic(topic)
        now = time.time()
        content_type = self.content_type or (TEXT if type(payload) is str else MSGPACK)
        properties = event_properties(
            content_type=content_type,
            headers=self.headers,
            identity=identity,
            expires=None if self.expires is None else now + self.expires,
            now=now,
        )
        body = codec.encode(payload, content_type, limit=self.limit)
        message = Message(topic, properties, body, exchange=self.exchange)
        return EventPublication(message, self, timeout=timeout)


class EventOptions(TypedDict, total=False):
    """The options of `Client.publish`."""

    exchange: str | Exchange | None
    headers: Mapping[str, Any] | None
    content_type: ContentType | None
    expires: float | None
    mandatory: bool


def event_plan(
    limit: int,
    counters: Counter[str],
    *,
    exchange: str | Exchange | None = None,
    headers: Mapping[str, Any] | None = None,
    content_type: ContentType | None = None,
    expires: float | None = None,
    mandatory: bool = False,
) -> EventPlan:
    """Return how events are published.

    Raises:
        ConfigurationError: The exchange, a header, the type or the time makes no sense.
    """
    if content_type is not None and content_type not in _CONTENT_TYPES:
        raise ConfigurationError(f"content_type is one of {', '.join(_CONTENT_TYPES)}, not {content_type!r}")
    if expires is not None:
        positive("expires", expires, most=LONGEST_EXPIRES)
    return EventPlan(as_exchange(exchange), check_headers(headers), content_type, mandatory, expires, limit, counters)


def topic_and_payload(event: Any) -> tuple[str, Any]:
    """Return the parts of one of the events for `Client.publish_many`."""
    match event:
        case (str() as topic, payload):
            return topic, payload
    raise ConfigurationError(
        f"publish_many takes a topic and a payload for each event, (topic, payload), not {event!r}"
    )


class EventPublication(Publication):
    """An event on its way to the broker.

    Args:
        message: The event.
        plan: How it is published.
        timeout: Seconds for the broker to confirm it.
    """

    __slots__ = ("_plan",)

    never, again = "No subscriber gets it", "Publish it again only if they may get it twice"

    def __init__(self, message: Message, plan: EventPlan, *, timeout: float) -> None:
        super().__init__(message, {}, timeout=timeout)
        self._plan = plan

    @property
    def subject(self) -> str:
        """The event in words."""
        return f"event {self.message.routing_key!r}"

    @property
    def unknown(self) -> ConnectionLost:
        """The error where the broker may have it."""
        return ConnectionLost(
            f"the broker did not confirm {self.subject} within {self.timeout:g} s; subscribers may get it. {self.again}"
        )

    @property
    def refusal(self) -> PublishRefused:
        """The error where a queue refused it; others may have accepted it."""
        error = PublishRefused(
            f"the broker refused event {self.message.routing_key!r} for a subscriber: its queue is full (max_length), "
            "or has lost its leader. Other subscribers may have it: publish it again only if they may get it twice"
        )
        error.may_have_run = True
        return error

    @property
    def bounded(self) -> bool:
        """Whether a bound may refuse it: the queues, and their bounds, are not known here."""
        return True

    def confirmed(self, publisher: Publisher) -> None:
        """End it; count it where no queue is bound for it."""
        publisher.end(self, self._unrouted() if self.returned else None)

    def _unrouted(self) -> Unroutable | None:
        self._plan.counters["unrouted"] += 1
        if not self._plan.mandatory:
            return None
        if not self._plan.exchange.name:
            return Unroutable(f"there is no queue {self.message.routing_key!r} for this event: nobody gets it")
        return Unroutable(
            f"no queue is bound to the {self._plan.exchange} for event {self.message.routing_key!r}: nobody subscribes "
            "to it, or its server was never started on this broker"
        )

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:  # noqa: ARG002 - it needs one thing alone
        """Return the error where its exchange is another one."""
        return ConfigurationError(f"{other_exchange(str(self._plan.exchange), error)}. Nothing was published")
