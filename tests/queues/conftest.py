"""A session over a fake connection: a test plays the broker whenever something waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.publisher import Publisher
from amqp_rpc.amqp.reply_queue import ReplyQueue
from amqp_rpc.amqp.session import Awaited, Session
from amqp_rpc.message.settings import broker_addresses
from tests.amqp.fake import FakeChannel, FakeConnection


class FakeSession(Session):
    """Does at once what is left to its I/O thread."""

    def __init__(self) -> None:
        addresses = broker_addresses("amqp://localhost")
        publisher = Publisher(addresses)
        super().__init__(addresses, publisher, ReplyQueue(publisher), name="test", heartbeat=60.0)
        self.fake = FakeConnection()
        for follower in (self.reply_queue, publisher):
            follower.begin(cast("Connection", self.fake))
            follower.on_open()
        self.reply_queue.need()
        #: Hooks that run during a wait, and when the connection is asked for.
        self.while_it_waits: Callable[[], object] = lambda: None
        self.while_it_connects: Callable[[], object] = lambda: None
        #: How often the thread at the sockets was woken.
        self.woken = 0

    @property
    def confirming(self) -> FakeChannel:
        """The channel of the publisher."""
        return next(each for each in self.fake.channels if ("confirms", "") in each.requests)

    def connected(self) -> Connection:
        self.while_it_connects()
        return cast("Connection", self.fake)

    def wait(self, awaited: Awaited, _until: float) -> None:
        if not awaited.done():
            self.while_it_waits()

    def ended(self) -> None:
        self.woken += 1


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()
