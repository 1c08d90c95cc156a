"""One AMQP connection, and its reconnects; the only importer of pika. All of it runs on the connection's I/O thread.

Other threads hand over work with `Connection.post`. The I/O thread answers heartbeats, however long handlers take, and
reconnects by itself after a loss. All of pika's errors end here: beyond this file there are only ours.

It is longer than other modules: opening, reopening and pika's callbacks share one state, and pika has one importer.
"""

from __future__ import annotations

import logging
import random
import re
import socket
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import pika
import pika.data
import pika.exceptions
from pika.adapters.select_connection import SelectConnection
from pika.adapters.utils import nbio_interface

from amqp_rpc.amqp.channel import BrokerAnswer, Channel, ChannelClosed, Script
from amqp_rpc.amqp.dial import CLOSED_EARLY, PROTOCOL_HEADER, Dial, advice_for, context_of, words_of
from amqp_rpc.amqp.frames import salvaged
from amqp_rpc.amqp.loop import IOThread, Loop, Timer, any_works_here, call, where_signals_raise
from amqp_rpc.amqp.pending import Outcome, Wait
from amqp_rpc.amqp.stream import IS_TLS, NOT_AMQP, Stream
from amqp_rpc.errors import AccessRefused, BrokerError, ConfigurationError, ConnectionLost, NotConnected
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.headers import read_text
from amqp_rpc.message.refusals import (
    ReplyCode,
    Rights,
    body_too_large,
    connection_refused,
    is_access,
    is_limit,
    largest_body,
    login_not_offered,
)
from amqp_rpc.message.settings import CONNECT_TIMEOUT, Address, Addresses
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import Deadline, Repeats, backoff
from amqp_rpc.message.topology import NOWHERE

logger: logging.Logger = bounded_logger(__name__)

#: Seconds before the first attempt to reconnect, and the most between two attempts.
FIRST_RECONNECT, LONGEST_RECONNECT = 0.1, 1.5
#: The least seconds until the next attempt after the broker refused access to a client that had it before; and the most
#: between two attempts where it closes each connection soon after it was opened.
RECONNECT_REFUSED = 15.0
#: A connection that lives so many times as long as the wait before it was worth it: the waits start anew.
_WORTH = 10.0
#: After so many that were not, the waits may become as long as those after a refusal.
_OFTEN = 5
#: One that lives for so many seconds works: the outage is over.
_WORKED = 5.0

#: Bytes of a body that every broker takes; and up to which a larger one is tried with the next power of two.
_SMALL, _DOUBLED = 16 * 1024, 16 * 1024 * 1024
_FRAME_HEADER = 2


class Listener(Protocol):
    """An object that a connection notifies; every method is called on the I/O thread."""

    def on_open(self) -> None:
        """Declare and consume: the connection is new, and holds nothing of an earlier one."""

    def on_unblocked(self) -> None:
        """Publish what was held back: the broker takes messages again, after an alarm."""

    def on_lost(self, error: BrokerError) -> None:
        """Forget channels and exclusive queues: the connection could not be made, or is gone with them."""


