"""Against a peer that is no proper broker, calls and starts end in time with an error of ours. No thread stays."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pika
import pika.exceptions
import pika.frame
import pytest
from pika import spec

from amqp_rpc import Client, Server, Service
from amqp_rpc.client import client as clients
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.server import server as servers
from tests.waiting import until

END = b"\xce"
#: Of each call here.
TIMEOUT = 1.0


def method(channel: int, sent: spec.amqp_object.Method) -> bytes:
    return pika.frame.Method(channel, sent).marshal()


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + END


def start(mechanisms: str = "PLAIN") -> bytes:
    able = {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True, "consumer_cancel_notify": True}
    return method(0, spec.Connection.Start(0, 9, {"capabilities": able}, mechanisms, "en_US"))


def delivery(channel: int, tag: str, body: bytes = b"x", announced: int | None = None, **properties: str) -> bytes:
    size = len(body) if announced is None else announced
    return (
        method(channel, spec.Basic.Deliver(tag, 1, False, "", "q"))
        + pika.frame.Header(channel, size, pika.BasicProperties(**properties)).marshal()
        + pika.frame.Body(channel, body).marshal()
    )


def returned(channel: int) -> bytes:
    properties = pika.BasicProperties(correlation_id="zz")
    return (
        method(channel, spec.Basic.Return(312, "NO_ROUTE", "", "q"))
        + pika.frame.Header(channel, 1, properties).marshal()
        + pika.frame.Body(channel, b"x").marshal()
    )


@dataclass
class Wrong:
    """The mistakes of a peer."""

    #: Sent for the start of the handshake; then the connection is closed, unless it stays silent.
    start: bytes | None = None
    silent: bool = False
    tune: tuple[int, int, int] = (2047, 131072, 10)
    #: Sent behind the end of the handshake.
    opened: bytes = b""
    #: Sent behind the answer to the first consumer, for its channel and its tag.
    consumed: Callable[[int, str], bytes] = lambda _channel, _tag: b""
    #: Not answered.
    ignored: type[spec.amqp_object.Method] | None = None
    #: Sent in the middle of the login.
    asked: bytes = b""
    #: Seconds from one byte to the next.
    pause: float = 0.0


def behind_consumer(sent: Callable[[int, str], bytes] | bytes) -> Wrong:
    return Wrong(consumed=sent if callable(sent) else lambda _channel, _tag: sent)


NOISE = random.Random(1).randbytes(4000)
WRONG = {
    "it says nothing": Wrong(start=b"", silent=True),
    "it closes at once": Wrong(start=b""),
    "noise": Wrong(start=NOISE),
    "HTTP": Wrong(start=b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "another version": Wrong(start=b"AMQP\x00\x01\x00\x00"),
    "it closes in the middle of a frame": Wrong(start=start()[:20]),
    "a frame of 4 GiB": Wrong(start=b"\x01\0\0\xff\xff\xff\xff" + bytes(2**20), silent=True),
    "no mechanism of ours": Wrong(start=start("EXTERNAL GSSAPI"), silent=True),
    "a challenge": Wrong(asked=method(0, spec.Connection.Secure("x"))),
    "noise behind the handshake": Wrong(opened=NOISE),
    "zeros behind the handshake": Wrong(opened=bytes(4000)),
    "a second handshake": Wrong(opened=method(0, spec.Connection.OpenOk()) + start()),
    "frame_max 0": Wrong(tune=(2047, 0, 10)),
    "frame_max 1": Wrong(tune=(2047, 1, 10)),
    "frame_max 4096": Wrong(tune=(2047, 4096, 10)),
    "channel_max 1": Wrong(tune=(1, 131072, 10)),
    "channel_max 0": Wrong(tune=(0, 131072, 10)),
    "no heartbeats": Wrong(tune=(2047, 131072, 0)),
    "a heartbeat of 1 s": Wrong(tune=(2047, 131072, 1)),
    "a heartbeat of 18 hours": Wrong(tune=(2047, 131072, 65535)),
    "a byte now and then": Wrong(pause=0.02),
    "no channel": Wrong(ignored=spec.Channel.Open),
    "no queue": Wrong(ignored=spec.Queue.Declare),
    "a delivery that ends early": behind_consumer(lambda channel, _: frame(1, channel, b"\0\x3c\0\x3c\xff\xff")),
    "a header of 5 octets": behind_consumer(
        lambda channel, tag: (
            method(channel, spec.Basic.Deliver(tag, 1, False, "", "q")) + frame(2, channel, b"\0\x3c\0\0\0")
        )
    ),
    "an ack of 3 octets": behind_consumer(lambda channel, _: frame(1, channel, b"\0\x3c\0\x50\1\2\3")),
    "a body of 2^63 octets": behind_consumer(lambda channel, tag: delivery(channel, tag, announced=2**63)),
    "a method of nobody's": behind_consumer(lambda channel, _: frame(1, channel, struct.pack(">HH", 99, 99))),
    "a delivery on another channel": behind_consumer(lambda _, tag: delivery(77, tag)),
    "a delivery to no consumer": behind_consumer(lambda channel, _: delivery(channel, "nobody")),
    "a return of what was not sent": behind_consumer(lambda channel, _: returned(channel)),
    "confirms of what was not sent": behind_consumer(
        lambda channel, _: method(channel, spec.Basic.Ack(2**63, True)) + method(channel, spec.Basic.Nack(5))
    ),
    "a stop of the flow": behind_consumer(lambda channel, _: method(channel, spec.Channel.Flow(False))),
    "a cancelled consumer of nobody's": behind_consumer(
        lambda channel, _: method(channel, spec.Basic.Cancel("nobody", True))
    ),
    "a block with a reason that is no text": behind_consumer(
        frame(1, 0, struct.pack(">HH", 10, 60) + b"\xff" + b"\xfe" * 255)
    ),
    "a close with escapes": behind_consumer(method(0, spec.Connection.Close(541, "x\n\x1b[2J" * 20, 0, 0))),
    "a flood of heartbeats": behind_consumer(b"\x08\0\0\0\0\0\0\xce" * 100_000),
    "a flood of replies that nobody asked for": behind_consumer(
        lambda channel, tag: delivery(channel, tag, correlation_id="x" * 50) * 5000
    ),
}


class Peer:
    """Answers each connection as a broker does, with one mistake."""

    def __init__(self, wrong: Wrong) -> None:
        self._wrong = wrong
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"amqp://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True, name="peer").start()

    def close(self) -> None:
        self._over.set()
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True, name="peer").start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, pika.exceptions.AMQPError):
            connection.recv(8)
            if self._wrong.start is not None:
                self._send(connection, self._wrong.start)
                self._over.wait(20.0 if self._wrong.silent else 0.0)
                return
            self._send(connection, start())
            buffer = b""
            while received := connection.recv(1 << 16):
                buffer += received
                while True:
                    consumed, found = pika.frame.decode_frame(buffer)
                    if found is None:
                        break
                    buffer = buffer[consumed:]
                    if isinstance(found, pika.frame.Method) and type(found.method) is not self._wrong.ignored:
                        self._send(connection, self._answer(found.method, found.channel_number))

    def _send(self, connection: socket.socket, data: bytes) -> None:
        if not self._wrong.pause:
            connection.sendall(data)
            return
        for byte in data:
            connection.sendall(bytes([byte]))
            self._over.wait(self._wrong.pause)

    def _answer(self, asked: spec.amqp_object.Method, channel: int) -> bytes:
        found: bytes | None = None
        match asked:
            case spec.Connection.StartOk():
                found = self._wrong.asked or method(0, spec.Connection.Tune(*self._wrong.tune))
            case spec.Connection.Open():
                found = method(0, spec.Connection.OpenOk()) + self._wrong.opened
            case spec.Queue.Declare():
                found = method(channel, spec.Queue.DeclareOk(asked.queue or "amq.gen-peer", 0, 1))
            case spec.Basic.Consume():
                begun = method(channel, spec.Basic.ConsumeOk(asked.consumer_tag))
                found = begun + self._wrong.consumed(channel, asked.consumer_tag)
            case spec.Basic.Cancel():
                found = method(channel, spec.Basic.CancelOk(asked.consumer_tag))
            case spec.Basic.Get():
                found = method(channel, spec.Basic.GetEmpty())
        if found is not None:
            return found
        kind, _, verb = type(asked).NAME.partition(".")
        usual = getattr(getattr(spec, kind), f"{verb}Ok", None)
        return b"" if usual is None else method(channel, usual())


@dataclass
class Came:
    """The outcomes of a call and of a start, and the threads that are left."""

    call: object
    server: object
    stayed: list[str]


def called(url: str) -> object:
    try:
        with Client(url) as client:
            return client.call("f", 1, timeout=TIMEOUT)
    except BaseException as error:
        return error


def served(url: str) -> object:
    service = Service()
    service.rpc(lambda: 1, name="f")
    server = Server(service, url=url)
    try:
        server.start(timeout=TIMEOUT)
        return None
    except BaseException as error:
        return error
    finally:
        server.stop(drain_timeout=0.1)


@pytest.fixture(scope="module")
def came() -> Iterator[dict[str, Came]]:
    """All of them at once: most of the time is that of deadlines."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (clients, servers):
            patch.setattr(module, "_CLOSE_TIMEOUT", 0.5)
        before = set(threading.enumerate())
        peers = {name: Peer(wrong) for name, wrong in WRONG.items()}
        with ThreadPoolExecutor(2 * len(WRONG)) as pool:
            calls = {name: pool.submit(called, peer.url) for name, peer in peers.items()}
            starts = {name: pool.submit(served, peer.url) for name, peer in peers.items()}
            found = {name: Came(calls[name].result(60), starts[name].result(60), []) for name in WRONG}
        for peer in peers.values():
            peer.close()

        def stay() -> list[str]:
            return [each.name for each in threading.enumerate() if each not in before]

        with contextlib.suppress(AssertionError):
            until(lambda: not stay(), timeout=10)
        yield {name: Came(each.call, each.server, stay()) for name, each in found.items()}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_call_ends_by_its_deadline_with_an_error_of_ours(came: dict[str, Came], wrong: str) -> None:
    error = came[wrong].call
    assert isinstance(error, AmqpRpcError), repr(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_server_starts_or_ends_its_start_with_an_error_of_ours(came: dict[str, Came], wrong: str) -> None:
    error = came[wrong].server
    assert error is None or isinstance(error, AmqpRpcError), repr(error)
    assert str(error).isprintable()


def test_no_thread_stays(came: dict[str, Came]) -> None:
    assert next(iter(came.values())).stayed == []
