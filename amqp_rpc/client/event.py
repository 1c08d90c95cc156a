"""Events: how each is published, and the errors of those that do not reach their exchange.

It is a seam: `task` does the same for tasks, and neither knows the other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from amqp_rpc.amqp.publisher import Publication, Publisher
from amqp_rpc.client.bulk import Batch
from amqp_rpc.errors import (
    BrokerError,
    ConfigurationError,
    ConnectionLost,
    DeclaredOtherwise,
    PublishRefused,
    Unroutable,
)
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK, TEXT, ContentType
from amqp_rpc.message.envelope import Message, event_properties
from amqp_rpc.message.exchanges import Exchange, as_exchange, check_published, other_exchange
from amqp_rpc.message.headers import check_headers
from amqp_rpc.message.settings import LONGEST_EXPIRES
from amqp_rpc.message.timing import Expiry, Seconds

if TYPE_CHECKING:
    from amqp_rpc.client.rpc import Caller


class EventOptions(TypedDict, total=False):
    """The options of `Client.publish`."""

    exchange: str | Exchange | None
    headers: Mapping[str, Any] | None
    content_type: ContentType | None
    expires: Seconds | datetime | None
    mandatory: bool


class EventPlan:
    """How events are published, as one call of the client says.

    Raises:
        ConfigurationError: The exchange, a header, the type or the time makes no sense.
    """

    def __init__(self, session: Caller, limit: int, timeout: float, **options: Unpack[EventOptions]) -> None:
        self.counters: Counter[str] = session.counters
        self._session = session
        self._timeout = timeout
        self.exchange: Exchange = as_exchange(options.pop("exchange", None))
        self.mandatory: bool = options.pop("mandatory", False)
        self._limit = limit
        self._headers = check_headers(options.pop("headers", None), "an event")
        self._content_type = options.pop("content_type", None)
        expires = options.pop("expires", None)
        if options:
            raise TypeError(f"publish() got an unexpected keyword argument {min(options)!r}")
        codec.check_content_type(self._content_type)
        self._expiry = None if expires is None else Expiry.of(expires, now=time.time(), most=LONGEST_EXPIRES)

    def start(self, topic: str, payload: Any) -> EventPublication:
        """Publish an event, without waiting for the confirm.

        Raises:
            ConfigurationError: The topic can't be one.
            Unencodable, MessageTooLarge: The payload can't be sent.
        """
        check_published(topic, self.exchange)
        now = time.time()
        content_type = self._content_type or (TEXT if type(payload) is str else MSGPACK)
        properties = event_properties(
            content_type=content_type,
            headers=self._headers,
            identity=self._session.identity(),
            expires=None if self._expiry is None else self._expiry.at(now),
            now=now,
        )
        body = codec.encode(payload, content_type, limit=self._limit)
        message = Message(topic, properties, body, exchange=self.exchange)
        publication = EventPublication(message, self, self._timeout)
        self._session.publish(publication)
        return publication


class EventBatch(Batch[str]):
    """The events of one `Client.publish_many`, whose results are their ids."""

    one: str = "event"
    handled: bool = True

    def __init__(self, session: Caller, plan: EventPlan) -> None:
        super().__init__(session)
        self._plan = plan

    def start(self, item: Any) -> tuple[Publication, str]:
        """Publish one."""
        match item:
            case (str() as topic, payload):
                publication = self._plan.start(topic, payload)
                return publication, publication.identity
        raise ConfigurationError(
            f"publish_many takes a topic and a payload for each event, (topic, payload), not {item!r}"
        )


class EventPublication(Publication):
    """An event on its way to the broker."""

    __slots__ = ("_plan",)

    never: str = "No subscriber gets it"
    again: str = "Publish it again only if they may get it twice"

    def __init__(self, message: Message, plan: EventPlan, timeout: float) -> None:
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
        """A bound may refuse it: the queues, and their bounds, are not known here."""
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
        return DeclaredOtherwise(f"{other_exchange(str(self._plan.exchange), error)}. Nothing was published")
