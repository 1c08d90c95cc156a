"""A dial reaches a broker at the first address that answers, whatever listens at the others."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from amqp_rpc import Client, NotConnected
from amqp_rpc.amqp import connection as connection_module
from amqp_rpc.amqp.dial import PROTOCOL_HEADER, Dial
from amqp_rpc.amqp.loop import Loop
from tests.waiting import until

#: A method frame's first bytes: what a broker answers.
ANSWER = b"\x01\x00\x00\x00\x00\x00"


class Peer:
    """A listener on loopback that treats each connection in one way."""

    def __init__(self, treat: Callable[[socket.socket], object]) -> None:
        self.accepted: list[socket.socket] = []
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted.append(sock)
                self._treat(sock)

    def close(self) -> None:
        # It wakes the thread, unlike `close`.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self.accepted:
            sock.close()


def answering(sock: socket.socket) -> None:
    assert sock.recv(8) == PROTOCOL_HEADER
    sock.send(ANSWER)


def silent(_sock: socket.socket) -> None:
    """It accepts, and says nothing, as a forwarded port does."""


def closing(sock: socket.socket) -> None:
    sock.close()


def http(sock: socket.socket) -> None:
    sock.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Peers:
    """Listeners, and the addresses to which every name leads, in this order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[Peer] = []
        self.addresses: list[Any] = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: self.addresses)

    def add(self, treat: Callable[[socket.socket], object]) -> Peer:
        peer = Peer(treat)
        self._made.append(peer)
        self.lead_to(peer.address)
        return peer

    def lead_to(self, address: tuple[Any, ...], family: int = socket.AF_INET) -> None:
        self.addresses.append((family, socket.SOCK_STREAM, 6, "", address))

    def close(self) -> None:
        for peer in self._made:
            peer.close()


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    made = Peers(monkeypatch)
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def dialed() -> tuple[tuple[Any, ...] | None, bytes | Exception]:
    """Return the address that has answered and its first bytes, or None and the error."""
    loop = Loop()
    ended: list[tuple[tuple[Any, ...] | None, bytes | Exception]] = []

    def answered(sock: socket.socket, data: bytes) -> None:
        ended.append((sock.getpeername(), data))
        sock.close()
        loop.stop()

    def failed(error: Exception) -> None:
        ended.append((None, error))
        loop.stop()

    dial = Dial(loop, "name", 5672, None, None, on_answered=answered, on_failed=failed)
    loop.post(dial.start)
    loop.call_later(10, loop.stop)
    loop.run()
    loop.close()
    (end,) = ended
    return end


@pytest.mark.parametrize("other", [silent, closing, http])
def test_an_address_where_no_broker_answers_does_not_keep_the_next_one_from_it(
    peers: Peers, other: Callable[[socket.socket], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, broker = peers.add(other), peers.add(answering)
    waits: list[float] = []
    call_later = Loop.call_later

    def noted(loop: Loop, seconds: float, callback: Callable[[], object]) -> Any:
        waits.append(seconds)
        return call_later(loop, seconds, callback)

    monkeypatch.setattr(Loop, "call_later", noted)
    assert dialed() == (broker.address, ANSWER)
    until(lambda: first.accepted, what="the first address to be tried")
    # The first wait is the test's own.
    assert waits[1] == 0.25


def test_a_family_that_this_system_lacks_is_passed_over(peers: Peers) -> None:
    peers.lead_to(("::1", 1, 0, 0), family=9999)
    broker = peers.add(answering)
    assert dialed() == (broker.address, ANSWER)


def test_addresses_are_tried_in_the_systems_order(peers: Peers) -> None:
    first, second = peers.add(answering), peers.add(answering)
    assert dialed() == (first.address, ANSWER)
    assert second.accepted == []


def test_the_losers_connections_are_closed(peers: Peers) -> None:
    first = peers.add(silent)
    peers.add(answering)
    dialed()
    (sock,) = first.accepted
    sock.settimeout(10)
    assert sock.recv(8) == PROTOCOL_HEADER
    assert sock.recv(8) == b""


def test_the_error_of_several_addresses_is_the_one_that_says_most(peers: Peers) -> None:
    peers.lead_to(("127.0.0.1", free_port()))
    peers.add(http)
    peers.lead_to(("127.0.0.1", free_port()))
    address, error = dialed()
    assert address is None
    assert str(error) == "what answers does not speak AMQP"


def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    _, error = dialed()
    assert isinstance(error, socket.gaierror)


def test_a_broker_that_never_answers_ends_at_the_time_of_one_attempt(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.3)
    peers.add(silent)
    with Client("amqp://name") as client, pytest.raises(NotConnected, match="no answer in time") as caught:
        client.call("anything")
    assert not caught.value.may_have_run


def test_a_client_reaches_the_broker_behind_a_silent_address_without_a_word(
    url: str, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    """As `localhost` is `::1` first, where a container engine listens, and RabbitMQ on `127.0.0.1` alone."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    peers.add(silent)
    peers.lead_to((socket.gethostbyname(parts.hostname), parts.port))
    with caplog.at_level(logging.WARNING), Client(url.replace(parts.hostname, "localhost"), timeout=5) as client:
        client.publish("tdial.nobody", 1)
    assert [record.getMessage() for record in caplog.records] == []
