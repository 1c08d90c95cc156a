"""What the threads of a client do with calls: send, wait, give up. The connection's side of it is `requester`.

A call is ended by whoever takes it out of the table of pending calls: a reply, its deadline, its cancellation, the
broker's return, or the loss of the connection.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from amqp_rpc.amqp.conversation import Conversation, Conversations, Follower
from amqp_rpc.amqp.pending import Pending, Wait, Work
from amqp_rpc.amqp.publisher import Publication, Publisher, fresh
from amqp_rpc.client import verdicts
from amqp_rpc.client.call import Call, Capacity, Room
from amqp_rpc.client.requester import Requester
from amqp_rpc.errors import ConfigurationError, ConnectionLost, MaybeExecuted, NotConnected, NotSent, Overloaded
from amqp_rpc.message.settings import Addresses

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

T = TypeVar("T")

#: Seconds for who has taken a message out of the table to say what became of it; it takes microseconds.
_VERDICT = 10.0
#: Calls under way up to which each is sent on its own; with more, they are sent together.
_FEW = 8


class Awaited(Protocol):
    """What a thread waits for: a call, a publication, or a question."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def wait(self, until: float) -> object:
        """Wait for its end, until that time on the monotonic clock, while another thread sees to it."""


class Caller:
    """Sends calls over one connection, which it opens at the first one; every public method is thread-safe."""

    def __init__(self, addresses: Addresses, *, name: str, heartbeat: float, capacity: Capacity) -> None:
        self.capacity = capacity
        self.pending: Pending[Call] = Pending(on_taken=self._taken)
        #: What happened, by name: ``late_replies`` are replies of calls that had ended; ``retries``, ``timeouts``.
        self.counters: Counter[str] = Counter()
        self._addresses = addresses
        self._name = name
        self._heartbeat = heartbeat
        self._prefix = os.urandom(16).hex()
        self._numbers = itertools.count(1)
        #: Guards opening and closing.
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False
        self._process = os.getpid()
        #: The calls that no thread waits for, by identity, with the waiters of `watch`; and the threads that wait.
        self._loose: set[object] = set()
        self._waiting: set[int] = set()
        self._publisher = Publisher(addresses)
        self._requester = Requester(self.pending, self.counters, addresses, self._publisher)
        #: Who has a channel of its own.
        self.conversations = Conversations()
        self.tasks = self._requester.tasks

    def identity(self) -> str:
        """Return a new id, for one request and all its retries."""
        return f"{self._prefix}-{next(self._numbers):x}"

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
            self._loose.add(call.identity)
        self.pending.add(call.identity, call)
        connection = self._ready_connection(lambda: self.give_up(call))
        try:
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
            last = self._requester.last_error
            self._requester.end(call, fresh(last) if last else gone)

    def publish(self, publication: Publication) -> None:
        """Publish a message that must not be lost; `confirmed` waits for it. Any thread.

        Raises:
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        self.check_process()
        self._publisher.add(publication)
        self._ready_connection(lambda: self._publisher.drop(publication)).loop.leave(self._publisher.send, publication)

    async def confirm(self, publication: Publication) -> None:
        """Return once the broker has confirmed a message, or raise its error; for scripts."""
        if not publication.done():
            await Wait(publication, publication.expires_at)
            self._publisher.expire(publication)
            # Where it was taken already, the thread that took it is about to end it.
            if not await Wait(publication, time.monotonic() + _VERDICT):
                publication.tell(self._publisher.too_late(publication))
        if publication.value is not None:
            raise publication.value

    def confirmed(self, publication: Publication) -> None:
        """Return once the broker has confirmed a message, or raise its error; any thread."""
        self.finish(self.confirm(publication))

    def finish(self, script: Coroutine[Any, None, T]) -> T:
        """Run a script (`blocking`) on this thread, which blocks where the script waits."""
        try:
            step = script.send(None)
            while True:
                try:
                    if isinstance(step, Wait):
                        self.wait(step.outcome, step.until)
                    elif isinstance(step, Work):
                        step.run()
                except BaseException as error:
                    # Ctrl-C, say.
                    step = script.throw(error)
                else:
                    step = script.send(None)
        except StopIteration as end:
            result: T = end.value
            return result

    def watch(self, waiter: object) -> None:
        """Keep the I/O thread at the sockets, for a waiter that is no thread, until `unwatch`; any thread."""
        self._loose.add(waiter)
        if self._connection is not None:
            self._connection.loop.recall()

    def unwatch(self, waiter: object) -> None:
        """Take note that a waiter waits no more."""
        self._loose.discard(waiter)

    def give_back(self, publication: Publication) -> None:
        """Empty the queue of a message whose purpose is gone, where there is a connection; any thread."""
        if self._connection is not None:
            self._connection.post(self._publisher.purge, publication.message.routing_key)

    def converse(self, timeout: float) -> Conversation:
        """Return a channel of its own for this thread, for so many seconds. Any thread.

        Raises:
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        self.check_process()
        connection = self._ready_connection(lambda: None)
        until = time.monotonic() + timeout
        return Conversation(self.conversations, connection, self.wait, expires_at=until, timeout=timeout)

    def follow(self, follower: Follower, begin: Callable[[Connection], object]) -> Connection:
        """Have somebody told of the connection's openings and losses, until they leave `conversations`. Any thread.

        Args:
            follower: Who is told.
            begin: Called before that, by the owner, with the connection.

        Raises:
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        self.check_process()
        connection = self._ready_connection(lambda: None)

        def enter() -> None:
            begin(connection)
            self.conversations.enter(follower)

        connection.loop.leave(enter)
        return connection

    @property
    def elsewhere(self) -> bool:
        """Whether this is another process than that of the client: the connection is the parent's."""
        return self._process != os.getpid()

    def check_process(self) -> None:
        """Refuse to work in a process that was forked from the client's."""
        if self._process != os.getpid():
            raise ConfigurationError("this client was made before fork(), in the parent process; make a new one here")

    def _ready_connection(self, give_up: Callable[[], object]) -> Connection:
        connection = self._connection
        if connection is not None and connection.alive:
            if not connection.loop.works_here():
                return connection
            give_up()
            raise ConfigurationError(
                "this call was made in the middle of the client's own work, by a signal handler or a logging handler "
                "that interrupted it; have another thread make the call. It did not run"
            )
        try:
            return self._open()
        except BaseException as error:
            give_up()
            if isinstance(error, OSError):
                raise NotConnected(f"this process can open no connection: {error}") from error
            raise

    def wait(self, call: Awaited, until: float) -> None:
        """Wait for a call's end, or a message's confirm; any thread.

        At the connection's sockets, where nobody else waits: there the reply is read by the thread that wants it, and
        no other has to be woken, for it or by it.
        """
        connection = self._connection
        if connection is None or self._closed or self._process != os.getpid():
            call.wait(until)
            return
        loop, me = connection.loop, get_ident()
        self._waiting.add(me)
        try:
            # With more than one, those whose reply has come would have to wake who reads next.
            if len(self._waiting) > 1 or self._loose or not loop.attend(call.done, until):
                loop.recall()
            # The loop may have ended as well, with the connection that it was for.
            if not call.done():
                call.wait(until)
        finally:
            self._waiting.discard(me)
            if self._waiting or self._loose:
                loop.recall()

    def ended(self) -> None:
        """Take note that a call was ended by a thread that is not at the connection's work; any thread."""
        connection = self._connection
        if self._waiting and connection is not None:
            # Who waits for it at the sockets looks only when something happens there.
            connection.post(int)

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

    def abandon(self) -> None:
        """Close without waiting: nobody holds the client any more."""
        if self._process == os.getpid() and self._connection is not None:
            self._closed = True
            self._connection.begin_close()

    async def close(self, timeout: float) -> None:
        """End every call that is in flight, and the connection; for scripts."""
        if self._process != os.getpid():
            return  # the connection is the parent's, and so is its end
        with self._lock:
            self._closed = True
            connection = self._connection
        self.capacity.close()
        if connection is not None:
            await connection.end(timeout)
        for _, call in self.pending:
            cause = "the client was closed"
            self._requester.end(
                call,
                MaybeExecuted(verdicts.lost(call, cause)) if call.written else NotSent(verdicts.unsent(call, cause)),
            )
        self._publisher.end_all(ConnectionLost("the client was closed before the broker confirmed it"))
        self.conversations.end_all(ConnectionLost("the client was closed"))
        self.ended()

    def _open(self) -> Connection:
        # pika imports asyncio and more, as much as all the rest: a module that is only imported goes without.
        from amqp_rpc.amqp.connection import Connection, Listeners  # noqa: PLC0415

        with self._lock:
            if self._closed:
                raise ConfigurationError("this client is closed; make a new one")
            if self._connection is None or not self._connection.alive:
                listeners = Listeners(self._requester, self._publisher, self.conversations)
                connection = Connection(self._addresses, listeners, name=self._name, heartbeat=self._heartbeat)
                try:
                    self._requester.begin(connection)
                    self._publisher.begin(connection)
                    connection.start()
                    self._connection = connection
                except BaseException:
                    # Ctrl-C, or no thread to be had: a connection that nobody knows of must not speak to the requester.
                    connection.begin_close()
                    raise
            return self._connection

    def _taken(self, call: Call) -> None:
        self.capacity.give(len(call.body))
        if not call.awaited:
            self._loose.discard(call.identity)
