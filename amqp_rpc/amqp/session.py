"""A client's session: one connection, opened at its first use, with a publisher, a reply queue and one-shot scripts.

It knows no calls, tasks or items. Threads hand work to it and wait for its end. The connection comes back by itself;
when its first attempt fails, all that waits ends with an error, and the next use opens another one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Coroutine, Generator
from copy import copy
from threading import get_ident
from types import coroutine as awaitable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from amqp_rpc.amqp.channel import ChannelClosed
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.amqp.loop import call, where_signals_raise
from amqp_rpc.amqp.pending import Outcome, Wait, Work
from amqp_rpc.amqp.publisher import Publication, Publisher, fresh
from amqp_rpc.amqp.reply_queue import ReplyQueue
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    BrokerTimeout,
    ConfigurationError,
    ConnectionLost,
    NotConnected,
)
from amqp_rpc.message.settings import Addresses

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import BrokerAnswer, Channel, Script
    from amqp_rpc.amqp.connection import Connection
    from amqp_rpc.amqp.loop import Timer

T = TypeVar("T")

#: Seconds for the thread that ended something to report its result; it takes microseconds.
_VERDICT = 10.0
#: Seconds of a wait that something else ends: three years.
_FOREVER = 1e8
#: Ids that are made at a time.
_IDENTITIES = 256


class Awaited(Protocol):
    """A thread waits for one of these: a call, a publication, a script."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def wait(self, until: float) -> object:
        """Wait for its end, until that time on the monotonic clock, while another thread sees to it."""


class Follower(Protocol):
    """An object that is notified of a session's connections: a keeper, or a script that waits for one."""

    def begin(self, connection: Connection) -> None:
        """Belong to a connection from now on."""

    def on_open(self) -> None:
        """Open channels."""

    def on_unblocked(self) -> None:
        """Publish again."""

    def on_lost(self, error: BrokerError) -> None:
        """Forget channels."""

    def end_all(self, error: BrokerError) -> None:
        """End what waits: there will be no connection any more; any thread."""


class ScriptRun(Outcome[BaseException | None], Generic[T]):
    """A script that runs once, as soon as there is a connection; any thread may wait for it.

    The timeout is for all of it, or, with ``each_step``, for each answer that it waits for.
    """

    def __init__(
        self, session: Session, coroutine: Coroutine[Any, None, T], timeout: float, *, each_step: bool = False
    ) -> None:
        super().__init__()
        self._each_step = each_step
        #: When it began to wait for an answer, on the monotonic clock.
        self._active = 0.0
        self._session = session
        self._coroutine = coroutine
        self._timeout = timeout
        self._connection: Connection | None = None
        self._timer: Timer | None = None
        self._script: Script | None = None
        self._began = False
        self._result: T | None = None

    def result(self) -> T:
        """Return its result, or raise its error; it has ended."""
        if self.value is not None:
            raise self.value
        return self._result  # type: ignore[return-value] # it is set, where there is no error

    def begin(self, connection: Connection) -> None:
        """Wait for a connection to be open; the I/O thread's."""
        self._connection = connection
        self._timer = connection.loop.call_later(self._timeout, self._expire)

    def on_unblocked(self) -> None:
        """Do nothing: a script that waits for a confirm gets it now."""

    def on_open(self) -> None:
        """Run the script."""
        if self._connection is not None and self._connection.is_open and not self._began:
            self._began, self._active = True, time.monotonic()
            self._script = self._connection.run(self._run())

    def on_lost(self, error: BrokerError) -> None:
        """End it, unless it has not begun and there will be another connection."""
        if self._began or self._connection is None or not self._connection.was_open:
            self.end_all(error)

    def end_all(self, error: BrokerError) -> None:
        """End it with an error; any thread."""
        self._end(fresh(error))

    def stop(self) -> None:
        """Stop it: its result is not needed any more; any thread."""
        if self._connection is not None:
            self._connection.post(self._end, ConnectionLost("the script was stopped"))

    async def _run(self) -> None:
        try:
            self._result = await (self._steps() if self._each_step else self._coroutine)
        except ChannelClosed as closed:
            self._end(fresh(closed.error))
        except Exception as error:
            if where_signals_raise() and not isinstance(error, AmqpRpcError):
                raise
            self._end(error)
        else:
            self._end(None)

    @awaitable
    def _steps(self) -> Generator[Any, None, T]:
        """Run the script, and note when it begins to wait for each answer."""
        steps = self._coroutine.__await__()
        try:
            while True:
                answer = next(steps)
                self._active = time.monotonic()
                yield answer
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # the script's
        finally:
            steps.close()

    def _expire(self) -> None:
        connection = self._connection
        assert connection is not None
        if self._each_step and (left := self._active + self._timeout - time.monotonic()) > 0:
            self._timer = connection.loop.call_later(left, self._expire)
            return
        within = f"within {self._timeout:.3g} s"
        if not self._began:
            self._end(NotConnected(f"no connection to the broker at {connection.address} {within}"))
        elif connection.blocked is not None:
            self._end(BrokerTimeout(f"it was not done {within}: the broker takes no messages ({connection.blocked})"))
        elif self._each_step:
            self._end(BrokerTimeout(f"the broker did not answer {within}"))
        else:
            self._end(BrokerTimeout(f"it was not done {within}; give it more time with timeout="))

    def _end(self, error: BaseException | None) -> None:
        self._session.leave(self)
        self.tell(error)
        if self._timer is not None:
            self._timer.cancel()
        if not self._began:
            self._began = True
            self._coroutine.close()
        elif self._script is not None:
            self._script.stop()


