"""TLS: who is believed, what a failure is called, and files that are read again. Here a socket plays the broker."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from pika import frame, spec

from amqp_rpc import AccessRefused, Client, ConfigurationError, NotConnected, Server, Service
from amqp_rpc.amqp import connection
from amqp_rpc.errors import AmqpRpcError
from tests.certificates import Authority, Pair
from tests.waiting import until

FULL = "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (3) is reached"
#: Said to a client that has reached a broker which has no room.
REACHED = "since a limit is reached"


def start(mechanisms: str = "PLAIN AMQPLAIN") -> spec.amqp_object.Method:
    return spec.Connection.Start(server_properties={}, mechanisms=mechanisms, locales="en_US")


TUNE = spec.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=60)
CLOSE = spec.Connection.Close(reply_code=530, reply_text=FULL, class_id=10, method_id=40)
OPENED = spec.Connection.OpenOk()


class Broker:
    """A listener with TLS that plays a broker: it sends methods, each after the client has sent something."""

    def __init__(self, pair: Pair, *methods: spec.amqp_object.Method, trust: Path | None = None) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*pair)
        if trust is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(trust)
        self._methods = methods or (start(), TUNE, CLOSE)
        #: The bytes of each connection, the names that clients asked for, and the users in their certificates.
        self.received: list[bytes] = []
        self.users: list[str] = []
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _sock, name, _context: self.names.append(name)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, host: str = "localhost") -> str:
        return f"amqps://{host}:{self.port}"

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                connection.settimeout(20)
                with connection, contextlib.suppress(OSError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as stream:
            shown: Any = stream.getpeercert() or {}
            self.users += [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
            self.received.append(b"")
            for method in self._methods:
                self.received[-1] += stream.recv(4096)
                stream.sendall(frame.Method(0, method).marshal())
            self.received[-1] += stream.recv(4096)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that no client here trusts."""
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def local(authority: Authority) -> Pair:
    return authority.issue("localhost")


@pytest.fixture(scope="module")
def ann(authority: Authority) -> Pair:
    return authority.issue(user="ann")


Listen = Callable[..., Broker]


@pytest.fixture
def listen() -> Iterator[Listen]:
    made: list[Broker] = []

    def make(pair: Pair, *methods: spec.amqp_object.Method, **options: Any) -> Broker:
        made.append(Broker(pair, *methods, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    # A handshake on a busy machine is not what any of these tests is about.
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 60.0)


def error_at(url: str, **options: Any) -> AmqpRpcError:
    with Client(url, timeout=60, **options) as client, pytest.raises(AmqpRpcError) as caught:
        client.call("fib", 30)
    assert not caught.value.may_have_run
    assert "Is RabbitMQ running there" not in str(caught.value)
    return caught.value


def test_an_authority_that_is_named_is_believed(listen: Listen, authority: Authority, local: Pair) -> None:
    broker = listen(local)
    assert REACHED in str(error_at(broker.url(), cacertfile=authority.cacertfile))
    assert REACHED in str(error_at(f"{broker.url()}/?cacertfile={authority.cacertfile}"))


def test_a_variable_names_it_as_well(
    listen: Listen, authority: Authority, local: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = listen(local)
    monkeypatch.setenv("AMQP_RPC_CACERTFILE", str(authority.cacertfile))
    assert REACHED in str(error_at(broker.url()))
    monkeypatch.delenv("AMQP_RPC_CACERTFILE")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cacertfile))
    assert REACHED in str(error_at(broker.url()))


def test_another_one_is_not_and_the_error_names_both(
    listen: Listen, authority: Authority, other: Authority, local: Pair
) -> None:
    error = error_at(listen(local).url(), cacertfile=other.cacertfile)
    assert type(error) is NotConnected
    assert "its certificate is not trusted (unable to get local issuer certificate): 'trustme" in str(error)
    assert f"has signed it, and cacertfile='{other.cacertfile}' does not have that authority" in str(error)
    assert "cacertfile= names a file with the certificate of the authority" in str(error)
    assert "and the system does not have that authority" in str(error_at(listen(local).url()))


