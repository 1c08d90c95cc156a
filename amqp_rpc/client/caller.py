"""Calls over a session: send, wait, give up. The I/O thread's side of it is `requester`.

A call is ended by the thread that takes it out of the table of pending calls: for a reply, its deadline, its
cancellation, the broker's return, or the loss of the connection.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.conversation import Conversation
from amqp_rpc.amqp.pending import Pending
from amqp_rpc.amqp.publisher import Publisher, fresh
from amqp_rpc.amqp.session import Session
from amqp_rpc.client import verdicts
from amqp_rpc.client.call import Call, Capacity, Room
from amqp_rpc.client.requester import Requester
from amqp_rpc.errors import NotSent, Overloaded
from amqp_rpc.message.settings import Addresses

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

#: Calls in flight up to which each is sent on its own; with more, they are sent together.
_FEW = 8


class Caller(Session):
    """A session that sends calls; every public method is thread-safe."""

    def __init__(self, addresses: Addresses, *, name: str, heartbeat: float, capacity: Capacity) -> None:
        self.capacity = capacity
        self.pending: Pending[Call] = Pending(on_taken=self._taken)
        #: What happened, by name: ``late_replies`` are replies of calls that had ended; ``retries``, ``timeouts``.
        self.counters: Counter[str] = Counter()
        publisher = Publisher(addresses)
        self._requester = Requester(self.pending, self.counters, addresses, publisher)
        self.tasks = self._requester.tasks
        super().__init__(addresses, publisher, self._requester, name=name, heartbeat=heartbeat)

    def submit(self, call: Call) -> None:
        """Send a call; block where too many are in flight. Any thread.

        Raises:
            Overloaded: None of them ended until the call's deadline.
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        self.check_process()
        room = self.capacity.take(len(call.body))
        if room is not None:
            self._wait_for_room(call, room)
        self.send(call)

    def send(self, call: Call) -> None:
        """Send a call that has room, as soon as there is a connection and a server for it; any thread.

        Raises:
            ConfigurationError: The client is closed.
        """
        # First into the table: should the connection fail this instant, its owner finds the call there and ends it.
        if not call.awaited:
            self.unawaited.add(call.identity)
        self.pending.add(call.identity, call)
        try:
            connection = self.connected()
            if len(self.pending) <= _FEW:
                # One by one, each is sent at once by its own thread: waking another one takes longer.
                connection.loop.do(self._requester.send, call)
                if not call.awaited:
                    # Nobody waits for its reply at the sockets.
                    connection.loop.recall()
            elif call.awaited:
                connection.loop.leave(self._requester.send, call)
            else:
                connection.post(self._requester.send, call)
        except BaseException:
            # Ctrl-C: nobody will have the future.
            self.give_up(call)
            raise
        if not connection.alive:
            # It ended between the look and the post: nobody may ever read what was posted.
            gone = NotSent(verdicts.unsent(call, "the client's connection has just ended"))
            self._requester.end(call, fresh(connection.error) if connection.error else gone)

    def converse(self, timeout: float) -> Conversation:
        """Return a channel of its own for this thread, for so many seconds. Any thread.

        Raises:
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        self.check_process()
        connection = self.connected()
        until = time.monotonic() + timeout
        return Conversation(self.conversations, connection, self.wait, expires_at=until, timeout=timeout)

    def follow(self, follower: Any, begin: Callable[[Connection], object]) -> Connection:
        """Have an object that is no keeper yet notified of the connection, until it leaves `conversations`."""
        self.check_process()
        connection = self.connected()

        def enter() -> None:
            begin(connection)
            self.conversations.enter(follower)

        connection.loop.leave(enter)
        return connection

    def _wait_for_room(self, call: Call, room: Room) -> None:
        try:
            if room.wait(call.expires_at):
                return
        except BaseException:
            # Ctrl-C.
            if not self.capacity.leave(room):
                self.capacity.give(room.size)
            raise
        if self.capacity.leave(room):
            raise self.overloaded(call)

    def overloaded(self, call: Call) -> Overloaded:
        """Return the error of a call that got no room in time."""
        return Overloaded(verdicts.too_many(call, len(self.pending)))

    def give_up(self, call: Call) -> bool:
        """Take a call out of the table of pending ones; return whether it was there. Any thread."""
        return self.pending.take(call.identity) is not None

    def expire(self, call: Call) -> None:
        """End a call whose time is over, unless it has ended; any thread."""
        if self.give_up(call):
            call.fail(self._requester.too_late(call))

    async def close(self, timeout: float) -> None:
        """End every call that is in flight, and the connection; for scripts."""
        if not self.elsewhere:
            self.capacity.close()
        await super().close(timeout)

    def _taken(self, call: Call) -> None:
        self.capacity.give(len(call.body))
        if not call.awaited:
            self.unawaited.discard(call.identity)
