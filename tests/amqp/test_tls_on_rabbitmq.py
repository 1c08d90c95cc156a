"""TLS with a real RabbitMQ: the whole behaviour, certificates of all kinds, logins by certificate, rotation."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from amqp_rpc import AccessRefused, AsyncClient, Client, NotConnected, Server, Service
from amqp_rpc.errors import AmqpRpcError
from tests import nodes
from tests.certificates import Authority, Pair
from tests.conftest import require_node
from tests.programs import ROOT, run, serving
from tests.waiting import until

pytestmark = pytest.mark.node

service = Service("ttls")
seen: list[object] = []


@service.rpc
def echo(value: bytes) -> bytes:
    return value


@service.rpc
def plus_one(n: int) -> int:
    return n + 1


@service.task
def twice(n: int) -> int:
    return 2 * n


@service.subscribe("ttls.*")
def note(payload: object) -> None:
    seen.append(payload)


class Secured(NamedTuple):
    """A node with TLS, who signed its certificate, and the files of that certificate."""

    node: nodes.TLSNode
    authority: Authority
    pair: Pair

    def url(self, host: str = "localhost", user: str = "guest:guest@") -> str:
        return f"amqps://{user}{host}:{self.node.tls_port}/"

    def user(self, name: str) -> dict[str, Any]:
        """Make a user; return the options of a login by certificate."""
        self.node.ctl("add_user", name, "of no use")
        self.node.ctl("set_permissions", name, ".*", ".*", ".*")
        certfile, keyfile = self.authority.issue(user=name)
        files = {"cacertfile": self.authority.cacertfile, "certfile": certfile, "keyfile": keyfile}
        return {**files, "auth_mechanism": "external"}


def secured(all_nodes: nodes.Nodes, *settings: str) -> Iterator[Secured]:
    require_node()
    # A node may run as another user, who can't read pytest's folders.
    with tempfile.TemporaryDirectory(prefix="amqp-rpc-tests-tls-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        authority = Authority(folder / "authority")
        pair = Pair(folder / "broker.pem", folder / "broker.key")
        pair.replace_by(authority.issue("localhost", "127.0.0.1", "::1"))
        node = all_nodes.new(
            pair=pair,
            trusted=authority.cacertfile,
            plugins=["rabbitmq_auth_mechanism_ssl"],
            settings=["ssl_cert_login_from = common_name", *settings],
        )
        node.start()
        yield Secured(node, authority, pair)
        node.close()


@pytest.fixture(scope="module")
def broker(all_nodes: nodes.Nodes) -> Iterator[Secured]:
    """A node that takes passwords and certificates."""
    yield from secured(all_nodes, "auth_mechanisms.1 = PLAIN", "auth_mechanisms.2 = EXTERNAL")


@pytest.fixture(scope="module")
def strict(all_nodes: nodes.Nodes) -> Iterator[Secured]:
    """A node that takes nothing but certificates, over TLS 1.2."""
    settings = ["auth_mechanisms.1 = EXTERNAL", "ssl_options.fail_if_no_peer_cert = true"]
    yield from secured(all_nodes, *settings, "ssl_options.versions.1 = tlsv1.2")


def error_of(url: str, **options: Any) -> AmqpRpcError:
    with Client(url, timeout=20, **options) as client, pytest.raises(AmqpRpcError) as caught:
        client.call("ttls.plus_one", 1)
    assert not caught.value.may_have_run
    assert "Is RabbitMQ running there" not in str(caught.value)
    return caught.value


def test_calls_tasks_and_events_over_tls(broker: Secured) -> None:
    files = {"cacertfile": broker.authority.cacertfile}
    with Server(service, url=broker.url(), **files), Client(broker.url(), timeout=60, **files) as client:
        large = bytes(15 * 2**20)
        assert client.call("ttls.echo", large) == large
        assert list(range(1, 2001)) == list(client.map("ttls.plus_one", range(2000)))
        futures = [client.submit("ttls.echo", bytes([n]) * 2**18) for n in range(100)]
        assert [bytes([n]) * 2**18 for n in range(100)] == [future.result() for future in futures]
        assert client.enqueue(twice, 21).result(timeout=60) == 42
        client.publish("ttls.paid", {"n": 1}, mandatory=True)
        until(lambda: seen == [{"n": 1}], what="the event")


def test_asyncio_takes_the_same_options(broker: Secured) -> None:
    files = {"cacertfile": broker.authority.cacertfile}

    async def call() -> object:
        async with AsyncClient(broker.url(), timeout=60, **files) as client:
            return await client.call("ttls.plus_one", 1)

    with Server(service, url=broker.url(), **files):
        assert asyncio.run(call()) == 2


def test_the_command_line_takes_the_same_options(broker: Secured) -> None:
    ca = str(broker.authority.cacertfile)
    # Two processes: their supervisor hands the options on.
    with serving("services.fib", "--processes", "2", "--cacertfile", ca, url=broker.url()):
        done = run("call", "fib", "10", "--cacertfile", ca, url=broker.url())
        assert (done.returncode, done.stdout) == (0, "55\n"), done.stderr
        done = run("call", "fib", "10", url=f"{broker.url()}?cacertfile={ca}")
        assert (done.returncode, done.stdout) == (0, "55\n"), done.stderr


def test_the_example_logs_in_by_its_certificate(broker: Secured, tmp_path: Path) -> None:
    user = broker.user("ann")
    (tmp_path / "tls").mkdir()
    for name, source in {"ca.pem": "cacertfile", "ann.pem": "certfile", "ann.key": "keyfile"}.items():
        (tmp_path / "tls" / name).write_bytes(user[source].read_bytes())
    with serving("services.fib", "--cacertfile", str(broker.authority.cacertfile), url=broker.url()):
        done = subprocess.run(
            [sys.executable, "-m", "examples.over_tls"], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "AMQP_URL": broker.url(user=""), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "832040\n"), done.stderr


def test_an_address_where_nothing_answers_does_not_keep_tls_from_the_next(
    broker: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `localhost` is `::1` first, where nothing listens, or a forwarded port that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_address, known = silent.getsockname(), socket.getaddrinfo

        def addresses(host: str, port: int, **options: Any) -> list[Any]:
            first = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", silent_address)] if host == "localhost" else []
            return [*first, *known("127.0.0.1" if host == "localhost" else host, port, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", addresses)
        with Client(broker.url(), timeout=9, cacertfile=broker.authority.cacertfile) as client:
            client.publish("ttls.nobody", 1)


class TestTheBrokersCertificate:
    @pytest.fixture
    def shows(self, broker: Secured) -> Iterator[Any]:
        """Have the broker show another certificate, for one test."""
        before = Pair(broker.pair.certfile.with_suffix(".before"), broker.pair.keyfile.with_suffix(".before-key"))
        before.replace_by(broker.pair)

        def show(pair: Pair) -> None:
            broker.pair.replace_by(pair)
            broker.node.reread()

        yield show
        show(before)

    def test_of_another_host_is_reported_with_its_names(self, broker: Secured, shows: Any) -> None:
        shows(broker.authority.issue("db.example"))
        error = error_of(broker.url(), cacertfile=broker.authority.cacertfile)
        assert type(error) is NotConnected
        assert "its certificate is for 'db.example', not for 'localhost'" in str(error)
        options = {"cacertfile": broker.authority.cacertfile, "server_name_indication": "db.example"}
        with Client(broker.url(), timeout=20, **options) as client:
            client.publish("ttls.nobody", 1)

    def test_that_has_expired_is_reported_with_its_date(self, broker: Secured, shows: Any) -> None:
        shows(broker.authority.issue("localhost", ends=datetime(2024, 3, 1, tzinfo=UTC)))
        error = error_of(broker.url(), cacertfile=broker.authority.cacertfile)
        assert "its certificate expired on 2024-03-01 00:00 UTC" in str(error)

    def test_of_an_unknown_authority_is_reported_with_both(self, broker: Secured, tmp_path: Path) -> None:
        other = Authority(tmp_path).cacertfile
        for options in ({}, {"cacertfile": other}):
            error = error_of(broker.url(), **options)
            assert type(error) is NotConnected
            assert "its certificate is not trusted" in str(error)
            assert "cacertfile= names a file with the certificate of the authority" in str(error)

    def test_is_read_again_after_a_loss(self, broker: Secured, shows: Any, tmp_path: Path) -> None:
        """The authority changes while a client runs: it has the new one as soon as its file has."""
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(broker.authority.cacertfile.read_bytes())
        with Client(broker.url(), timeout=30, cacertfile=trusted) as client:
            client.publish("ttls.nobody", 1)
            new = Authority(tmp_path / "new")
            shows(new.issue("localhost"))
            trusted.write_bytes(new.cacertfile.read_bytes())
            broker.node.ctl("close_all_user_connections", "guest", "rotated")
            client.publish("ttls.nobody", 2)


def test_a_scheme_that_is_the_wrong_way_round_names_the_other(broker: Secured) -> None:
    error = error_of(f"amqps://localhost:{broker.node.port}", cacertfile=broker.authority.cacertfile)
    assert "For a port without TLS the URL starts with amqp://" in str(error)
    error = error_of(f"amqp://localhost:{broker.node.tls_port}")
    assert "For a port with TLS the URL starts with amqps://" in str(error)


def users_of(node: nodes.TLSNode) -> set[str]:
    return set(node.ctl("list_connections", "user").split()) - {"user"}


class TestLoginByCertificate:
    def test_the_certificate_is_the_user_and_each_reconnect_reads_it_again(
        self, broker: Secured, tmp_path: Path
    ) -> None:
        first, second = broker.user("ann-1"), broker.user("ann-2")
        current = Pair(tmp_path / "current.pem", tmp_path / "current.key")
        current.replace_by(Pair(first["certfile"], first["keyfile"]))
        options = {**first, "certfile": current.certfile, "keyfile": current.keyfile}
        url = broker.url(user="")
        with Server(service, url=url, **options), Client(url, timeout=60, **options) as client:
            assert client.call("ttls.plus_one", 1) == 2
            assert users_of(broker.node) == {"ann-1"}
            current.replace_by(Pair(second["certfile"], second["keyfile"]))
            broker.node.ctl("close_all_user_connections", "ann-1", "rotated")
            assert client.call("ttls.plus_one", 2, idempotent=True, wait_for_server=True) == 3
            until(lambda: users_of(broker.node) == {"ann-2"}, timeout=60, what="all connections as the new user")

    def test_a_user_that_is_not_there_is_said_to_be_the_certificates(self, broker: Secured) -> None:
        certfile, keyfile = broker.authority.issue(user="nobody")
        options = {"cacertfile": broker.authority.cacertfile, "certfile": certfile, "keyfile": keyfile}
        error = error_of(broker.url(user=""), auth_mechanism="external", **options)
        assert type(error) is AccessRefused
        assert "refused the user that the client's certificate names: it has no such user" in str(error)

    def test_a_certificate_of_another_authority_is_named(self, broker: Secured, tmp_path: Path) -> None:
        certfile, keyfile = Authority(tmp_path).issue(user="ann")
        options = {"cacertfile": broker.authority.cacertfile, "certfile": certfile, "keyfile": keyfile}
        error = error_of(broker.url(), **options)
        assert type(error) is NotConnected
        # RabbitMQ may close the connection before its alert arrives.
        assert f"not accept the client's certificate, '{certfile}'" in str(error)


class TestABrokerThatTakesCertificatesAlone:
    def test_takes_one(self, strict: Secured) -> None:
        with Client(strict.url(user=""), timeout=30, **strict.user("eve")) as client:
            client.publish("ttls.nobody", 1)

    def test_none_at_all_names_the_options(self, strict: Secured) -> None:
        error = error_of(strict.url(), cacertfile=strict.authority.cacertfile)
        assert type(error) is NotConnected
        assert "certfile= and keyfile= name one that the broker accepts" in str(error)

    def test_a_password_names_the_other_login(self, strict: Secured) -> None:
        options = {**strict.user("dan"), "auth_mechanism": "plain"}
        error = error_of(strict.url(), **options)
        assert type(error) is AccessRefused
        assert "does not offer the login PLAIN, but EXTERNAL: auth_mechanism=external" in str(error)

    def test_a_minimum_above_its_versions_is_named(self, strict: Secured) -> None:
        error = error_of(strict.url(), cacertfile=strict.authority.cacertfile, minimum_version="tlsv1.3")
        assert "there is no version of TLS that both sides take" in str(error)
        assert "minimum_version=tlsv1.3 is set here" in str(error)


def test_a_password_comes_from_a_file_that_is_read_again(broker: Secured, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("first\n")
    broker.node.ctl("add_user", "bob", "first")
    broker.node.ctl("set_permissions", "bob", ".*", ".*", ".*")
    options = {"cacertfile": broker.authority.cacertfile, "password_file": secret}
    with Client(broker.url(user="bob@"), timeout=60, **options) as client:
        client.publish("ttls.nobody", 1)
        secret.write_text("second\n")
        broker.node.ctl("change_password", "bob", "second")
        broker.node.ctl("close_all_user_connections", "bob", "rotated")
        client.publish("ttls.nobody", 2)
