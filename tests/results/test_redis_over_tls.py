"""Results in a Redis with TLS: it must prove who it is, unless that is switched off loudly; its password in a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from amqp_rpc.broker.ports import free_port
from amqp_rpc.errors import ConfigurationError, StoreUnavailable
from amqp_rpc.results import open_store
from tests.certificates import Authority
from tests.stores import RedisServer, require_redis

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def port(authority: Authority) -> Iterator[int]:
    require_redis()
    pair = authority.issue("localhost")
    port = free_port()
    words = ["--tls-port", port, "--tls-cert-file", pair.certfile, "--tls-key-file", pair.keyfile]
    words += ["--tls-ca-cert-file", authority.cacertfile, "--tls-auth-clients", "optional"]
    with RedisServer(*map(str, words)):
        yield port


def check(url: str) -> None:
    store = open_store(url)
    assert store is not None
    try:
        store.check()
    finally:
        store.close()


def test_an_authority_that_is_named_is_believed(port: int, authority: Authority) -> None:
    check(f"rediss://localhost:{port}/0?ssl_ca_certs={authority.cacertfile}")


def test_another_one_is_not(port: int, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    for query in ("", f"?ssl_ca_certs={other.cacertfile}"):
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate.verify.failed.*ssl_ca_certs, in its URL, names"):
            check(f"rediss://localhost:{port}/0{query}")


def test_the_name_of_the_host_must_be_in_the_certificate(port: int, authority: Authority) -> None:
    with pytest.raises(StoreUnavailable, match=r"not valid for '127\.0\.0\.1'"):
        check(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.cacertfile}")


def test_a_scheme_that_is_the_wrong_way_round_names_the_other(port: int, redis_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="For a Redis with TLS the URL starts with rediss://"):
        check(f"redis://localhost:{port}/0")
    with pytest.raises(StoreUnavailable, match="For a Redis without TLS the URL starts with redis://"):
        check(redis_url.replace("redis://", "rediss://"))


@pytest.mark.parametrize("off", ["ssl_cert_reqs=none", "ssl_check_hostname=False"])
def test_whoever_answers_is_believed_after_a_warning(
    port: int, authority: Authority, off: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(f"rediss://127.0.0.1:{port}/0?{off}&ssl_ca_certs={authority.cacertfile}")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "anyone may be the store at" in record.getMessage()
    assert f"its certificate is not checked ({off.replace('=', ' is ')})" in record.getMessage()


def test_a_file_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(ConfigurationError, match="ssl_ca_certs='/nowhere' can't be read: no such file"):
        open_store("rediss://localhost/0?ssl_ca_certs=/nowhere")


class TestAPasswordInAFile:
    def test_is_read_for_each_connection(self, tmp_path: Path) -> None:
        require_redis()
        secret = tmp_path / "password"
        secret.write_text("first\n")
        with RedisServer("--requirepass", "first") as server:
            store = open_store(f"redis://localhost:{server.port}/0?password_file={secret}")
            assert store is not None
            store.check()
            with redis.Redis(port=server.port, password="first") as administrator:
                administrator.config_set("requirepass", "second")
                administrator.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(StoreUnavailable, match=r"(?i)password"):
                store.check()
            secret.write_text("second\n")
            store.check()
            store.close()

    def test_is_not_in_the_url_as_well(self) -> None:
        with pytest.raises(ConfigurationError, match="in the URL and in password_file=; leave one out") as caught:
            open_store("redis://:secret@localhost/0?password_file=x")
        assert "secret" not in str(caught.value)

    def test_is_read_at_the_start(self) -> None:
        with pytest.raises(ConfigurationError, match="password_file='/nowhere' can't be read"):
            open_store("redis://ann@localhost/0?password_file=/nowhere")
