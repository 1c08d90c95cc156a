"""How a failed connection is reported: by what answers there, and by the broker's words. Here a socket plays it."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from pika import frame, spec

from amqp_rpc import Client
from amqp_rpc.amqp import connection
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, NotConnected
from amqp_rpc.message.settings import broker_addresses
from tests.waiting import until

START = spec.Connection.Start(server_properties={}, mechanisms="PLAIN", locales="en_US")
TUNE = spec.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=60)


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection on a thread; yield the port."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.settimeout(20)
                with connection, contextlib.suppress(OSError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def broker(*methods: spec.amqp_object.Method) -> Callable[[socket.socket], None]:
    """Play a broker that sends these methods, each after the client has sent something, and then closes the socket."""

    def serve(connection: socket.socket) -> None:
        for method in methods:
            connection.recv(4096)
            connection.sendall(frame.Method(0, method).marshal())
        connection.recv(4096)

    return serve


def error_at(url: str) -> AmqpRpcError:
    with Client(url, timeout=20) as client, pytest.raises(AmqpRpcError) as caught:
        client.call("fib", 30, queue="q")
    assert not caught.value.may_have_run
    return caught.value


def closing(code: int, text: str) -> spec.amqp_object.Method:
    return spec.Connection.Close(reply_code=code, reply_text=text, class_id=10, method_id=40)


LOGIN = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"
FULL = "NOT_ALLOWED - access to vhost 'v' refused for user 'ann': connection limit (3) is reached"
USER_FULL = "NOT_ALLOWED - connection refused for user 'ann': user connection limit (1) is reached"
NO_RIGHT = "NOT_ALLOWED - access to vhost 'v' refused for user 'ann'"
NO_VHOST = "NOT_ALLOWED - vhost v not found"
MISSING = "refused virtual host 'v': it does not exist, or user 'ann' may not use it"
DOWN = "INTERNAL_ERROR - access to vhost 'v' refused for user 'ann': vhost 'v' is down"


@pytest.mark.parametrize(
    ("methods", "kind", "words", "never"),
    [
        ([START, closing(403, LOGIN)], AccessRefused, "refused user 'ann': wrong user name or password", "vhost"),
        ([START, TUNE, closing(530, FULL)], AccessRefused, f"since a limit is reached: 530 {FULL}", "exist"),
        ([START, TUNE, closing(530, USER_FULL)], AccessRefused, f"since a limit is reached: 530 {USER_FULL}", "exist"),
        (
            [START, TUNE, closing(530, NO_RIGHT)],
            AccessRefused,
            MISSING,
            "limit",
        ),
        (
            [START, TUNE, closing(530, NO_VHOST)],
            AccessRefused,
            MISSING,
            "limit",
        ),
        (
            [START, TUNE, closing(541, DOWN)],
            NotConnected,
            f"while it was being opened: 541 {DOWN}",
            "ex",
        ),
        ([START], NotConnected, "the connection was closed during the AMQP handshake", "password"),
        ([START, TUNE], NotConnected, "the connection was closed during the AMQP handshake", "virtual host"),
    ],
)
def test_what_the_broker_says_and_when_decides_the_error(
    methods: list[spec.amqp_object.Method], kind: type[AmqpRpcError], words: str, never: str
) -> None:
    with listening(broker(*methods)) as port:
        error = error_at(f"amqp://ann:secret@127.0.0.1:{port}/v")
    assert type(error) is kind
    assert words in str(error)
    assert never not in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("cause", "advised"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (socket.gaierror(-2, "Name or service not known"), True),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_only_an_address_that_may_be_wrong_gets_the_advice_to_look_there(
    cause: OSError, advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise cause

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert ("Is RabbitMQ running there?" in str(error_at("amqp://localhost"))) is advised


def test_what_an_attempt_to_connect_raises_is_its_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(_tls: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "ca.pem")

    monkeypatch.setattr(connection, "context_of", raising)
    error = error_at("amqps://127.0.0.1:1")
    assert type(error) is NotConnected
    assert "no such file or directory" in str(error)


def test_what_the_first_bytes_of_a_broker_make_of_an_attempt_is_its_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raising(*_args: object, **_options: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("amqp_rpc.amqp.connection.pika.ConnectionParameters", raising)
    with listening(broker(START)) as port:
        error = error_at(f"amqp://127.0.0.1:{port}")
    assert type(error) is NotConnected
    assert "a defect" in str(error)


class Losses:
    """A listener that notes the losses; the first one of them raises, which keeps nobody from hearing of them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.losses = 0

    def on_open(self) -> None: ...

    def on_unblocked(self) -> None: ...

    def on_lost(self, _error: BrokerError) -> None:
        self.losses += 1
        if self.error is not None:
            raise self.error


def test_connections_that_open_and_break_at_once_come_at_growing_intervals_and_few_lines_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "FIRST_RECONNECT", 0.001)
    monkeypatch.setattr(connection, "LONGEST_RECONNECT", 0.004)
    # On a slow machine the handshake alone takes as long as ten such waits.
    monkeypatch.setattr(connection, "_WORTH", 1000.0)
    caplog.set_level(logging.DEBUG, "amqp_rpc.amqp.connection")
    bad, good = Losses(RuntimeError("a defect")), Losses()

    def break_at_once(opening: socket.socket) -> None:
        for method in (START, TUNE, spec.Connection.OpenOk()):
            opening.recv(4096)
            opening.sendall(frame.Method(0, method).marshal())

    with listening(break_at_once) as port:
        link = connection.Connection(
            broker_addresses(f"amqp://127.0.0.1:{port}"), [bad, good],
            name="t", label="connection (calls)", heartbeat=60, persistent=True,
        )  # fmt: skip
        link.start()
        until(lambda: good.losses >= 9)
        assert bad.losses >= 9
        assert link.close(20)
    said = [each for each in caplog.records if "trying again in" in each.message]
    waits = [float(each.args[2]) for each in said if isinstance(each.args, tuple)]  # type: ignore[arg-type]
    assert max(waits[:4]) < 0.01
    assert waits[8] > 0.1
    warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING and not each.exc_info]
    assert len(warnings) <= 4
    # A server has several.
    assert all(each.message.startswith("connection (calls): ") for each in said)
    assert any(each.message.startswith("connection (calls): open again to ") for each in caplog.records)
