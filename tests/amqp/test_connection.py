"""How a failed connection is reported: by what answers there, and by the broker's words. Here a socket plays it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pika import frame, spec

from amqp_rpc import Client
from amqp_rpc.errors import AccessRefused, AmqpRpcError, NotConnected

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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, signed by itself, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class TestTLS:
    @staticmethod
    def over_tls(certificate: Path, serve: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

        def secured(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as stream:
                serve(stream)

        return secured

    def test_tls_at_a_plain_port_names_the_other_scheme(self) -> None:
        with listening(lambda connection: connection.sendall(b"AMQP\x00\x00\x09\x01")) as port:
            error = error_at(f"amqps://localhost:{port}")
        assert type(error) is NotConnected
        assert "TLS failed (wrong version number)" in str(error)
        assert "amqp:// for one without" in str(error)

    def test_plain_amqp_at_a_tls_port_names_the_other_scheme(self) -> None:
        # As RabbitMQ's listener answers: an alert, and the end.
        with listening(lambda connection: connection.sendall(b"\x15\x03\x03\x00\x02\x02\x0a")) as port:
            error = error_at(f"amqp://127.0.0.1:{port}")
        assert type(error) is NotConnected
        assert "what answers speaks TLS. For a port with TLS the URL starts with amqps://" in str(error)

    def test_an_authority_that_is_not_known_names_the_variable_that_makes_it_known(
        self, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve = self.over_tls(certificate, broker(START, TUNE, closing(530, FULL)))
        with listening(serve) as port:
            error = error_at(f"amqps://localhost:{port}")
            assert type(error) is NotConnected
            assert "its certificate is not trusted (self-signed certificate). SSL_CERT_FILE=" in str(error)
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
            assert FULL in str(error_at(f"amqps://localhost:{port}"))

    def test_a_certificate_of_another_name_says_so(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        with listening(self.over_tls(certificate, broker())) as port:
            error = error_at(f"amqps://127.0.0.1:{port}")
        assert "Name the host as its certificate does" in str(error)
        assert "SSL_CERT_FILE" not in str(error)
