"""What an event becomes on its way to its exchange, and what is said of one that does not come there."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from amqp_rpc.amqp.outbox import Publication
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError, ConnectionLost, PublishRefused, Unroutable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.events import event_properties
from amqp_rpc.message.exchanges import Exchange, other_exchange
from amqp_rpc.message.settings import LONGEST_EXPIRES, positive

#: What an event's body may be.
ContentType = Literal["application/msgpack", "application/json", "text/plain"]
_CONTENT_TYPES = (MSGPACK, JSON, TEXT)


@dataclass(frozen=True, slots=True)
class EventPlan:
    """How events are published, as one call of the client says.

    Args:
        exchange: Where.
        headers: Their headers.
        content_type: Of their bodies; None for text where a payload is text, and msgpack elsewhere.
        mandatory: Whether it is an error that no queue is bound for one.
        expires: Seconds after which one is not handled any more; None for never.
        limit: The most bytes of a body.
        counters: Where those are counted that no queue was bound for.
    """

    exchange: Exchange
    headers: dict[str, Any]
    content_type: ContentType | None
    mandatory: bool
    expires: float | None
    limit: int
    counters: Counter[str]

    def __post_init__(self) -> None:
        if self.content_type is not None and self.content_type not in _CONTENT_TYPES:
            raise ConfigurationError(f"content_type is one of {', '.join(_CONTENT_TYPES)}, not {self.content_type!r}")
        if self.expires is not None:
            positive("expires", self.expires, most=LONGEST_EXPIRES)

    def publication(self, topic: str, payload: Any, identity: str, *, timeout: float) -> EventPublication:
        """Return an event that is ready to be published.

        Args:
            topic: Which was checked.
            payload: What it carries.
            identity: Its id.
            timeout: Seconds for the broker to take it.

        Raises:
            Unencodable, MessageTooLarge: The payload can't be sent.
        """
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


class EventPublication(Publication):
    """An event on its way to the broker.

    Args:
        message: It.
        plan: How it is published.
        timeout: Seconds that it was given.
    """

    __slots__ = ("_plan",)

    never = "No subscriber gets it"

    def __init__(self, message: Message, plan: EventPlan, *, timeout: float) -> None:
        super().__init__(message, {}, timeout=timeout, expires_at=time.monotonic() + timeout, replied=False)
        self._plan = plan

    @property
    def what(self) -> str:
        """What it is, and what was not done with it."""
        return f"event {self.message.routing_key!r} was not published"

    @property
    def unknown(self) -> ConnectionLost:
        """What it ends with where the broker may have it."""
        return ConnectionLost(
            f"the broker did not confirm event {self.message.routing_key!r} within {self.timeout:g} s; subscribers may "
            "get it. Publish it again only if they may get it twice"
        )

    @property
    def refusal(self) -> PublishRefused:
        """What it ends with where a queue said no; others may have taken it."""
        error = PublishRefused(
            f"the broker refused event {self.message.routing_key!r} for a subscriber: its queue is full (max_length), "
            "or has lost its leader. Other subscribers may have it: publish it again only if they may get it twice"
        )
        error.may_have_run = True
        return error

    @property
    def bounded(self) -> bool:
        """Whether a bound may refuse it: which queues are bound, and to how much, is not known here."""
        return True

    def verdict(self) -> AmqpRpcError | None:
        """Return what it ends with, and count it where no queue is bound for it."""
        if not self.returned:
            return None
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
        """Return what it ends with where its exchange is another one."""
        return ConfigurationError(f"{other_exchange(str(self._plan.exchange), error)}. Nothing was published")
