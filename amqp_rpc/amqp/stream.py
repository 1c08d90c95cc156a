"""A TCP or TLS stream of AMQP frames: writes are joined, reads are large, and frames are handed up one by one.

It is reached in three steps: name look-up, TCP connect and TLS handshake, each on the loop and each cancellable.

All writes of one turn of the loop leave in one system call. Handing up whole frames keeps pika's buffer at one
frame, so that its slicing costs the same for every message, however much arrived at once.
Frame layout: AMQP 0-9-1 specification, section 4.2.3.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol, Self

from amqp_rpc.amqp.frames import METHOD, Deliveries
from amqp_rpc.amqp.loop import READ, WRITE, Loop, where_signals_raise

_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)
#: Bytes that one read asks for.
READ_SIZE = 256 * 1024
#: Up to this many bytes, copying the pieces into one is cheaper than handing a list to the kernel.
_JOIN_SIZE = 64 * 1024
#: Pieces in one gathered write; Linux takes 1 024.
_MOST_PIECES = 512
#: The error of a peer that sends anything but frames.
NOT_AMQP = "what answers does not speak AMQP"
#: Octets around a frame's payload: type, channel, size; and the end mark.
_FRAME_OVERHEAD = 8
_PROTOCOL_HEADER = ord("A")
#: The first octet of a frame, or of the protocol header of a peer with another version.
_FIRST_OCTETS = frozenset({1, 2, 3, 8, _PROTOCOL_HEADER})

_size_of = struct.Struct(">L").unpack_from


class StreamProtocol(Protocol):
    """The receiver of the frames: pika's connection."""

    def connection_made(self, transport: Any) -> Any: ...  # noqa: D102 - pika's interface
    def connection_lost(self, error: BaseException | None) -> None: ...  # noqa: D102 - pika's interface
    def eof_received(self) -> Any: ...  # noqa: D102 - pika's interface
    def data_received(self, data: bytes) -> None: ...  # noqa: D102 - pika's interface