class Connection:
    """A connection to a broker, and its reconnects.

    If the first attempt fails at every address, the listeners are notified and nothing more is tried: a wrong URL is an
    error at once. After a connection that worked, it tries again for ever, with back-off, until `close`.

    Args:
        addresses: Those of the broker; they are tried in random order, so that clients spread over a cluster.
        listeners: Notified of each opening and each loss, in their order.
        name: Its name in the broker's tools.
        label: Its name in the log: a program may have several.
        heartbeat: Seconds between heartbeats, rounded to whole ones as AMQP has them.
        thread, rights: The I/O thread, and the rights that the program uses; its own ones, unless given.
        persistent: True to try again for ever from the beginning.
    """

    def __init__(
        self,
        addresses: Addresses,
        listeners: Sequence[Listener],
        *,
        name: str,
        label: str = "connection",
        heartbeat: float,
        thread: IOThread | None = None,
        persistent: bool = False,
        rights: Rights | None = None,
    ) -> None:
        self._rights = rights or Rights()
        self._addresses = random.sample(addresses, len(addresses))
        #: The current address, or the one that is tried.
        self.address: Address = self._addresses[0]
        self._thread = thread or IOThread(f"amqp_rpc {name}")
        #: Its loop, once it is started.
        self._loop: Loop | None = None
        #: Why it was lost, or could not be made, the last time.
        self.error: BrokerError | None = None
        #: Why the broker takes no messages now (a memory or disk alarm); None while it does.
        self.blocked: str | None = None
        #: Bytes of the largest body that the broker is known to take; and its limit, once that is known.
        self.fits: int = _SMALL
        self._limit: int | None = None
        self._listeners = listeners
        self._name, self._label = name, label
        self._heartbeat = max(1, round(heartbeat))
        #: The broker's version, such as (4, 3), once it was open; empty where the broker does not say.
        self.version: tuple[int, ...] = ()
        #: The attempt to connect, until the broker has answered; and the timer of its deadline.
        self._dial: Dial | None = None
        self._opens_until: Timer | None = None
        self._pika: SelectConnection | None = None
        self._stream: Stream | None = None
        self._services: _Services | None = None
        #: The login of the current attempt, with the password as it is now.
        self._login: _Login | None = None
        #: All that may be open.
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        #: Those that run, or wait for an answer.
        self._scripts: set[Script] = set()
        self._reconnect: Timer | None = None
        self._attempts = 0
        #: Attempts that failed, and connections that did not live for long, in a row.
        self._failures = 0
        #: Connections that did not live for long, since the last one that did.
        self._short_lived = 0
        #: The last wait before an attempt, and when the connection was opened.
        self._waited = self._opened_at = 0.0
        #: The log lines of its outage.
        self._repeats = Repeats()
        #: True once it was open; until then, a failure to connect is final.
        self.was_open: bool = persistent
        self._closing = False
        self._given_up = False
        self._ended = Outcome[None]()

    def start(self) -> None:
        """Have the I/O thread connect."""
        self._loop = self._thread.begin()
        self._loop.post(self._begin)

    @property
    def loop(self) -> Loop:
        """The loop of the I/O thread, once it is started."""
        assert self._loop is not None
        return self._loop

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the I/O thread call ``callback(*args)``; any thread. Before `start` there is no such thread."""
        if self._loop is not None:
            self._loop.post(callback, *args)

    def close(self, timeout: float) -> bool:
        """Close it, and wait for the end of the thread if it owns no other; return whether that came in time.

        Any thread but the I/O thread may call this.
        """
        if not self._thread.alive or self._ended.done():
            return self._thread.join(timeout)
        deadline = Deadline.after(timeout)
        self.begin_close()
        return self._ended.wait(deadline.at) and self._thread.join(deadline.remaining())

    async def end(self, timeout: float) -> None:
        """Close it, and wait for the end of its thread, which owns no other; in users' scripts."""
        until = time.monotonic() + timeout
        if self._thread.alive and not self._ended.done():
            self.begin_close()
            await Wait(self._ended, until)
        if await Wait(self._thread.ended, until):
            self._thread.join(timeout)

    def begin_close(self) -> None:
        """Have it closed, without waiting; any thread."""
        self.post(self._begin_close)

    @property
    def alive(self) -> bool:
        """True while it is connected, or tries to be: posted work will be done."""
        return self._thread.alive and not (self._given_up or self._ended.done())

    @property
    def is_open(self) -> bool:
        """True while channels can be opened and used; the I/O thread's."""
        return self._pika is not None and bool(self._pika.is_open)

    def run(self, coroutine: Coroutine[Any, None, object]) -> Script:
        """Run a channel script up to its first wait, and on with each answer; the I/O thread's.

        It is closed when the connection is lost, or at once where the connection is not open.
        """
        script = Script(coroutine, self._scripts)
        if self.is_open:
            script.resume()
        else:
            script.stop()
        return script

    def pause(self, seconds: float) -> BrokerAnswer[None]:
        """Return an answer that comes after so many seconds."""
        answer = BrokerAnswer[None]()
        self.loop.call_later(seconds, lambda: answer.arrive(None))
        return answer

    def open_channel(self) -> BrokerAnswer[Channel]:
        """Open a channel; the I/O thread's. Where the connection is not open any more, no answer comes."""
        answer = BrokerAnswer[Channel]()
        if self._pika is None or not self._pika.is_open:
            return answer
        stream, frame_max = self._stream, self._pika.params.frame_max
        assert stream is not None

        def opened(raw: Any) -> None:
            channel = _Channel(raw, stream=stream, frame_max=frame_max, rights=self._rights)
            self._channels.add(channel)
            answer.arrive(channel)

        try:
            self._pika.channel(on_open_callback=opened)
        except pika.exceptions.NoFreeChannels:
            most = self._pika.params.channel_max
            full = AccessRefused(
                f"the broker allows a connection {most} channels (channel_max), and all are in use: raise channel_max "
                "in rabbitmq.conf, or use fewer queues in one process"
            )
            answer.fail(ChannelClosed(full, ReplyCode.NOT_ALLOWED))
        return answer

    async def check_size(self, size: int) -> None:
        """Return once it is known that the broker takes a body of so many bytes; in channel scripts.

        The broker closes the channel of a larger one, with all that is consumed or unconfirmed there. So the first
        larger one is tried before it is sent: with zeros, which reach no queue, on a channel of its own.

        Raises:
            MessageTooLarge: It does not take it.
        """
        if size > self.fits and self._limit is None:
            tried = size if size > _DOUBLED else 1 << (size - 1).bit_length()
            try:
                with await self.open_channel() as channel:
                    await channel.confirms()
                    await channel.confirmed(Message(NOWHERE, Properties(), bytes(tried)))
            except ChannelClosed as closed:
                self.learn_limit(str(closed))
            # RabbitMQ looks at the size before it looks whether this user may write to the default exchange: a refusal
            # for that is a proof, too.
            self.fits = max(self.fits, tried) if self._limit is None else self._limit
        if self._limit is not None and size > self._limit:
            raise body_too_large(size, self._limit)

    def learn_limit(self, reason: str) -> int | None:
        """Learn the broker's limit from its refusal of a message, and return it; None if it is about another thing."""
        limit = largest_body(reason)
        if limit is not None:
            self._limit = self.fits = limit
        return limit

    def when_sent(self, callback: Callable[[], object]) -> None:
        """Call back once the kernel has taken all that was published so far; the I/O thread's."""
        assert self._stream is not None
        self._stream.when_sent(callback)

    def _begin(self) -> None:
        self.loop.on_interrupt(self, self._interrupted)
        self._connect()

    def _end(self) -> None:
        if not self._ended.done():
            self.loop.off_interrupt(self)
            self._ended.tell(None)
            self._thread.end()

    def _connect(self) -> None:
        if self._closing:
            self._end()
            return
        self.address = self._addresses[self._attempts % len(self._addresses)]
        self._attempts += 1
        self._opens_until = self.loop.call_later(CONNECT_TIMEOUT, self._too_late)
        self._try(self._dial_address)

    def _try(self, step: Callable[..., None], *args: Any) -> None:
        """Take a step of an attempt to connect: what it raises, such as a file that can't be read, is its error."""
        try:
            step(*args)
        except ConfigurationError as error:
            self._gone(NotConnected(f"no connection to a broker at {self.address}: {error}"))
        except Exception as error:
            if where_signals_raise():
                raise
            for sock in (each for each in args if isinstance(each, socket.socket)):
                self.loop.unwatch(sock)
                sock.close()
            self._gone(_not_connected(error, self.address))

    def _dial_address(self) -> None:
        address = self.address
        # Files are read for each attempt: so they can be replaced while the program runs.
        context = None if address.tls is None else context_of(address.tls)
        self._login = _Login(address)
        to, answered = (address.host, address.port, address.tls, context), partial(self._try, self._answered)
        self._dial = Dial(self.loop, *to, on_answered=answered, on_failed=self._not_reached)
        self._dial.start()

    def _answered(self, sock: socket.socket, received: bytes) -> None:
        """Open the connection: a broker has sent its first bytes."""
        self._dial = None
        address = self.address
        parameters = pika.ConnectionParameters(
            host=address.host,
            port=address.port,
            virtual_host=address.vhost,
            credentials=self._login,
            heartbeat=self._heartbeat,
            client_properties={"connection_name": self._name, "product": "amqp_rpc"},
        )
        self._services = _Services(self)
        self._pika = _PikaConnection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._not_opened,
            on_close_callback=self._lost,
            custom_ioloop=self._services,
            internal_connection_workflow=False,
        )
        self._stream = Stream(self.loop, sock, self._pika, received)
        self._stream.on_bytes = self._heard
        self._stream.start()

    def _not_reached(self, error: Exception) -> None:
        self._gone(_not_connected(error, self.address))

    def _too_late(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
        elif self._stream is not None and self._services is not None:
            self._services.dropped = True
            self._stream.discard()
        self._gone(_not_connected(TimeoutError(), self.address))

    def _stop_clock(self) -> None:
        if self._opens_until is not None:
            self._opens_until.cancel()
            self._opens_until = None

    def _interrupted(self, error: BaseException) -> None:
        """Drop all that may be half done, pika's object too: the I/O thread makes another."""
        if self._dial is not None:
            self._dial.cancel()
        elif self._pika is None or self._services is None:
            return
        else:
            self._services.dropped = True
        if self._stream is not None:
            self._stream.discard()
        for channel in self._channels:
            channel.drop()
        for script in self._scripts:
            script.freeze()
        self.loop.share(False)
        self.post(self._gone, ConnectionLost(f"the connection to {self.address} was dropped: {error}"))

    def _opened(self, connection: Any) -> None:
        self._stop_clock()
        if self._closing:
            connection.close()
            return
        if self.was_open and self._failures:
            times = self._repeats.again(said := f"{self._label}: open again to {self.address}")
            level = logging.DEBUG if times is None else logging.WARNING
            logger.log(level, "%s, attempt=%d%s", said, self._failures, times or "")
        if not self.was_open and (unverified := Addresses([self.address]).unverified()) is not None:
            logger.warning("%s: %s", self._label, unverified)
        # Another node may have another limit, and another version.
        self.was_open, self.version = True, _version(connection.server_properties)
        self.blocked, self.fits, self._limit = None, _SMALL, None
        self._opened_at = time.monotonic()
        # Not yet: the broker may close each connection when it is asked for more than a limit allows.
        self.loop.call_later(_WORKED, lambda: self._has_worked(connection))
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        for listener in self._listeners:
            listener.on_open()

    def _has_worked(self, connection: Any) -> None:
        """End the outage, if this connection is still the one."""
        if connection is self._pika and self._failures:
            self._failures = self._short_lived = 0
            if (times := self._repeats.over()) is not None:
                logger.warning("%s: has worked for %.0f s%s", self._label, _WORKED, times)

    def _not_opened(self, connection: Any, reason: BaseException) -> None:
        refused = self._login and self._login.refused
        self._gone(refused or _not_connected(connection.ended_with or reason, self.address))

    def _lost(self, _connection: Any, reason: BaseException) -> None:
        self._short_lived += 1
        if time.monotonic() - self._opened_at > _WORTH * self._waited:
            self._failures = self._short_lived = 0
        kind: type[BrokerError] = ConnectionLost
        if isinstance(reason, pika.exceptions.ConnectionClosedByBroker):
            kind = AccessRefused if is_access(reason.reply_code, reason.reply_text) else ConnectionLost
        self._gone(kind(f"the connection to {self.address} was lost: {_say(reason)}"))

    def _gone(self, error: BrokerError) -> None:
        self._pika = self._stream = self._dial = None
        self._stop_clock()
        self.error = error
        for script in list(self._scripts):
            script.stop()
        self._failures += 1
        if not (self.was_open or self._closing) and self._failures < len(self._addresses):
            logger.info("%s: %s; trying another address", self._label, error)
            self._connect()
            return
        # In this order: a thread that learns of the loss may call again at once, and needs another connection then.
        self._given_up = self._closing or not self.was_open
        if not self._closing:
            for listener in self._listeners:
                # Whatever one of them raises, the others hear of it, and the connection is made again.
                call(listener.on_lost, error)
        if self._given_up:
            self._end()
            return
        delay = self._waited = self._pause(error)
        times = self._repeats.again(str(error))
        if times is None:
            level = logging.DEBUG
        else:
            # An outage is one warning at its beginning, others at growing intervals, and one at its end.
            first = self._failures == 1 or bool(times) or isinstance(error, AccessRefused)
            level = logging.WARNING if first else logging.INFO
        logger.log(level, "%s: %s; trying again in %.1f s%s", self._label, error, delay, times or "")
        if self._reconnect is not None:
            self._reconnect.cancel()
        self._reconnect = self.loop.call_later(delay, self._connect)

    def _pause(self, error: BrokerError) -> float:
        """Return the seconds until the next attempt."""
        if not isinstance(error, AccessRefused):
            most = LONGEST_RECONNECT if self._short_lived < _OFTEN else RECONNECT_REFUSED
            return backoff(self._failures, first=FIRST_RECONNECT, most=most)
        # It worked before: the password is being changed, or others have all that a limit allows. To ask often only
        # fills the broker's log.
        first = FIRST_RECONNECT if is_limit(str(error)) else RECONNECT_REFUSED
        return backoff(self._failures, first=first, most=RECONNECT_REFUSED)

    def _begin_close(self) -> None:
        self._closing = True
        if self._pika is None:
            if self._dial is not None:
                self._dial.cancel()
            self._stop_clock()
            self._end()
        elif self._stream is not None and not self._pika.is_open and not self._pika.is_closing:
            # In the middle of the handshake there is no peer yet for a good-bye.
            self._stream.abort(ConnectionAbortedError("closed while it was being opened"))
        elif not (self._pika.is_closing or self._pika.is_closed):
            self._pika.close()

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        logger.warning("%s: blocked by the broker, which takes no messages: %s", self._label, self.blocked)

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = None
        logger.warning("%s: unblocked, the broker takes messages again", self._label)
        for listener in self._listeners:
            listener.on_unblocked()

    def _heard(self, count: int) -> None:
        # By this number pika knows that the peer is alive: without it, it ends a connection that only delivers.
        if self._pika is not None:
            self._pika.bytes_received += count


class _Login(pika.PlainCredentials):
    """The user, with the password that is in the file now; or, with EXTERNAL, the certificate alone."""

    def __init__(self, address: Address) -> None:
        super().__init__(address.user, address.current_password())
        self._address = address
        #: The error, if the broker does not offer this kind of login.
        self.refused: BrokerError | None = None

    def __deepcopy__(self, _memo: object) -> _Login:
        # pika copies its parameters: here is read what the broker offers.
        return self

    def response_for(self, start: Any) -> Any:
        wanted = self._address.auth_mechanism.upper()
        offered = bytes(start.mechanisms).decode(errors="replace").split()
        if wanted not in offered:
            self.refused = login_not_offered(wanted, offered, self._address)
            return None, None
        return (wanted, b"") if wanted == "EXTERNAL" else super().response_for(start)


class _Channel(Channel):
    def to_raw(self, properties: Properties) -> pika.BasicProperties:
        return pika.BasicProperties(**{name: getattr(properties, name) for name in Properties.__slots__})


class _PikaConnection(SelectConnection):
    """pika's connection, made to survive a message whose properties pika can't read.

    A header with, say, a timestamp of the year 60 000 raises in pika; the connection would end, the broker would
    deliver the message again, and so for ever. Such a message is handed on without that header (`frames.salvaged`).
    """

    _frame_buffer: bytes
    _error: Exception | None
    #: Why its stream ended before it was open: pika keeps no more than a guess at what that may mean.
    ended_with: Exception | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        #: Anyone may publish any number of such messages.
        self._unreadable = Repeats()
        super().__init__(*args, **options)

    def _on_stream_terminated(self, error: Exception | None) -> None:
        ended = error or self._error
        if isinstance(ended, pika.exceptions.ConnectionClosedByBroker):
            self.ended_with = ended
        super()._on_stream_terminated(error)

    # As the receiver of a stream's frames.

    def connection_made(self, transport: Any) -> None:
        self._proto_connection_made(transport)

    def connection_lost(self, error: BaseException | None) -> None:
        self._proto_connection_lost(error)

    def eof_received(self) -> Any:
        return self._proto_eof_received()

    def data_received(self, data: bytes) -> None:
        self._proto_data_received(data)

    def _adapter_emit_data(self, data: bytes) -> None:
        # The dial has sent the header.
        if data != PROTOCOL_HEADER:
            super()._adapter_emit_data(data)

    def _read_frame(self) -> Any:
        try:
            return super()._read_frame()
        except Exception as error:
            if where_signals_raise() or self._frame_buffer[:1] != bytes([_FRAME_HEADER]):
                raise
            if (times := self._unreadable.again("header")) is not None:
                logger.warning("message: a header can't be read; handed on without it, and not run: %r%s", error, times)
            self._frame_buffer = salvaged(self._frame_buffer, pika.data.decode_table)
            return super()._read_frame()


class _Services:
    """pika's seam for I/O, put on our loop: see `pika.adapters.utils.nbio_interface`. `Dial` connects, not pika."""

    def __init__(self, connection: Connection) -> None:
        self._loop = connection.loop
        #: True once pika's object is not used any more: its timers and answers lead nowhere.
        self.dropped = False

    def _unless_dropped(self, callback: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if not self.dropped:
                callback(*args)

        return call

    def get_native_ioloop(self) -> Loop:
        return self._loop

    # pika's own functions are untyped.

    def add_callback_threadsafe(self, callback: Any) -> None:
        self._loop.post(self._unless_dropped(callback))

    def call_later(self, delay: float, callback: Any) -> Any:
        return self._loop.call_later(delay, self._unless_dropped(callback))


def _not_of_ours(record: logging.LogRecord) -> bool:
    """Return whether a line of pika's log is of a connection that the program made itself, or is below a warning."""
    return record.levelno < logging.WARNING or not any_works_here()


# pika logs each failure several times, also of an address where the next one works; our own lines have what matters.
for _name in list(logging.root.manager.loggerDict):
    if _name.startswith("pika."):
        logging.getLogger(_name).addFilter(_not_of_ours)

nbio_interface.AbstractIOServices.register(_Services)
nbio_interface.AbstractStreamTransport.register(Stream)


def _version(server: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Return the first two numbers of the broker's version."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", read_text((server or {}).get("version")) or "")
    return tuple(map(int, found.groups())) if found else ()


def _not_connected(reason: BaseException, address: Address) -> BrokerError:
    """Return the error for a failed attempt to connect, in words that say what to do."""
    if isinstance(reason, pika.exceptions.ConnectionClosedByBroker):
        return connection_refused(reason.reply_code, reason.reply_text, address)
    advice = advice_for(reason, address)
    return NotConnected(f"no connection to a broker at {address}: {_say(reason)}{advice and f'. {advice}'}")


#: pika's errors for a stream that ends before the connection is open.
_IN_HANDSHAKE = (
    pika.exceptions.IncompatibleProtocolError,
    pika.exceptions.ProbableAuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
)


def _say(reason: BaseException) -> str:
    """Return a cause in a few words."""
    if isinstance(reason, pika.exceptions.ChannelClosed | pika.exceptions.ConnectionClosed):
        return f"{reason.reply_code} {reason.reply_text}"
    if isinstance(reason, _IN_HANDSHAKE):
        # pika keeps the cause as text alone; the words are those of `stream`.
        return next((each for each in (NOT_AMQP, IS_TLS) if each in str(reason)), CLOSED_EARLY)
    return words_of(TimeoutError() if isinstance(reason, pika.exceptions.ConnectionOpenAborted) else reason)
