"""The way to a broker: look-up, TCP, TLS and the first bytes of AMQP, at each address of its name.

It is a seam: it knows sockets, and nothing of pika. The addresses of a name are tried a quarter of a second apart, and
the first one that answers in AMQP wins. So an address that is dead, or where something else listens, costs no more than
that: RFC 8305, "Happy Eyeballs", which stops at TCP. Here the race goes on to the broker's first bytes, because a
forwarded port often accepts connections and then says nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any

from amqp_rpc.amqp.loop import READ, WRITE, Loop, Timer
from amqp_rpc.amqp.stream import FIRST_OCTETS, IS_TLS, NOT_AMQP, READ_SIZE, TLS_ALERT

#: The first bytes of a client, AMQP 0-9-1 specification, section 4.2.2. The broker says nothing before them.
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: Seconds until the next address is tried as well: RFC 8305, section 5.
NEXT_ADDRESS = 0.25
#: The error of a peer that closes the connection in answer to the header.
CLOSED_EARLY = "the connection was closed during the AMQP handshake"

_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)


class Dial:
    """One attempt to reach a broker; all of it belongs to the I/O thread.

    Args:
        loop: The loop of that thread.
        host: Its name or its address.
        port: Its port.
        context: For TLS; None without.
        on_answered: Called with the socket, in non-blocking mode, and the first bytes that the broker sent.
        on_failed: Called with the error when every address has failed.
    """

    def __init__(
        self,
        loop: Loop,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        *,
        on_answered: Callable[[socket.socket, bytes], object],
        on_failed: Callable[[Exception], object],
    ) -> None:
        self._loop = loop
        self._host, self._port, self._context = host, port, context
        self._on_answered, self._on_failed = on_answered, on_failed
        self._left: deque[Any] = deque()
        self._attempts: set[_Attempt] = set()
        self._next: Timer | None = None
        self._error: Exception | None = None
        self._over = False

    def start(self) -> None:
        """Look the name up.

        The look-up has a thread of its own: it can take many seconds, in which calls must end at their deadlines.
        """

        def look_up() -> None:
            try:
                found: Any = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                found = error
            self._loop.post(self._found, found)

        try:
            threading.Thread(target=look_up, name=f"amqp_rpc look-up of {self._host}", daemon=True).start()
        except RuntimeError as error:  # the process may have no more threads
            self._loop.post(self._found, OSError(errno.EAGAIN, str(error)))

    def cancel(self) -> None:
        """Give it up: nothing is called back any more."""
        self._over = True
        if self._next is not None:
            self._next.cancel()
        for attempt in self._attempts:
            attempt.close()
        self._attempts.clear()

    def _found(self, found: Any) -> None:
        if self._over:
            return
        if isinstance(found, Exception):
            self._fail(found)
            return
        self._left.extend(_in_turn(found))
        self._try_next()

    def _try_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if not self._left:
            return
        address = self._left.popleft()
        try:
            attempt = _Attempt(self, self._loop, address, self._context, self._host)
        except OSError as error:  # a family that this system does not have
            self._has_failed(None, error)
            return
        self._attempts.add(attempt)
        if self._left:
            self._next = self._loop.call_later(NEXT_ADDRESS, self._try_next)
        attempt.start()

    def answered(self, attempt: _Attempt, data: bytes) -> None:
        """Take the first address that has answered, and give up the others."""
        self._attempts.discard(attempt)
        self.cancel()
        self._on_answered(attempt.sock, data)

    def failed(self, attempt: _Attempt, error: Exception) -> None:
        """Try the next address at once, or report the error of the last one."""
        attempt.close()
        self._has_failed(attempt, error)

    def _has_failed(self, attempt: _Attempt | None, error: Exception) -> None:
        if attempt is not None:
            self._attempts.discard(attempt)
        # A refused connection says the least: most names have an address where nothing listens.
        if self._error is None or not isinstance(error, ConnectionRefusedError):
            self._error = error
        if self._left:
            self._try_next()
        elif not self._attempts:
            self._fail(self._error)

    def _fail(self, error: Exception) -> None:
        self.cancel()
        self._on_failed(error)


class _Attempt:
    """One address: its socket, up to the first bytes that come from there."""

    def __init__(self, dial: Dial, loop: Loop, address: Any, context: ssl.SSLContext | None, host: str) -> None:
        self._dial = dial
        self._loop = loop
        family, kind, protocol, _, self._address = address
        self._context = context
        self._host = host
        self.sock: socket.socket = socket.socket(family, kind, protocol)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Connect."""
        code = self.sock.connect_ex(self._address)
        if code in _IN_PROGRESS:
            self._loop.watch(self.sock, WRITE, self._connected)
        else:
            # In a later turn, since the dial is in the middle of its own work now.
            self._loop.post(self._fail, OSError(code, os.strerror(code)))

    def close(self) -> None:
        """Close the socket; nothing is called back any more."""
        self._loop.unwatch(self.sock)
        self.sock.close()

    def _fail(self, error: Exception) -> None:
        if self.sock.fileno() >= 0:
            self._dial.failed(self, error)

    def _connected(self, _events: int) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            # OSError picks the subclass for the number: ConnectionRefusedError says more than OSError.
            self._fail(OSError(code, os.strerror(code)))
            return
        self._loop.unwatch(self.sock)
        if self._context is None:
            self._greet()
            return
        try:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        self._shake()

    def _shake(self, _events: int = 0) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(self.sock, READ, self._shake)
        except ssl.SSLWantWriteError:
            self._loop.watch(self.sock, WRITE, self._shake)
        except OSError as error:
            self._fail(error)
        else:
            self._greet()

    def _greet(self) -> None:
        try:
            # Eight bytes fit into the buffer of a new connection.
            self.sock.send(PROTOCOL_HEADER)
        except OSError as error:
            self._fail(error)
            return
        self._loop.watch(self.sock, READ, self._answered)

    def _answered(self, _events: int) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not data:
            self._fail(ConnectionError(CLOSED_EARLY))
        elif data[0] not in FIRST_OCTETS:
            self._fail(ConnectionError(IS_TLS if data[0] == TLS_ALERT else NOT_AMQP))
        else:
            self._loop.unwatch(self.sock)
            self._dial.answered(self, data)


def _in_turn(addresses: list[Any]) -> list[Any]:
    """Return addresses with those of IPv4 and IPv6 in turn, in the system's order otherwise: RFC 8305, section 4."""
    families: defaultdict[int, list[Any]] = defaultdict(list)
    for address in addresses:
        families[address[0]].append(address)
    return [each for each in chain.from_iterable(zip_longest(*families.values())) if each is not None]
