"""Free ports of loopback, and the greeting of a broker behind a port. Plain sockets, no AMQP library."""

from __future__ import annotations

import random
import socket
import struct
import time

#: The default port of AMQP.
AMQP_PORT = 5672

#: The ports of private nodes, below the range of outgoing connections on Linux (32768 and up): within that range, a
#: client that keeps connecting to the port of a stopped broker can end up connected to itself.
PRIVATE_PORTS = range(20000, 30000)

#: The first bytes of a client: AMQP 0-9-1 specification, section 4.2.2.
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

_METHOD_FRAME = 1
_CONNECTION_START = b"\x00\x0a\x00\x0a"
_FRAME_HEADER = struct.Struct(">BHI")


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of loopback, with IPv4 and, if there is one, IPv6."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                listener.listen(1)
        except OSError:
            if family is socket.AF_INET or _has_ipv6_loopback():
                return False
    return True


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    """Return a free port of loopback."""
    tries = random.sample(PRIVATE_PORTS, k=100)
    for port in tries:
        if is_free(port):
            return port
    raise OSError(f"none of {len(tries)} ports between {PRIVATE_PORTS[0]} and {PRIVATE_PORTS[-1]} is free")


def greet(port: int, *, host: str = "127.0.0.1", timeout: float = 1.0) -> str | None:
    """Greet a broker in AMQP and return its version, such as ``"3.10.8"``; None if no broker answers in time.

    An accepted connection proves little: it may be a proxy, or a node that is still booting. A ``Connection.Start``
    proves that the broker accepts clients. A broker that does not report its version has ``""``.

    Args:
        port: The port.
        host: The machine.
        timeout: Seconds for the whole exchange.
    """
    until = time.monotonic() + timeout
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(PROTOCOL_HEADER)
            kind, _, size = _FRAME_HEADER.unpack(_receive(connection, _FRAME_HEADER.size, until=until))
            payload = _receive(connection, min(size, 1 << 16), until=until)
    except (OSError, EOFError):
        return None
    if kind != _METHOD_FRAME or not payload.startswith(_CONNECTION_START):
        return None
    return _version(payload)


def _receive(connection: socket.socket, size: int, *, until: float) -> bytes:
    parts = b""
    while len(parts) < size:
        connection.settimeout(max(0.001, until - time.monotonic()))
        part = connection.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts


def _version(payload: bytes) -> str:
    """Return the long string ``version`` of the table of server properties."""
    key = b"\x07versionS"
    found = payload.find(key)
    if found < 0:
        return ""
    start = found + len(key) + 4
    (size,) = struct.unpack(">I", payload[start - 4 : start])
    return payload[start : start + size].decode("ascii", "replace")