class Stream:
    """One connected socket and the protocol on it; everything belongs to the loop's I/O thread."""

    def __init__(self, loop: Loop, sock: socket.socket, protocol: StreamProtocol) -> None:
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._feed = protocol.data_received
        #: Called with the number of bytes of each read; most of them don't pass through the protocol.
        self.on_bytes: Callable[[int], object] = lambda _count: None
        #: Handles deliveries on a shorter way than through the protocol.
        self.deliveries = Deliveries(self._feed)
        self._out: deque[bytes | memoryview] = deque()
        #: Bytes written so far, and bytes that the kernel has accepted; both together show when a message has left.
        self._written = 0
        self._sent = 0
        self._on_sent: deque[tuple[int, Callable[[], object]]] = deque()
        #: The beginning of a frame whose end has not arrived.
        self._rest = b""
        self._started = self._waits_for_write = False
        self._closed = False
        protocol.connection_made(self)

    def start(self) -> None:
        """Start to read and to send."""
        if not self._closed:
            self._started = True
            self._loop.watch(self._sock, READ, self._ready)
            self._loop.before_sleep(self._flush)

    def write(self, data: bytes | memoryview) -> None:
        """Send these bytes at the end of the turn."""
        if not self._out:
            self._loop.before_sleep(self._flush)
        self._out.append(data)
        self._written += len(data)

    def when_sent(self, callback: Callable[[], object]) -> None:
        """Call back once the kernel has accepted all bytes written so far; never, if the stream breaks before."""
        self._on_sent.append((self._written, callback))
        if not self._out:
            self._loop.before_sleep(self._flush)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the kernel has not accepted yet."""
        return self._written - self._sent

    def get_protocol(self) -> StreamProtocol:
        """Return the receiver of the frames."""
        return self._protocol

    def discard(self) -> None:
        """Close at once, without a notice to the protocol."""
        if not self._closed:
            self._closed = True
            self._loop.unwatch(self._sock)
            self._sock.close()

    def abort(self, error: BaseException | None = None) -> None:
        """Close at once; the protocol is notified, with the error, in a later turn, as pika expects."""
        self._close(error)

    def _flush(self) -> None:
        if self._started and not (self._closed or self._waits_for_write):
            self._send()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._send()
        if events & READ and not self._closed:
            self._receive()

    def _send(self) -> None:
        try:
            while self._out:
                self._taken(self._send_some())
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not self._waits_for_write:
                self._waits_for_write = True
                self._loop.watch(self._sock, READ | WRITE, self._ready)
        except OSError as error:
            self._close(error)
        else:
            if self._waits_for_write:
                self._waits_for_write = False
                self._loop.watch(self._sock, READ, self._ready)
        while self._on_sent and self._on_sent[0][0] <= self._sent:
            self._on_sent.popleft()[1]()

    def _send_some(self) -> int:
        if len(self._out) == 1:
            return self._sock.send(self._out[0])
        if self._written - self._sent <= _JOIN_SIZE or isinstance(self._sock, ssl.SSLSocket):
            joined = b"".join(self._out)
            self._out.clear()
            self._out.append(joined)
            return self._sock.send(joined)
        return self._sock.sendmsg(islice(self._out, _MOST_PIECES))

    def _taken(self, count: int) -> None:
        self._sent += count
        while count:
            piece = self._out.popleft()
            if count < len(piece):
                self._out.appendleft(memoryview(piece)[count:])
                return
            count -= len(piece)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
            while data:
                self._hand_up(data)
                # TLS decrypts whole records: bytes in its buffer make no socket readable.
                if self._closed or not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                    return
                data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._close(error)
            return
        if not self._protocol.eof_received():
            self._close(None)

    def _hand_up(self, data: bytes) -> None:
        self.on_bytes(len(data))
        if self._rest:
            data = self._rest + data
        elif data[0] not in _FIRST_OCTETS:
            self._close(ValueError(f"{NOT_AMQP}: it sent {data[:20]!r}"))
            return
        position, end = 0, len(data)
        take, take_whole = self.deliveries.take, self.deliveries.take_whole
        try:
            while end - position >= _FRAME_OVERHEAD:
                after = take_whole(data, position, end) if data[position] == METHOD else 0
                if not after:
                    header = data[position] == _PROTOCOL_HEADER
                    after = position + _FRAME_OVERHEAD + (0 if header else _size_of(data, position + 3)[0])
                    if after > end:
                        break
                    if not take(data, position, after):
                        self._feed(data[position:after])
                position = after
                if self._closed:
                    return
        except Exception as error:
            if where_signals_raise():
                raise
            self._close(error)
            return
        self._rest = data[position:] if position else data

    def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.unwatch(self._sock)
        if error is None and self._out:
            self._last_words()
        self._sock.close()
        self._out.clear()
        self._on_sent.clear()
        self._loop.post(self._protocol.connection_lost, error)

    def _last_words(self) -> None:
        """Send the waiting bytes that the kernel accepts at once: a close-ok that the peer waits for."""
        try:
            while self._out:
                self._taken(self._send_some())
        except OSError:
            return  # the peer is gone, or does not read the rest


class DialStep:
    """One step on the way to a stream: it calls back with the result, or the error; ``cancel`` drops both."""

    def __init__(self, loop: Loop, on_done: Callable[[Any], object]) -> None:
        self._loop = loop
        self._on_done: Callable[[Any], object] | None = on_done
        self._sock: socket.socket | None = None

    def resolve(self, host: str, port: int, *rest: int) -> Self:
        """Look a name up.

        The look-up has a thread of its own: it can take many seconds, in which calls must end at their deadlines.
        """

        def look_up() -> None:
            try:
                found: Any = socket.getaddrinfo(host, port, *rest)
            except (OSError, UnicodeError) as error:
                found = error
            self._loop.post(self._finish, found)

        try:
            threading.Thread(target=look_up, name=f"amqp_rpc look-up of {host}", daemon=True).start()
        except RuntimeError as error:  # the process may have no more threads
            self._finish(OSError(errno.EAGAIN, str(error)))
        return self

    def connect(self, sock: socket.socket, address: Any) -> Self:
        """Connect a non-blocking socket; its result says nothing."""
        code = sock.connect_ex(address)
        if code not in _IN_PROGRESS:
            self._finish(OSError(code, os.strerror(code)))
            return self

        def writable(_events: int) -> None:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # OSError picks the subclass for the number: ConnectionRefusedError says more than OSError.
            self._finish(OSError(code, os.strerror(code)) if code else None)

        self._sock = sock
        self._loop.watch(sock, WRITE, writable)
        return self

    def open_stream(
        self, sock: socket.socket, protocol: StreamProtocol, context: ssl.SSLContext | None, hostname: str | None
    ) -> Self:
        """Make a stream of a connected socket, over TLS if there is a context; the result is it and its protocol."""
        if context is None:
            self._link(sock, protocol)
            return self
        secured = context.wrap_socket(sock, server_hostname=hostname, do_handshake_on_connect=False)
        self._sock = secured

        def shake(_events: int = 0) -> None:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                self._loop.watch(secured, READ, shake)
            except ssl.SSLWantWriteError:
                self._loop.watch(secured, WRITE, shake)
            except OSError as error:
                self._finish(error)
                secured.close()
            else:
                self._loop.unwatch(secured)
                self._link(secured, protocol)

        shake()
        return self

    def cancel(self) -> bool:
        """Cancel the step; return whether it was still running."""
        was_running, self._on_done = self._on_done is not None, None
        self._unwatch()
        return was_running

    def _link(self, sock: socket.socket, protocol: StreamProtocol) -> None:
        stream = Stream(self._loop, sock, protocol)
        self._finish((stream, protocol))
        # In this order: pika must know its stream before the first bytes arrive.
        self._loop.call_later(0, stream.start)

    def _finish(self, result: Any) -> None:
        """Report the result, in a later turn of the loop, unless the step was cancelled."""
        self._unwatch()
        self._loop.call_later(0, lambda: self._report(result))

    def _report(self, result: Any) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(result)

    def _unwatch(self) -> None:
        if self._sock is not None:
            self._loop.unwatch(self._sock)
