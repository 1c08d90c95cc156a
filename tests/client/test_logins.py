"""Any name and any password log in, and a password is in no log line, no repr and no traceback."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from amqp_rpc import AmqpRpcError, Client, Server, Service
from amqp_rpc.broker.node import Node
from tests.programs import serving

SECRET = "hunter2 S3cr3t:@/%?#[]é"


class Login:
    """A user of a virtual host, both with odd names."""

    def __init__(self, broker: str, name: str) -> None:
        self.user, self.vhost = f"{name}@us:er/ü", f"{name}/ä b%"
        scheme, _, rest = broker.partition("://")
        self.host = rest.rpartition("@")[2].partition("/")[0]
        user, secret, vhost = (quote(text, safe="") for text in (self.user, SECRET, self.vhost))
        self.url = f"{scheme}://{user}:{secret}@{self.host}/{vhost}"

    def add_to(self, node: Node) -> None:
        # Erlang reads UTF-8 bytes; rabbitmqctl takes seconds for each command.
        user, vhost, password = (f"<<{','.join(map(str, text.encode()))}>>" for text in (self.user, self.vhost, SECRET))
        internal, every = "rabbit_auth_backend_internal", ", ".join(['<<".*">>'] * 3)
        node.ctl(
            "eval",
            f'rabbit_vhost:add({vhost}, <<"guest">>), {internal}:add_user({user}, {password}, <<"guest">>), '
            f'{internal}:set_permissions({user}, {vhost}, {every}, <<"guest">>).',
        )


def shown_in(text: str) -> list[str]:
    """Return the lines that have the password, in whatever form."""
    forms = [SECRET, quote(SECRET, safe=""), quote(SECRET), repr(SECRET.encode())[2:-1]]
    forms.append(base64.b64encode(SECRET.encode()).decode().rstrip("="))
    return [line for line in text.splitlines() if any(form in line for form in forms)]


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def inner(made: object, depth: int = 4) -> Iterator[str]:
    """Yield how an object is shown, and all objects that it has; its texts are not looked at by themselves."""
    yield f"{made!r} {made}"
    if depth and type(made).__module__.startswith(("amqp_rpc", "pika")):
        for value in getattr(made, "__dict__", {}).values():
            if not isinstance(value, str | bytes):
                yield from inner(value, depth - 1)


def test_odd_names_log_in_and_neither_logs_nor_objects_nor_processes_show_the_password(
    node: Node, queue_name: str, service: Service, everything_logged: pytest.LogCaptureFixture
) -> None:
    login = Login(node.url, queue_name)
    login.add_to(node)
    service.rpc(lambda n: 2 * n, name="double")
    with Server(service, url=login.url) as server, Client(login.url, timeout=60) as client:
        assert client.call(f"{service.name}.double", 21) == 42
        shown = "\n".join([*inner(client), *inner(server)])
    assert login.host in shown
    assert any(record.name.startswith("pika") for record in everything_logged.records)
    assert shown_in(shown) == []
    assert shown_in(everything_logged.text) == []
    with serving("tests.served", "--processes", "2", "--log-level", "debug", url=login.url) as program:
        for process in (program.pid, *program.children()) if Path("/proc/self/cmdline").exists() else ():
            assert shown_in(Path(f"/proc/{process}/cmdline").read_text()) == []
    assert shown_in(program.text()) == []
    assert login.host in program.text()


WRONG: dict[str, Callable[[str], str]] = {
    "another user": str,
    "no host": lambda url: f"{url.partition('@')[0]}@nosuch.invalid/",
    "no broker": lambda url: f"{url.partition('@')[0]}@127.0.0.1:1/",
    "the other scheme": lambda url: url.replace("amqp:", "amqps:") if url.startswith("amqp:") else f"amqp{url[5:]}",
    "no port": lambda url: f"{url.partition('@')[0]}@127.0.0.1:x/",
}


def call(url: str) -> None:
    with Client(url) as client:
        client.call("f", timeout=5)


def serve(url: str) -> None:
    service = Service("tlogins")
    service.rpc(lambda: 1, name="f")
    Server(service, url=url).start(timeout=5)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("use", [call, serve])
def test_what_fails_shows_no_password(
    url: str, wrong: str, use: Callable[[str], None], everything_logged: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AmqpRpcError) as caught:
        use(WRONG[wrong](Login(url, "nobody").url))
    assert shown_in(everything_logged.text) == []
    error: BaseException | None = caught.value
    while error is not None:
        assert shown_in(f"{error!r} {error} {error.args!r} {vars(error)!r}") == []
        error = error.__cause__ or error.__context__
    if wrong == "no port":
        # The URL is an argument of the frames that read it.
        return
    # As error trackers do, with the variables of each frame; those of the program, which has the URL, are not ours.
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = Path(__file__).parents[2] / "amqp_rpc"
    for frame in shown.stack:
        if Path(frame.filename).is_relative_to(ours):
            assert {name: text for name, text in (frame.locals or {}).items() if shown_in(text)} == {}, frame
