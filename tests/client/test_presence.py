"""A missing queue, server, broker or permission is an error at once."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

import pytest

from amqp_rpc import (
    AccessRefused,
    Client,
    ConfigurationError,
    NoServer,
    NotConnected,
    NotSent,
    Server,
    Service,
    Unroutable,
)
from amqp_rpc.broker import Node
from amqp_rpc.message.settings import Address
from tests.served_by import Raw

Serve = Callable[..., Server]


def test_a_queue_that_does_not_exist_is_unroutable(client: Client) -> None:
    with pytest.raises(Unroutable, match=r"no queue 'rpc_queue\.nobody'") as caught:
        client.call("nobody.fib", 30)
    assert not caught.value.may_have_run


def test_a_queue_without_consumers_has_no_server_and_nothing_is_sent(
    client: Client, raw: Raw, service: Service
) -> None:
    raw.channel.queue_declare(service.queue, durable=True)
    with pytest.raises(NoServer, match="has no consumers") as caught:
        client.call(f"{service.name}.fib", 30)
    assert not caught.value.may_have_run
    assert raw.count(service.queue) == 0


def test_a_server_that_has_stopped_is_missed_by_the_next_call(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def one() -> int:
        return 1

    server = serve(service)
    assert client.call(one) == 1
    server.stop()
    # A proof of a server lasts 0.1 s.
    threading.Event().wait(0.15)
    with pytest.raises(NoServer):
        client.call(one)


@pytest.mark.parametrize("queue_exists", [True, False])
def test_a_call_can_wait_for_its_server(
    client: Client, serve: Serve, service: Service, raw: Raw, *, queue_exists: bool
) -> None:
    @service.rpc
    def one() -> int:
        return 1

    if queue_exists:
        raw.channel.queue_declare(service.queue, durable=True)
    future = client.submit(one, wait_for_server=True)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.3)
    serve(service)
    assert future.result() == 1


def test_waiting_for_a_server_ends_at_the_timeout(client: Client) -> None:
    with pytest.raises(NoServer, match=r"no server within 0\.3 s"):
        client.call("nobody.fib", 30, wait_for_server=True, timeout=0.3)


def test_one_missing_queue_does_not_disturb_calls_to_another(client: Client, serve: Serve, service: Service) -> None:
    @service.rpc
    def one() -> int:
        return 1

    serve(service)
    lost = [client.submit(f"nobody{n}.fib") for n in range(20)]
    assert client.call(one) == 1
    assert all(isinstance(future.exception(), Unroutable) for future in lost)
    assert client.call(one) == 1


def test_no_broker_at_that_port_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with Client(f"amqp://127.0.0.1:{free.getsockname()[1]}", timeout=20) as client:
            with pytest.raises(NotConnected, match="connection refused") as caught:
                client.call("fib", 30)
            assert not caught.value.may_have_run
            with pytest.raises(ConnectionError):
                client.call("fib", 30)


def test_a_port_that_says_nothing_ends_the_call_at_its_timeout() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Client(f"amqp://127.0.0.1:{silent.getsockname()[1]}") as client,
        pytest.raises(NotSent, match=r"within 0\.3 s"),
    ):
        client.call("fib", 30, timeout=0.3)


def test_a_port_that_speaks_something_else_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"amqp://127.0.0.1:{web.getsockname()[1]}"
        with Client(url, timeout=20) as client, pytest.raises(NotConnected, match="does not speak AMQP"):
            client.call("fib", 30)


def test_a_wrong_password_is_refused_and_never_printed(url: str) -> None:
    address = Address.parse(url)
    wrong = f"amqp://guest:secret@{address.host}:{address.port}/"
    with (
        Client(wrong, timeout=20) as client,
        pytest.raises(AccessRefused, match="wrong user name or password") as caught,
    ):
        client.call("fib", 30)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(client)
    with pytest.raises(AccessRefused) as refused:
        Server(_service(), url=wrong).start()
    assert "secret" not in str(refused.value)


def test_a_wrong_virtual_host_is_refused(url: str) -> None:
    address = Address.parse(url)
    wrong = f"amqp://guest:guest@{address.host}:{address.port}/nowhere"
    with Client(wrong, timeout=20) as client, pytest.raises(AccessRefused, match="virtual host 'nowhere'"):
        client.call("fib", 30)


def test_a_user_who_may_not_have_a_reply_queue_is_told_at_once(node: Node) -> None:
    node.ctl("add_user", "limited", "limited")
    node.ctl("set_permissions", "limited", "^rpc_queue", ".*", ".*")
    with Client(node.url.replace("guest:guest", "limited:limited"), timeout=60) as client:
        for _ in range(2):
            with pytest.raises(AccessRefused, match=r"403 ACCESS_REFUSED .* refused for user 'limited'") as caught:
                client.call("fib", 30)
            assert not caught.value.may_have_run


def test_an_unknown_host_is_said() -> None:
    with Client("amqp://nobody.invalid", timeout=20) as client, pytest.raises(NotConnected, match="name is not known"):
        client.call("fib", 30)


@pytest.mark.parametrize("wrong", ["http://localhost", "localhost:5672", "amqp://", "amqp://host:port", "amqp://h?x=1"])
def test_what_is_no_url_is_a_configuration_error(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not an AMQP URL|not read"):
        Client(wrong)


def test_a_queue_with_other_arguments_is_a_configuration_error(url: str, raw: Raw) -> None:
    service = _service()
    raw.channel.queue_declare(service.queue, durable=True, arguments={"x-max-length": 10})
    try:
        with pytest.raises(ConfigurationError, match=re.escape(service.queue)):
            Server(service, url=url).start()
    finally:
        raw.channel.queue_delete(service.queue)


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    with pytest.raises(ConfigurationError, match="closed"):
        client.call("fib", 30)
    client.close()


def _service() -> Service:
    service = Service("tpresence")

    @service.rpc
    def one() -> int:
        return 1

    return service
