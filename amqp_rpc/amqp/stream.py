"""A TCP or TLS stream of AMQP frames: writes are joined, reads are large, and frames are handed up one by one.

All writes of one turn of the loop leave in one system call. Handing up whole frames keeps pika's buffer at one
frame, so that its slicing costs the same for every message, however much arrived at once.
Frame layout: AMQP 0-9-1 specification, section 4.2.3.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from amqp_rpc.amqp.frames import METHOD, Deliveries
from amqp_rpc.amqp.loop import READ, WRITE, Loop, where_signals_raise

#: Bytes that one read asks for.
READ_SIZE = 256 * 1024
#: Up to this many bytes, copying the pieces into one is cheaper than handing a list to the kernel.
_JOIN_SIZE = 64 * 1024
#: Pieces in one gathered write; Linux takes 1 024. Windows has no such writes.
_MOST_PIECES = 512
_GATHERS = hasattr(socket.socket, "sendmsg")
#: The errors of a peer that sends anything but frames, and of one that answers with an alert of TLS (RFC 8446, 5.1).
NOT_AMQP = "what answers does not speak AMQP"
IS_TLS = "what answers speaks TLS"
TLS_ALERT = 21
#: Octets around a frame's payload: type, channel, size; and the end mark.
_FRAME_OVERHEAD = 8
_PROTOCOL_HEADER = ord("A")
#: The first octet of a frame, or of the protocol header of a peer with another version.
FIRST_OCTETS = frozenset({1, 2, 3, 8, _PROTOCOL_HEADER})

_size_of = struct.Struct(">L").unpack_from


class Stream:
    """One connected socket and the protocol on it; everything belongs to the loop's I/O thread.

    ``protocol``: the receiver of the frames, pika's connection. ``received``: the bytes that have been read already.
    """

    def __init__(self, loop: Loop, sock: socket.socket, protocol: Any, received: bytes = b"") -> None:
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._feed = protocol.data_received
        #: Called with the number of bytes of each read; most of them don't pass through the protocol.
        self.on_bytes: Callable[[int], object] = lambda _count: None
        #: Handles deliveries on a shorter way than through the protocol.
        self.deliveries: Deliveries = Deliveries(self._feed)
        self._out: deque[bytes | memoryview] = deque()
        #: Bytes written so far, and bytes that the kernel has accepted; both together show when a message has left.
        self._written = 0
        self._sent = 0
        self._on_sent: deque[tuple[int, Callable[[], object]]] = deque()
        #: The beginning of a frame whose end has not arrived.
        self._rest = received
        self._started = self._waits_for_write = False
        self._closed = False
        protocol.connection_made(self)

    def start(self) -> None:
        """Start to read and to send."""
        if not self._closed:
            self._started = True
            self._loop.watch(self._sock, READ, self._ready)
            self._loop.before_sleep(self._flush)
            if self._rest:
                received, self._rest = self._rest, b""
                self._hand_up(received)

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

    def get_protocol(self) -> Any:
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
        if self._written - self._sent <= _JOIN_SIZE or not _GATHERS or isinstance(self._sock, ssl.SSLSocket):
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
        elif data[0] not in FIRST_OCTETS:
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
