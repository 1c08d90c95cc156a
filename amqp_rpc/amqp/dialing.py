"""From a host name to a stream: name look-up, TCP connect and TLS handshake, each on the loop and each cancellable."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from amqp_rpc.amqp.loop import READ, WRITE, Loop
from amqp_rpc.amqp.stream import Stream, StreamProtocol

_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)


class Dialing:
    """A step that is under way; ``cancel`` keeps its result from being told."""

    def __init__(self, loop: Loop, on_done: Callable[[Any], object], sock: socket.socket | None = None) -> None:
        self._loop = loop
        self._on_done: Callable[[Any], object] | None = on_done
        self._sock = sock

    def cancel(self) -> bool:
        """Take it back; return whether it was still under way."""
        was_under_way, self._on_done = self._on_done is not None, None
        self._unwatch()
        return was_under_way

    def finish(self, result: Any) -> None:
        """Tell the result, in a later turn of the loop, unless it was cancelled."""
        self._unwatch()
        self._loop.call_later(0, lambda: self._tell(result))

    def _tell(self, result: Any) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(result)

    def _unwatch(self) -> None:
        if self._sock is not None:
            self._loop.unwatch(self._sock)


def resolve(loop: Loop, on_done: Callable[[Any], object], host: str, port: int, *rest: int) -> Dialing:
    """Look a name up; ``on_done`` gets the addresses or the error.

    The look-up has a thread of its own: it can take many seconds, in which calls must end at their deadlines.
    """
    step = Dialing(loop, on_done)

    def look_up() -> None:
        try:
            found: Any = socket.getaddrinfo(host, port, *rest)
        except (OSError, UnicodeError) as error:
            found = error
        loop.post(step.finish, found)

    try:
        threading.Thread(target=look_up, name=f"amqp_rpc look-up of {host}", daemon=True).start()
    except RuntimeError as error:  # the process may have no more threads
        step.finish(OSError(errno.EAGAIN, str(error)))
    return step


def open_tcp(loop: Loop, sock: socket.socket, address: Any, on_done: Callable[[Any], object]) -> Dialing:
    """Connect a non-blocking socket; ``on_done`` gets None or the error."""
    step = Dialing(loop, on_done, sock)
    code = sock.connect_ex(address)
    if code not in _IN_PROGRESS:
        step.finish(OSError(code, os.strerror(code)))
        return step

    def writable(_events: int) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        # OSError picks the subclass for the number: ConnectionRefusedError says more than OSError.
        step.finish(OSError(code, os.strerror(code)) if code else None)

    loop.watch(sock, WRITE, writable)
    return step


def open_stream(
    loop: Loop,
    sock: socket.socket,
    protocol_factory: Callable[[], StreamProtocol],
    on_done: Callable[[Any], object],
    context: ssl.SSLContext | None,
    hostname: str | None,
) -> Dialing:
    """Make a stream of a connected socket, over TLS where there is a context; ``on_done`` gets it or the error."""
    if context is None:
        step = Dialing(loop, on_done)
        _link(loop, sock, protocol_factory(), step)
        return step
    secured = context.wrap_socket(sock, server_hostname=hostname, do_handshake_on_connect=False)
    step = Dialing(loop, on_done, secured)

    def shake(_events: int = 0) -> None:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            loop.watch(secured, READ, shake)
        except ssl.SSLWantWriteError:
            loop.watch(secured, WRITE, shake)
        except OSError as error:
            step.finish(error)
            secured.close()
        else:
            loop.unwatch(secured)
            _link(loop, secured, protocol_factory(), step)

    shake()
    return step


def _link(loop: Loop, sock: socket.socket, protocol: StreamProtocol, step: Dialing) -> None:
    stream = Stream(loop, sock, protocol)
    step.finish((stream, protocol))
    # In this order: pika must know its stream before the first bytes arrive.
    loop.call_later(0, stream.start)
