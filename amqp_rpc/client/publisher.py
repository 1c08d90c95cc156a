"""What a client publishes, and when that is accepted: the half of a client that is about events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from amqp_rpc.client.bulk import not_all, publish_all
from amqp_rpc.client.forms import Default
from amqp_rpc.client.publishing import ContentType, EventPlan, EventPublication
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.events import check_headers
from amqp_rpc.message.exchanges import Exchange, as_exchange, check_topic
from amqp_rpc.message.text import plural

if TYPE_CHECKING:
    from amqp_rpc.client.caller import Caller


class Publisher(ABC):
    """``publish`` and ``publish_many`` of a client."""

    _caller: Caller
    _limit: int

    @abstractmethod
    def _seconds(self, timeout: float | Default) -> float:
        """Return the seconds that something gets."""

    def publish(
        self,
        topic: str,
        payload: Any = None,
        /,
        *,
        exchange: str | Exchange | None = None,
        headers: Mapping[str, Any] | None = None,
        content_type: ContentType | None = None,
        expires: float | None = None,
        mandatory: bool = False,
        timeout: float | Default = Default.TIMEOUT,
    ) -> str:
        """Publish an event, and return its id once the broker has it safe for all who subscribe to it.

        Who subscribes gets it: see `Service.subscribe`. That nobody does is no error; it is counted, as ``unrouted`` in
        `Client.counters`. https://www.rabbitmq.com/docs/confirms

        Args:
            topic: Words with dots between them, ``"orders.eu.paid"``, of 255 bytes at most. ``""`` for exchanges that
                don't look at it.
            payload: Whatever can be sent: a map, a dataclass, a number, text; see the arguments of calls.
            exchange: Where; a name is that of a topic exchange. The default one unless given. It is declared, durable.
            headers: What subscribers see beside it, and headers exchanges look at: text, whole numbers, booleans.
            content_type: Of the body: ``"application/msgpack"``, ``"application/json"`` or ``"text/plain"``. Text goes
                as text and everything else as msgpack, unless given.
            expires: Seconds after which no subscriber begins with it any more; it is a dead letter there then.
            mandatory: Whether to raise `Unroutable` where no queue is bound for it.
            timeout: Seconds for the broker to take it (the client's, 30.0).

        Returns:
            Its id: `Event.id`, the same for every subscriber.

        Raises:
            Unroutable: It is mandatory, and no queue is bound for it: nobody gets it.
            PublishRefused: A memory or disk alarm, or some subscriber's queue is full; others may have it.
            NotConnected: No connection in time. Nobody gets it.
            ConnectionLost: It was sent, and not confirmed in time. It may have arrived.
            ConfigurationError: The topic is too long, a header has a name of ours, or the exchange is of another kind.
            Unencodable, MessageTooLarge: The payload, or the headers, can't be sent.

        Example:
            >>> client.publish("orders.eu.paid", {"order": 7, "amount": 12})  # doctest: +SKIP
        """
        plan = self._plan(exchange, headers, content_type, expires, mandatory=mandatory)
        publication = self._begun(plan, topic, payload, self._seconds(timeout))
        self._caller.confirmed(publication)
        return publication.identity

    def publish_many(
        self,
        events: Iterable[tuple[str, Any]],
        /,
        *,
        exchange: str | Exchange | None = None,
        headers: Mapping[str, Any] | None = None,
        content_type: ContentType | None = None,
        expires: float | None = None,
        mandatory: bool = False,
        timeout: float | Default = Default.TIMEOUT,
    ) -> list[str]:
        """Publish many events, and return their ids once the broker has all of them safe.

        They are sent without waiting for each other, up to a thousand ahead of the broker's confirms: many times as
        fast as one `publish` after another, with the same promise. They leave in their order.

        Args:
            events: A topic and a payload for each; it may be any iterable, and is read as the broker keeps up.
            exchange: As for `publish`.
            headers: Of each of them.
            content_type: As for `publish`.
            expires: As for `publish`.
            mandatory: As for `publish`.
            timeout: Seconds for the broker to take each of them (the client's, 30.0).

        Raises:
            NotAllAccepted: Some were not accepted. It says which, and why; the others were published.
            ConfigurationError: As for `publish`; or something that is no topic and payload.

        Example:
            >>> client.publish_many((f"sensors.{n}", n) for n in range(3))  # doctest: +SKIP
        """
        plan = self._plan(exchange, headers, content_type, expires, mandatory=mandatory)
        seconds = self._seconds(timeout)
        identities: list[str] = []

        def publish(_number: int, each: Any) -> EventPublication:
            publication = self._begun(plan, *_parts(each), seconds)
            identities.append(publication.identity)
            return publication

        count, errors = publish_all(
            self._caller, events, publish, note=lambda n: f"{plural(n, 'event was', 'events were')} published before"
        )
        if errors:
            raise not_all(errors, of=plural(count, "event", "events"), others="were published")
        return identities

    def _plan(
        self,
        exchange: str | Exchange | None,
        headers: Mapping[str, Any] | None,
        content_type: ContentType | None,
        expires: float | None,
        *,
        mandatory: bool,
    ) -> EventPlan:
        return EventPlan(
            as_exchange(exchange),
            check_headers(headers),
            content_type,
            mandatory,
            expires,
            self._limit,
            self._caller.counters,
        )

    def _begun(self, plan: EventPlan, topic: str, payload: Any, seconds: float) -> EventPublication:
        check_topic(topic)
        publication = plan.publication(topic, payload, self._caller.identity(), timeout=seconds)
        self._caller.publish(publication)
        return publication


def _parts(event: Any) -> tuple[str, Any]:
    match event:
        case (str() as topic, payload):
            return topic, payload
    raise ConfigurationError(
        f"publish_many takes a topic and a payload for each event, (topic, payload), not {event!r}"
    )