class Session:
    """Opens a connection at the first use, and shares it; every public method is thread-safe.

    `ConfigurationError` is raised if the client is closed, or was used in the process that this one was forked from.
    """

    def __init__(
        self, addresses: Addresses, publisher: Publisher, reply_queue: ReplyQueue, *, name: str, heartbeat: float
    ) -> None:
        self.publisher = publisher
        self.reply_queue = reply_queue
        #: Notified of each connection, in this order; the I/O thread's.
        self._followers: dict[Follower, None] = dict.fromkeys((reply_queue, publisher))
        if any(each.tls or each.password_file for each in addresses):
            from amqp_rpc.amqp.dial import checked  # noqa: PLC0415 - OpenSSL is only for TLS

            checked(addresses)
        self._addresses = addresses
        self._name = name
        self._heartbeat = heartbeat
        #: The next ids. Each has 128 random bits: other ids say nothing about it.
        self._identities: list[str] = []
        #: Guards opening and closing.
        self._lock = threading.RLock()
        self.connection: Connection | None = None
        #: True while the connection is open.
        self._opened = False
        self._closed = False
        #: The process that uses it; None before its first use: a client that has none yet may be one of a child.
        self._process: int | None = None
        #: The threads that wait for something; and calls, and waiters of `watch`, that no thread waits for.
        self.waiting: set[int] = set()
        self.unawaited: set[object] = set()

    def identity(self) -> str:
        """Return a new id, for one message and all its retries."""
        # Before all else that is done for a message: while the interpreter ends, even an import fails.
        self.check_process()
        try:
            return self._identities.pop()
        except IndexError:
            return self._new_identities()

    def _new_identities(self) -> str:
        """Fill the ids up, and return one. One question to the system is for many: each would cost a call 1 µs."""
        digits = os.urandom(16 * _IDENTITIES).hex()
        first, *others = (digits[start : start + 32] for start in range(0, len(digits), 32))
        # Two threads that do so at the same time have two lots.
        self._identities.extend(others)
        return first

    def publish(self, publication: Publication, *, awaited: bool = True) -> None:
        """Publish a message that must not be lost; `confirm` waits for it. ``awaited``: this thread is about to."""
        self.check_process()
        self.publisher.add(publication)
        try:
            loop = self.connected().loop
        except BaseException:
            self.publisher.drop(publication)
            raise
        (loop.leave if awaited else loop.post)(self.publisher.send, publication)

    async def confirm(self, publication: Publication) -> None:
        """Return once a message is confirmed, or raise its error; for users' scripts."""
        if not publication.done() and not await Wait(publication, publication.expires_at):
            self.publisher.expire(publication)
            # If another thread has ended it, that thread is about to report the result.
            if not await Wait(publication, time.monotonic() + _VERDICT):
                publication.tell(self.publisher.too_late(publication))
        if publication.value is not None:
            # A copy: else the publication, its error, and the traceback with the publication keep each other alive.
            raise copy(publication.value)

    def finish(self, script: Coroutine[Any, None, T]) -> T:
        """Run a user's script (`blocking`) on this thread, which blocks where the script waits."""
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

    def purge(self, queue: str) -> None:
        """Empty a queue, where there is a connection."""
        if self.connection is not None:
            self.connection.post(self.publisher.purge, queue)

    async def script(self, coroutine: Coroutine[Any, None, T], *, timeout: float, each_step: bool = False) -> T:
        """Run a channel script once there is a connection, and return its result; for users' scripts.

        The timeout is for all of it, or, with ``each_step``, for each answer that it waits for.

        Raises:
            BrokerError: The broker closed a channel, and the script did not handle that; or there was no connection,
                or the time was over.
        """
        run = ScriptRun(self, coroutine, timeout, each_step=each_step)
        try:
            self.check_process()
            self._enter(run)
        except BaseException:
            coroutine.close()
            raise
        try:
            await Wait(run, time.monotonic() + (_FOREVER if each_step else timeout + _VERDICT))
        except BaseException:
            run.stop()
            raise
        if not run.done():
            # This process was stopped for longer than that, and this thread goes on before the I/O thread does.
            run.stop()
            raise BrokerTimeout(f"it was not done within {timeout:.3g} s")
        return run.result()

    def open_channel(self) -> BrokerAnswer[Channel]:
        """Open a channel, in a channel script."""
        assert self.connection is not None
        return self.connection.open_channel()

    def pause(self, seconds: float) -> BrokerAnswer[None]:
        """Return an answer that comes after so many seconds, in a channel script."""
        assert self.connection is not None
        return self.connection.pause(seconds)

    def keep(self, keeper: Keeper) -> None:
        """Have a keeper follow the connection, and each later one, until it leaves."""
        self.check_process()
        self._enter(keeper)

    def leave(self, follower: Follower) -> None:
        """Have it follow no longer; on the I/O thread, or after its end."""
        self._followers.pop(follower, None)

    def wait(self, awaited: Awaited, until: float) -> None:
        """Wait for an end, at most until that time on the monotonic clock.

        At the connection's sockets, where no other thread waits: there the reply is read by the thread that wants it,
        and no other has to be woken, for it or by it.
        """
        connection = self.connection
        if connection is None or self._closed or self._process != os.getpid():
            awaited.wait(until)
            return
        if sys.is_finalizing():
            return  # the I/O thread runs no more: nothing will end it
        loop, me = connection.loop, get_ident()
        self.waiting.add(me)
        try:
            # With more than one, those whose reply has come would have to wake the next reader.
            if len(self.waiting) > 1 or self.unawaited or not loop.attend(awaited, until):
                loop.recall()
            # The loop may have ended as well, with the connection that it was for.
            if not awaited.done():
                awaited.wait(until)
        finally:
            self.waiting.discard(me)
            if self.waiting or self.unawaited:
                loop.recall()

    def watch(self, waiter: object) -> None:
        """Keep the I/O thread at the sockets, for a waiter that is no thread, until `unwatch`."""
        self.unawaited.add(waiter)
        if self.connection is not None:
            self.connection.loop.recall()

    def unwatch(self, waiter: object) -> None:
        """Note that a waiter waits no more."""
        self.unawaited.discard(waiter)

    def ended(self) -> None:
        """Wake the thread at the sockets: a thread that is not at the connection's work has ended something."""
        connection = self.connection
        if self.waiting and connection is not None:
            # It looks whether its own has ended only when something happens at the sockets.
            connection.post(int)

    def connected(self) -> Connection:
        """Return the connection, which is open or about to be.

        Raises:
            ConfigurationError: The client is closed, or this thread is in the middle of the client's own work.
            NotConnected: This process can open no connection.
        """
        connection = self.connection
        if connection is not None and connection.alive:
            if not connection.loop.works_here():
                return connection
            raise ConfigurationError(
                "this call was made in the middle of the client's own work, which it has interrupted on this thread: "
                "a `__del__`, a logging handler or a signal handler may do that. Have another thread make the call. "
                "It did not run"
            )
        try:
            return self._open()
        except OSError as error:
            raise NotConnected(f"this process can open no connection: {error}") from error

    @property
    def elsewhere(self) -> bool:
        """True in a process that was forked from that of the client: the connection is the parent's."""
        return self._process not in (None, os.getpid())

    def check_process(self) -> None:
        """Raise `ConfigurationError` in a process that was forked from the one that has used the client.

        `NotConnected` is raised while the interpreter shuts down.
        """
        process = os.getpid()
        if self._process != process:
            if self._process is not None:
                raise ConfigurationError(
                    "this client was made before fork(), in the parent process; make a new one here"
                )
            # No id was made before: a process that was forked before has none of this one's.
            self._process = process
        if sys.is_finalizing():
            raise NotConnected("the interpreter is shutting down, and sends nothing any more. It did not run")

    def abandon(self) -> None:
        """Close without waiting: the client was collected."""
        if self._process == os.getpid() and self.connection is not None:
            self._closed = True
            self.connection.begin_close()

    async def close(self, timeout: float) -> None:
        """Close the connection, and end all that waits; for users' scripts."""
        if self.elsewhere:
            return  # the connection is the parent's, and so is its end
        with self._lock:
            self._closed = True
            connection = self.connection
        if connection is not None:
            await connection.end(timeout)
        self.publisher.end_all(ConnectionLost("the client was closed before the broker confirmed it"))
        for follower in list(self._followers):
            follower.end_all(ConnectionLost("the client was closed"))
        self.ended()

    # As the connection's listener.

    def on_open(self) -> None:
        """Notify all followers."""
        self._opened = True
        for follower in list(self._followers):
            follower.on_open()

    def on_unblocked(self) -> None:
        """Notify all followers."""
        for follower in list(self._followers):
            follower.on_unblocked()

    def on_lost(self, error: BrokerError) -> None:
        """Notify all followers."""
        # In this order: a thread that learns of an end opens another connection after all have forgotten this one.
        with self._lock:
            for follower in list(self._followers):
                call(follower.on_lost, error)
            if self._opened and isinstance(error, AccessRefused):
                # The broker closed it for what was asked of it, beyond a limit: so it would the next one.
                for follower in list(self._followers):
                    follower.end_all(error)
            self._opened = False

    def _enter(self, follower: Follower) -> None:
        connection = self.connected()

        def enter() -> None:
            follower.begin(connection)
            self._followers[follower] = None
            follower.on_open()

        connection.loop.leave(enter)
        if not connection.alive:
            # It ended between the look and the post: no thread may ever read what was posted.
            follower.end_all(connection.error or ConnectionLost("the client's connection has just ended"))

    def _open(self) -> Connection:
        # pika imports asyncio and more, as much as all the rest: a module that is only imported goes without.
        from amqp_rpc.amqp.connection import Connection  # noqa: PLC0415

        with self._lock:
            if self._closed:
                raise ConfigurationError("this client is closed; make a new one")
            if self.connection is None or not self.connection.alive:
                name = f"{self._name}:{os.getpid()}"
                connection = Connection(self._addresses, [self], name=name, heartbeat=self._heartbeat)
                try:
                    for follower in list(self._followers):
                        follower.begin(connection)
                    connection.start()
                    self.connection = connection
                except BaseException:
                    # Ctrl-C, or no thread to be had: a connection without an owner must not notify anything.
                    connection.begin_close()
                    raise
            return self.connection
