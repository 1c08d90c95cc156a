"""Events for asyncio: published without blocking the event loop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from amqp_rpc.client.forms import Default
from amqp_rpc.client.publisher import Publisher
from amqp_rpc.client.publishing import ContentType
from amqp_rpc.message.exchanges import Exchange


class AsyncPublisher(ABC):
    """``publish`` and ``publish_many`` of a client for asyncio."""

    @property
    @abstractmethod
    def _publisher(self) -> Publisher:
        """The client that does it."""

    async def publish(
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
        """Publish an event, and return its id once the broker has it safe: `Client.publish`, awaited.

        It is awaited on a thread: cancelling does not take back what was sent.

        Example:
            >>> await client.publish("orders.eu.paid", {"order": 7})  # doctest: +SKIP
        """
        return await asyncio.to_thread(
            partial(
                self._publisher.publish,
                topic,
                payload,
                exchange=exchange,
                headers=headers,
                content_type=content_type,
                expires=expires,
                mandatory=mandatory,
                timeout=timeout,
            )
        )

    async def publish_many(
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
        """Publish many events: `Client.publish_many`, awaited."""
        return await asyncio.to_thread(
            partial(
                self._publisher.publish_many,
                events,
                exchange=exchange,
                headers=headers,
                content_type=content_type,
                expires=expires,
                mandatory=mandatory,
                timeout=timeout,
            )
        )
