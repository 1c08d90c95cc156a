"""The broker's address: from the argument, the environment or the default, and never with the password in sight."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.settings import TLS, Address, broker_addresses, hide_password, positive


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AMQP_URL", "AMQP_RPC_")):
            monkeypatch.delenv(name)


class TestWhichOne:
    def test_the_argument_comes_first(self, monkeypatch):
        monkeypatch.setenv("AMQP_RPC_URL", "amqp://two")
        assert broker_addresses("amqp://one")[0].host == "one"

    def test_several_nodes_of_a_broker_are_a_list_or_have_commas_between_them(self):
        assert [a.host for a in broker_addresses("amqp://one, amqp://two")] == ["one", "two"]
        assert [a.host for a in broker_addresses(["amqp://one", "amqp://two"])] == ["one", "two"]
        assert (
            str(broker_addresses("amqp://u:secret@one,amqp://two"))
            == "amqp://u:***@one:5672/, amqp://guest:***@two:5672/"
        )

    def test_then_the_variable_of_this_library(self, monkeypatch):
        monkeypatch.setenv("AMQP_RPC_URL", "amqp://two")
        monkeypatch.setenv("AMQP_URL", "amqp://three")
        assert broker_addresses()[0].host == "two"

    def test_then_the_variable_that_all_share(self, monkeypatch):
        monkeypatch.setenv("AMQP_URL", "amqp://three")
        assert broker_addresses()[0].host == "three"

    def test_an_empty_variable_is_none(self, monkeypatch):
        monkeypatch.setenv("AMQP_URL", "")
        assert broker_addresses() == (Address("localhost", 5672, "guest", "guest", "/"),)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://host", Address("host", 5672, "guest", "guest", "/")),
        ("amqp://host/", Address("host", 5672, "guest", "guest", "/")),
        ("amqps://host", Address("host", 5671, "guest", "guest", "/", tls=TLS())),
        ("amqp://u:p@host:1234/v", Address("host", 1234, "u", "p", "v")),
        ("amqp://u%40x:p%2F%3A@host/%2f", Address("host", 5672, "u@x", "p/:", "/")),
        ("amqp://host/a%2Fb", Address("host", 5672, "guest", "guest", "a/b")),
        ("amqp://[::1]:5673/", Address("::1", 5673, "guest", "guest", "/")),
        ("amqp://u:@host//", Address("host", 5672, "u", "", "/")),
        ("amqp://[fe80::1%25eth0]", Address("fe80::1%eth0", 5672, "guest", "guest", "/")),
        ("amqp://u:p@s@host", Address("host", 5672, "u", "p@s", "/")),
    ],
)
def test_a_url_is_read_as_rabbitmq_reads_it(url, expected):
    assert expected == Address.parse(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost", r"starts with amqp:// or amqps://, as amqp://guest:guest@localhost:5672/ does"),
        ("http://host", "http:// is RabbitMQ's management interface; it starts with amqp://"),
        ("", "starts with amqp://"),
        ("amqp://", "names no host"),
        ("amqp://:5672", "names no host"),
        ("amqp://host:port", r"the port in 'host:\*\*\*' is no number from 1 to 65535. Behind a password stands @ and"),
        ("amqp://host:99999", "the port in 'host:99999' is no number from 1 to 65535. Behind"),
        ("amqp://u:secret@host:port", "the port in 'host:port' is no number from 1 to 65535$"),
        ("amqp://u:secret@host:0", "the port in 'host:0' is no number from 1 to 65535$"),
        ("amqp://[::1", "its host can't be read"),
        (
            "amqp://host?heartbeat=5",
            r"its options \(heartbeat=\) are not read; heartbeat= is an argument, as in",
        ),
        ("amqp://host?locale=en&x=1", r"its options \(locale=, x=\) are not read; give them as arguments, where"),
        ("amqp://u:12#3@host/", "'@' stands behind the host. Write special characters of a password .* as %XX"),
        ("amqp://host/#x", r"what stands behind '\?' or '#' is not read"),
        ("amqp://host/v/", "the virtual host ends with '/'. Leave that out, or write %2F"),
        ("amqp+ssl://host", r"write amqps:// for amqp\+ssl://"),
        ("pyamqp://host", "write amqp:// for pyamqp://"),
        ("rabbitmq://host", "write amqp:// for rabbitmq://"),
        ("https://host:15671", "https:// is RabbitMQ's management interface; it starts with amqp:// or amqps://"),
        ("redis://host", "redis:// is Redis"),
        ("localhost:5672", "it starts with amqp://.* Write amqp:// before the host"),
    ],
)
def test_what_is_no_amqp_url_is_refused_with_the_reason(url, reason):
    with pytest.raises(ConfigurationError, match=reason):
        Address.parse(url)


class TestOptionsOfConnections:
    """The same names as arguments, in the URL's query and as variables: RabbitMQ's URI query parameters."""

    def test_a_query_has_them(self):
        url = (
            "amqps://h/v?cacertfile=%2Fa%20b+c.pem&certfile=c&keyfile=k&keyfile_password_file=p&verify=verify_none"
            "&server_name_indication=db&minimum_version=TLSv1.3&auth_mechanism=EXTERNAL"
        )
        (address,) = broker_addresses(url)
        assert address.tls == TLS("/a b+c.pem", "c", "k", "p", "verify_none", "db", "tlsv1.3")
        assert (address.auth_mechanism, address.vhost) == ("external", "v")

    def test_an_argument_overrides_the_url_and_the_url_a_variable(self, monkeypatch):
        def chosen(url, **options):
            return broker_addresses(url, **options)[0].tls.cacertfile

        monkeypatch.setenv("AMQP_RPC_CACERTFILE", "variable")
        assert chosen("amqps://h") == "variable"
        assert chosen("amqps://h?cacertfile=url") == "url"
        assert chosen("amqps://h?cacertfile=url", cacertfile=Path("argument")) == "argument"

    def test_each_node_of_a_cluster_may_have_its_own(self):
        one, two = broker_addresses("amqps://a?cacertfile=one,amqps://b", certfile="both")
        assert (one.tls, two.tls) == (TLS(cacertfile="one", certfile="both"), TLS(certfile="both"))

    def test_without_verification_a_warning_names_the_broker(self):
        assert broker_addresses("amqps://a,amqps://b").unverified() is None
        said = broker_addresses("amqps://u:secret@a,amqps://b", verify="verify_none").unverified()
        assert "anyone may be the broker at amqps://u:***@a:5671/, amqps://guest:***@b:5671/" in said

    @pytest.mark.parametrize(
        ("url", "options", "reason"),
        [
            ("amqp://h?cacertfile=x", {}, "cacertfile= is for TLS: write amqps:// for amqp://"),
            ("amqp://h", {"verify": "verify_none"}, "verify= is for TLS: write amqps:// for amqp://"),
            ("amqps://h?verify=verify_none&verify=verify_peer", {}, "verify= is there twice"),
            ("amqps://h?verify=none", {}, "verify='none' is not verify_peer or verify_none"),
            ("amqps://h", {"verify": False}, "verify=False is not verify_peer or verify_none"),
            ("amqps://h?minimum_version=1.3", {}, "minimum_version='1.3' is not tlsv1.2 or tlsv1.3"),
            ("amqps://h?auth_mechanism=kerberos", {}, "auth_mechanism='kerberos' is not plain or external"),
            ("amqps://h?cacertfile=", {}, "cacertfile='' is not the name of a file"),
            ("amqps://h", {"certfile": 5}, "certfile=5 is not the name of a file"),
            ("amqps://h?keyfile=k", {}, "keyfile= needs certfile=, the certificate that it is for"),
            ("amqps://h?auth_mechanism=external", {}, "auth_mechanism=external needs amqps://, certfile= and keyfile="),
            ("amqp://h?auth_mechanism=external", {}, "auth_mechanism=external needs amqps://, certfile= and keyfile="),
            (
                "amqp://u:secret@h?password_file=x",
                {},
                "the password is in the URL and in password_file=; leave one out",
            ),
            ("amqps://h?cacertfile=x", {"ssl_context": object()}, "cacertfile= is a matter of ssl_context="),
            ("amqps://h", {"ssl_context": object(), "certfile": "x"}, "certfile= is a matter of ssl_context="),
            ("amqp://h", {"ssl_context": object()}, "ssl_context= is for TLS: write amqps:// for amqp://"),
            ("amqps://h?cafile=x", {}, "write cacertfile= for cafile=$"),
            ("amqps://h?ssl_cert_reqs=none", {}, "write verify= for ssl_cert_reqs=$"),
            ("amqps://h?cacertfile=x&depth=1", {}, r"its options \(depth=\) are not read"),
        ],
    )
    def test_a_wrong_one_is_refused_with_the_reason(self, url, options, reason):
        with pytest.raises(ConfigurationError, match=reason) as caught:
            broker_addresses(url, **options)
        assert "secret" not in str(caught.value)

    def test_a_variable_of_tls_without_tls_is_an_error_and_not_a_plain_connection(self, monkeypatch):
        monkeypatch.setenv("AMQP_RPC_CACERTFILE", "ca.pem")
        with pytest.raises(ConfigurationError, match="AMQP_RPC_CACERTFILE is for TLS: write amqps:// for amqp://"):
            broker_addresses("amqp://h")

    def test_a_name_that_is_no_option_is_refused_as_python_does(self):
        with pytest.raises(TypeError, match="unexpected keyword argument 'cafile'"):
            broker_addresses("amqps://h", cafile="x")

    def test_a_password_comes_from_its_file(self, tmp_path):
        (tmp_path / "password").write_text("secret\n")
        (address,) = broker_addresses(f"amqp://u@h?password_file={tmp_path / 'password'}")
        assert address.current_password() == "secret"
        assert "secret" not in f"{address!r} {address}"


def what_is_said_of(url: str) -> str:
    try:
        return str(broker_addresses(url))
    except ConfigurationError as error:
        return str(error)


class TestThePassword:
    @pytest.mark.parametrize("show", [str, repr])
    def test_an_address_hides_it(self, show):
        assert "secret" not in show(Address.parse("amqp://user:secret@host/v"))

    def test_the_text_of_an_address_is_a_url_with_everything_else(self):
        assert str(Address.parse("amqps://user:secret@[::1]/v")) == "amqps://user:***@[::1]:5671/v"

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("amqp://user:secret@host", "amqp://user:***@host"),
            ("amqp://user@host", "amqp://user@host"),
            ("amqp://host:5672/v", "amqp://host:5672/v"),
            ("user:secret@host", "user:***@host"),
            ("amqp://user:sec:ret@host", "amqp://user:***@host"),
            ("amqp://user:sec@ret@host", "amqp://user:***@host"),
            ("amqp://user:sec/ret@host/v", "amqp://user:***@host/v"),
            ("amqp://user:sec,ret@host", "amqp://user:***@host"),
            ("amqp://user:secret", "amqp://user:***"),
            ("amqp://user:secret:5672", "amqp://user:***"),
            ("user:secret", "user:***"),
            ("amqp://[::1]:5672/v", "amqp://[::1]:5672/v"),
            ("amqp://host/?user=u&password=secret", "amqp://host/?user=***&password=***"),
            ("amqp://host/?user=u&password=sec@ret", "amqp://host:***@ret"),
            ("redis://127.0.0.1/0?password=secret", "redis://127.0.0.1/0?password=***"),
            ("redis://:secret@h/0?db=1#secret", "redis://:***@h/0?db=***#***"),
            ("unix://user:secret@/run/redis.sock?db=1", "unix://user:***@/run/redis.sock?db=***"),
        ],
    )
    def test_it_is_hidden_in_any_url(self, url, expected):
        assert expected == hide_password(url)

    @pytest.mark.parametrize(
        "password",
        [
            "sec/ret",
            "sec#ret",
            "sec?ret",
            "sec://ret",
            "sec://ret@x",
            "sec ret\u2100",
            "sec[ret",
            "12/34ret",
            "sec%ret:x",
            "sec,ret",
            "sec,amqp://ret",
            "a=sec&b=ret",
            "sec\nret",
        ],
    )
    def test_one_with_characters_that_should_have_been_escaped_is_never_shown(self, password):
        # With a number and no "@", it is a host with its port.
        without_a_host = () if password[0].isdigit() else ("",)
        for end in ("@host", "@host:5672/v", "@host:port", "@", *without_a_host):
            said = what_is_said_of(f"amqp://user:{password}{end}")
            assert "sec" not in said
            assert "ret" not in said

    @pytest.mark.parametrize(
        "url",
        [
            "amqp:/user:secret@host",
            "amqp//user:secret@host",
            "http://user:secret@host",
            "amqp://user:secret@host/?password=secret",
            "amqp://host/?user=u&password=secret",
            "amqp://host/?secret",
            "amqp://host/#secret",
            "amqp://h1,amqp://user:secret@h2:x",
            "amqp://h1,h2:secret",
            "amqp://user:se;cret@host:x",
            "amqp://user:%73ecret@host:x",
            "amqp://[user:secret",
        ],
    )
    def test_one_in_a_url_that_can_t_be_used_is_never_shown(self, url):
        with pytest.raises(ConfigurationError) as caught:
            broker_addresses(url)
        error: BaseException | None = caught.value
        while error is not None:
            assert "secret" not in str(error) + repr(error)
            assert "cret" not in str(error)
            error = None if error.__suppress_context__ else error.__cause__ or error.__context__

    def test_a_comma_of_one_is_a_comma(self):
        (address,) = broker_addresses("amqp://user:sec,ret@host")
        assert (address.password, address.host) == ("sec,ret", "host")

    @pytest.mark.parametrize(
        ("url", "user", "password"),
        [
            ("amqp://host", "guest", "guest"),
            ("amqp://guest@host", "guest", "guest"),
            ("amqp://admin@host", "admin", ""),
            ("amqp://admin:@host", "admin", ""),
            ("amqp://:pw@host", "", "pw"),
        ],
    )
    def test_one_that_is_not_given_is_empty_but_for_guest_s(self, url, user, password):
        address = Address.parse(url)
        assert (address.user, address.password) == (user, password)

    def test_the_zone_of_an_ipv6_address_is_decoded(self):
        assert Address.parse("amqp://[fe80::1%25lo]:5673").host == "fe80::1%lo"


class TestPositive:
    @pytest.mark.parametrize("right", [1, 0.5, 10**9])
    def test_a_number_above_zero_passes(self, right):
        positive("threads", right)

    @pytest.mark.parametrize("wrong", [0, -1, True, "5", None, float("nan")])
    def test_anything_else_is_refused_by_name(self, wrong):
        with pytest.raises(ConfigurationError, match="threads must be a number above 0, not "):
            positive("threads", wrong)

    def test_one_above_the_bound_is_refused_with_the_bound(self):
        with pytest.raises(ConfigurationError, match="heartbeat must be a number above 0 and at most 60000, not 60001"):
            positive("heartbeat", 60_001, most=60_000)
