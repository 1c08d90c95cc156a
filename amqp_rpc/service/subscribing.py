"""How a service subscribes to events: the part of `Service` that is about them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.exchanges import Exchange, as_exchange, bindings
from amqp_rpc.message.topology import delayed_key, event_queue, instance_queue
from amqp_rpc.service.policy import DEFAULT_BACKOFF, DEFAULT_RETRIES, Policy, QueueType
from amqp_rpc.service.registration import Function, named
from amqp_rpc.service.signature import Options, where
from amqp_rpc.service.subscription import EventSignature, Mode, Subscription

F = TypeVar("F", bound=Callable[..., Any])

#: Nobody calls an event's handler by the names of its parameters.
_NO_OPTIONS = Options("client.publish()", frozenset())


class Subscribing:
    """``subscribe`` of a service."""

    name: str | None
    #: By queue.
    _subscriptions: dict[str, Function]

    @property
    def subscriptions(self) -> list[Function]:
        """The functions that are registered for events, in their order."""
        return list(self._subscriptions.values())

    def subscribe(
        self,
        *topics: str,
        exchange: str | Exchange | None = None,
        headers: Mapping[str, Any] | None = None,
        mode: Mode = "shared",
        name: str | None = None,
        queue: str | None = None,
        queue_type: QueueType = "quorum",
        retries: int = DEFAULT_RETRIES,
        backoff: tuple[float, float] = DEFAULT_BACKOFF,
        retry_for: tuple[type[BaseException], ...] = (Exception,),
        time_limit: float | None = None,
        max_length: int | None = None,
    ) -> Callable[[F], F]:
        """Register a function for events that clients publish. It stays the function that it is.

        It takes the payload, as its type hint says, and an `Event` where a parameter has that type hint; either may be
        left away. An event runs to its end at least once, or is a dead letter, as a task: write it so that running it
        twice does no harm. https://www.rabbitmq.com/docs/exchanges

        Args:
            topics: Patterns of topics: ``"orders.*.paid"``, where ``*`` stands for one word and ``#`` for any number of
                them. With a direct exchange, the very topics; with fanout and headers, none.
            exchange: Where they are published; a name is that of a topic exchange. The default one unless given.
            headers: What events' headers must have, for a headers exchange: all, or any with ``"x-match": "any"``.
            mode: ``"shared"``: each event once for the service: its replicas share a durable queue. *History*: what is
                published while none of them runs waits for them, from the first start of the first one on.
                ``"broadcast"``: each event for every instance that runs: each process has a queue of its own, which is
                gone with its connection. *No history*: what is published before it is ready, or while its connection is
                away, and what then waits to be tried again, does not come to it.
            name: Of the function, in its queue's name and in the log; its own unless given.
            queue: Which holds the events; ``events.<service>.<function>`` unless given. Its dead letters go to
                ``<queue>.dead``, in both modes.
            queue_type: ``"quorum"``, kept on a majority of a cluster's nodes; ``"classic"`` on one.
            retries: How often an event whose handler raises is tried again (5); then it is a dead letter.
            backoff: Seconds before the first retry, doubled each time, and the most that they become (1.0, 600.0).
            retry_for: The exceptions that are worth another try (``Exception``).
            time_limit: Seconds that one try may take (None: no limit); then it has failed, and is tried again.
            max_length: Events that may wait. A shared queue that is full refuses more, and `Client.publish` raises
                `PublishRefused`; a broadcast one drops the oldest.

        Raises:
            ConfigurationError: A pattern can never match, the exchange's kind does not fit, the name is taken, a type
                can't be sent, or a setting is out of range. It names the file and the line.

        Example:
            >>> from amqp_rpc import Service
            >>> service = Service("mail")
            >>> @service.subscribe("orders.*.paid", "orders.*.refunded", retries=3)
            ... def receipt(order: dict) -> None:
            ...     ...
        """
        if topics and callable(topics[0]):
            raise ConfigurationError(
                f"{where(topics[0])}: @service.subscribe needs to know to what: @service.subscribe('orders.*.paid')"
            )

        def register(function: F) -> F:
            known, signature = named(function, name, "@service.subscribe", reserved=_NO_OPTIONS, kind=EventSignature)
            assert isinstance(signature, EventSignature)
            signature.check()
            try:
                subscription = _subscription(topics, exchange, headers, mode)
                policy = Policy(
                    queue if queue is not None else event_queue(self.name, known),
                    queue_type=queue_type,
                    retries=retries,
                    backoff=backoff,
                    retry_for=retry_for,
                    time_limit=time_limit,
                    max_length=max_length,
                    result=False,
                )
                if mode == "broadcast":
                    # What is tried again comes back to the instance, whose name is longer.
                    delayed_key(1, instance_queue(policy.queue, "0" * 16))
            except ConfigurationError as error:
                raise ConfigurationError(f"{signature.where}: {known}(): {error}") from error
            if policy.queue in self._subscriptions:
                raise ConfigurationError(
                    f"{signature.where}: queue {policy.queue!r} is registered already, at "
                    f"{self._subscriptions[policy.queue].signature.where}; one function takes several topics, "
                    "@service.subscribe('a.*', 'b.*'), and two functions need two names: name=, or queue="
                )
            self._subscriptions[policy.queue] = Function(
                name=known,
                service=self.name,
                call=function,
                signature=signature,
                idempotent=True,
                default=True,
                asynchronous=inspect.iscoroutinefunction(function),
                task=policy,
                subscription=subscription,
            )
            return function

        return register


def _subscription(
    topics: tuple[str, ...], exchange: str | Exchange | None, headers: Mapping[str, Any] | None, mode: Mode
) -> Subscription:
    if mode not in get_args(Mode):
        raise ConfigurationError(
            "mode is 'shared' (each event once for the service, with history) or 'broadcast' (each event for every "
            f"instance, and only the latest: no history), not {mode!r}"
        )
    source = as_exchange(exchange)
    return Subscription(source, bindings(source, topics, headers), mode)