def test_a_certificate_of_other_hosts_is_reported_with_their_names(listen: Listen, authority: Authority) -> None:
    broker = listen(authority.issue("db.example", "*.rabbit.example", "10.0.0.1"))
    for host in ("localhost", "127.0.0.1"):
        error = error_at(broker.url(host), cacertfile=authority.cacertfile)
        assert type(error) is NotConnected
        assert (
            f"its certificate is for 'db.example', '*.rabbit.example', '10.0.0.1', not for '{host}'. Write a name "
            "that it has as the host, or as server_name_indication="
        ) in str(error)


def test_a_server_name_takes_the_place_of_the_host(listen: Listen, authority: Authority) -> None:
    broker = listen(authority.issue("db.example"))
    options = {"cacertfile": authority.cacertfile, "server_name_indication": "db.example"}
    assert REACHED in str(error_at(broker.url(), **options))
    assert broker.names == ["db.example"]


def test_a_name_in_a_certificate_can_not_forge_a_log(listen: Listen, authority: Authority) -> None:
    names = [f"n{number}{'x' * 50}.example" for number in range(50)]
    error = error_at(listen(authority.issue(*names)).url(), cacertfile=authority.cacertfile)
    assert len(str(error)) < 2000
    assert "and others" in str(error)


def test_an_expired_one_is_reported_with_its_date(listen: Listen, authority: Authority) -> None:
    broker = listen(authority.issue("localhost", ends=datetime(2024, 3, 1, 12, 30, tzinfo=UTC)))
    error = error_at(broker.url(), cacertfile=authority.cacertfile)
    assert type(error) is NotConnected
    assert "its certificate expired on 2024-03-01 12:30 UTC. The broker needs a new one" in str(error)


def test_a_revoked_one_is_refused_by_a_context_that_looks(listen: Listen, authority: Authority, local: Pair) -> None:
    revoked = authority.issue("localhost")
    context = ssl.create_default_context(cafile=authority.cacertfile)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    assert "list of revoked certificates is not here" in str(error_at(listen(local).url(), ssl_context=context))
    context.load_verify_locations(authority.revoke(revoked))
    error = error_at(listen(revoked).url(), ssl_context=context)
    assert type(error) is NotConnected
    assert "its certificate is revoked. The broker needs another one" in str(error)
    assert REACHED in str(error_at(listen(local).url(), ssl_context=context))


def test_one_that_breaks_another_rule_is_not_said_to_be_of_an_unknown_authority(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The authority allows one more below it, and not two.
    root = trustme.CA(path_length=1)
    child = root.create_child_ca()
    monkeypatch.setattr(child, "_path_length", 1)
    root.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = child.create_child_ca().issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    broker = listen(Pair(tmp_path / "both.pem", tmp_path / "both.pem"))
    error = error_at(broker.url(), cacertfile=tmp_path / "ca.pem")
    assert "its certificate is not accepted (path length constraint exceeded)" in str(error)
    assert "cacertfile" not in str(error)


def test_without_verification_anyone_is_believed_and_that_is_said(
    listen: Listen, local: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    broker = listen(local, start(), TUNE, OPENED)
    with caplog.at_level(logging.WARNING), Client(broker.url(), verify="verify_none") as client:
        with contextlib.suppress(AmqpRpcError):
            client.call("fib", 30, timeout=1)
        until(lambda: caplog.records, what="the warning")
    said = caplog.records[0].getMessage()
    assert f"anyone may be the broker at amqps://guest:***@localhost:{broker.port}/: its certificate" in said
    assert "(verify=verify_none)" in said


def test_a_revoked_certificate_of_a_client_is_named(listen: Listen, authority: Authority, local: Pair) -> None:
    broker = listen(local, trust=authority.cacertfile)
    broker.context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    revoked = authority.issue(user="ann")
    broker.context.load_verify_locations(authority.revoke(revoked))
    files = {"certfile": revoked.certfile, "keyfile": revoked.keyfile}
    error = error_at(broker.url(), cacertfile=authority.cacertfile, **files)
    assert type(error) is NotConnected
    assert f"accept the client's certificate, '{revoked.certfile}' (certificate revoked)" in str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
class TestTheClientsCertificate:
    def listening(self, listen: Listen, local: Pair, trust: Path, version: ssl.TLSVersion) -> Broker:
        broker = listen(local, trust=trust)
        broker.context.maximum_version = version
        return broker

    def test_one_that_is_given_is_shown(
        self, listen: Listen, authority: Authority, local: Pair, ann: Pair, version: ssl.TLSVersion
    ) -> None:
        broker = self.listening(listen, local, authority.cacertfile, version)
        error = error_at(broker.url(), cacertfile=authority.cacertfile, certfile=ann.certfile, keyfile=ann.keyfile)
        assert REACHED in str(error)
        assert broker.users == ["ann"]

    def test_none_where_one_is_wanted_names_the_options(
        self, listen: Listen, authority: Authority, local: Pair, version: ssl.TLSVersion
    ) -> None:
        broker = self.listening(listen, local, authority.cacertfile, version)
        error = error_at(broker.url(), cacertfile=authority.cacertfile)
        assert type(error) is NotConnected
        assert "want" in str(error)
        assert "a certificate from the client" in str(error)
        assert "certfile= and keyfile= name one that the broker accepts" in str(error)

    def test_one_of_another_authority_is_named(
        self, listen: Listen, authority: Authority, other: Authority, local: Pair, version: ssl.TLSVersion
    ) -> None:
        broker = self.listening(listen, local, authority.cacertfile, version)
        wrong = other.issue(user="ann")
        error = error_at(broker.url(), cacertfile=authority.cacertfile, certfile=wrong.certfile, keyfile=wrong.keyfile)
        assert type(error) is NotConnected
        assert f"the broker does not accept the client's certificate, '{wrong.certfile}' (unknown ca)" in str(error)
        assert "ssl_options.cacertfile must have its authority" in str(error)

    def test_an_expired_one_is_named(
        self, listen: Listen, authority: Authority, local: Pair, version: ssl.TLSVersion
    ) -> None:
        broker = self.listening(listen, local, authority.cacertfile, version)
        old = authority.issue(user="ann", ends=datetime(2024, 3, 1, tzinfo=UTC))
        error = error_at(broker.url(), cacertfile=authority.cacertfile, certfile=old.certfile, keyfile=old.keyfile)
        assert f"accept the client's certificate, '{old.certfile}' (certificate expired)" in str(error)


class TestVersions:
    def test_no_common_one_is_said_with_the_setting(self, listen: Listen, authority: Authority, local: Pair) -> None:
        broker = listen(local)
        broker.context.maximum_version = ssl.TLSVersion.TLSv1_2
        error = error_at(broker.url(), cacertfile=authority.cacertfile, minimum_version="TLSv1.3")
        assert type(error) is NotConnected
        assert "there is no version of TLS that both sides take" in str(error)
        assert "minimum_version=tlsv1.3 is set here" in str(error)

    def test_the_minimum_is_enough(self, listen: Listen, authority: Authority, local: Pair) -> None:
        url = f"{listen(local).url()}?minimum_version=tlsv1.3&cacertfile={authority.cacertfile}"
        assert REACHED in str(error_at(url))


class TestTheLogin:
    def test_the_certificate_is_enough(self, listen: Listen, authority: Authority, local: Pair, ann: Pair) -> None:
        broker = listen(local, start("EXTERNAL"), TUNE, CLOSE, trust=authority.cacertfile)
        url = f"{broker.url()}?cacertfile={authority.cacertfile}&certfile={ann.certfile}&keyfile={ann.keyfile}"
        assert REACHED in str(error_at(f"{url}&auth_mechanism=external"))
        (received,) = broker.received
        assert b"\x08EXTERNAL\x00\x00\x00\x00" in received
        assert b"guest" not in received

    def test_a_broker_that_offers_nothing_else_is_said_to(
        self, listen: Listen, authority: Authority, local: Pair
    ) -> None:
        error = error_at(listen(local, start("EXTERNAL")).url(), cacertfile=authority.cacertfile)
        assert type(error) is AccessRefused
        assert "does not offer the login PLAIN, but EXTERNAL: auth_mechanism=external, with certfile=" in str(error)

    def test_a_broker_that_does_not_offer_it_is_said_not_to(
        self, listen: Listen, authority: Authority, local: Pair, ann: Pair
    ) -> None:
        files = {"cacertfile": authority.cacertfile, "certfile": ann.certfile, "keyfile": ann.keyfile}
        error = error_at(listen(local).url(), auth_mechanism="external", **files)
        assert type(error) is AccessRefused
        assert "does not offer the login EXTERNAL, but PLAIN, AMQPLAIN: auth_mechanisms in its rabbitmq" in str(error)

    def test_a_refusal_names_the_certificates_user(
        self, listen: Listen, authority: Authority, local: Pair, ann: Pair
    ) -> None:
        text = "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL."
        close = spec.Connection.Close(reply_code=403, reply_text=text, class_id=0, method_id=0)
        files = {"cacertfile": authority.cacertfile, "certfile": ann.certfile, "keyfile": ann.keyfile}
        error = error_at(listen(local, start("EXTERNAL"), close).url(), auth_mechanism="external", **files)
        assert type(error) is AccessRefused
        assert "refused the user that the client's certificate names: it has no such user" in str(error)
        assert "password" not in str(error)


class TestFilesAreReadAgain:
    """Each connection that is opened reads them: so they can be replaced while a program runs."""

    def test_certificates(self, listen: Listen, authority: Authority, local: Pair, tmp_path: Path) -> None:
        first = authority.issue(user="ann-1")
        current = Pair(tmp_path / "current.pem", tmp_path / "current.key")
        current.replace_by(first)
        broker = listen(local, start(), TUNE, OPENED, trust=authority.cacertfile)
        files = {"cacertfile": authority.cacertfile, "certfile": current.certfile, "keyfile": current.keyfile}
        with Client(broker.url(), **files) as client:
            with contextlib.suppress(AmqpRpcError):
                client.call("fib", 30, timeout=2)
            current.replace_by(authority.issue(user="ann-2"))
            until(lambda: "ann-2" in broker.users, what="a connection with the new certificate")
        assert broker.users[0] == "ann-1"

    def test_a_password(self, listen: Listen, authority: Authority, local: Pair, tmp_path: Path) -> None:
        secret = tmp_path / "password"
        secret.write_text("first\n")
        broker = listen(local, start(), TUNE, OPENED)
        url = broker.url().replace("amqps://", "amqps://ann@")
        with Client(url, cacertfile=authority.cacertfile, password_file=secret) as client:
            with contextlib.suppress(AmqpRpcError):
                client.call("fib", 30, timeout=2)
            assert b"\0ann\0first" in broker.received[0]
            secret.write_text("second\n")
            until(lambda: any(b"\0ann\0second" in each for each in broker.received), what="the new password")

    def test_one_that_is_gone_for_a_moment_is_waited_for(
        self, listen: Listen, authority: Authority, local: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        trusted = tmp_path / "ca.pem"
        trusted.write_bytes(authority.cacertfile.read_bytes())
        broker = listen(local, start(), TUNE, OPENED)
        with caplog.at_level(logging.INFO), Client(broker.url(), cacertfile=trusted) as client:
            with contextlib.suppress(AmqpRpcError):
                client.call("fib", 30, timeout=2)
            trusted.unlink()
            until(lambda: "can't be read: no such file" in caplog.text, what="the log of it")
            before = len(broker.received)
            trusted.write_bytes(authority.cacertfile.read_bytes())
            until(lambda: len(broker.received) > before, what="another connection")


class TestWrongFilesAreFoundAtTheStart:
    """Before anything is connected, and in one line that names the option."""

    @pytest.fixture
    def wrong(self, authority: Authority, other: Authority, ann: Pair, tmp_path: Path) -> dict[str, dict[str, Any]]:
        text, two = tmp_path / "text", tmp_path / "two"
        text.write_text("no certificate")
        two.write_text("one\ntwo\n")
        encrypted = authority.encrypt(ann, "secret")
        return {
            r"cacertfile='/nowhere/ca.pem' can't be read: no such file": {"cacertfile": "/nowhere/ca.pem"},
            r"cacertfile='.*text' has no certificate in PEM": {"cacertfile": text},
            r"certfile='/nowhere' can't be read: no such file": {"certfile": "/nowhere", "keyfile": ann.keyfile},
            r"keyfile='/nowhere' can't be read: no such file": {"certfile": ann.certfile, "keyfile": "/nowhere"},
            r"has no certificate in PEM, or keyfile=.* has no key": {"certfile": ann.certfile, "keyfile": text},
            r"keyfile='.*' is not the key of certfile='.*'": {
                "certfile": ann.certfile,
                "keyfile": other.issue(user="x").keyfile,
            },
            r"the key in '.*' is encrypted: keyfile_password_file= has its password": {
                "certfile": ann.certfile,
                "keyfile": encrypted,
            },
            r"or keyfile_password_file='.*text' has not the password": {
                "certfile": ann.certfile,
                "keyfile": encrypted,
                "keyfile_password_file": text,
            },
            r"password_file='/nowhere' can't be read": {"password_file": "/nowhere"},
            r"password_file='.*two' has 2 lines, and should have one, the password": {"password_file": two},
            r"ssl_context must be an ssl.SSLContext, not str": {"ssl_context": "context"},
        }

    @pytest.mark.parametrize("make", [Client, lambda url, **options: Server(Service("x"), url=url, **options)])
    def test_in_one_line(self, wrong: dict[str, dict[str, Any]], make: Callable[..., object]) -> None:
        for reason, options in wrong.items():
            with pytest.raises(ConfigurationError, match=reason):
                make("amqps://localhost", **options)

    def test_a_missing_file_of_the_systems_variable_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
        with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE='/nowhere/ca.pem' can't be read"):
            Client("amqps://localhost")

    def test_the_password_of_a_key_is_read(self, authority: Authority, ann: Pair, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("secret\n")
        Client(
            "amqps://localhost",
            certfile=ann.certfile,
            keyfile=authority.encrypt(ann, "secret"),
            keyfile_password_file=secret,
        ).close()


class TestTheOtherScheme:
    def test_tls_at_a_plain_port_names_it(self) -> None:
        with plain(lambda connection: connection.sendall(b"AMQP\x00\x00\x09\x01")) as port:
            error = error_at(f"amqps://localhost:{port}")
        assert type(error) is NotConnected
        assert "what answers does not speak TLS" in str(error)
        assert "For a port without TLS the URL starts with amqp://" in str(error)

    def test_tls_at_a_port_that_closes_names_it(self) -> None:
        with plain(lambda connection: connection.recv(10_000)) as port:
            error = error_at(f"amqps://localhost:{port}")
        assert "closed during the TLS handshake. For a port without TLS the URL starts with amqp://" in str(error)

    def test_plain_amqp_at_a_tls_port_names_it(self) -> None:
        # As RabbitMQ's listener answers: an alert, and the end.
        with plain(lambda connection: connection.sendall(b"\x15\x03\x03\x00\x02\x02\x0a")) as port:
            error = error_at(f"amqp://127.0.0.1:{port}")
        assert type(error) is NotConnected
        assert "what answers speaks TLS. For a port with TLS the URL starts with amqps://; cacertfile=" in str(error)


@contextlib.contextmanager
def plain(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Serve each connection without TLS; yield the port."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
