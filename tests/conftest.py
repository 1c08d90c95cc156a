"""Fixtures for all tests: a broker, its URL, a name for a queue, a node of its own."""

from __future__ import annotations

import os
import secrets
import signal
import struct
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pika.data
import pytest

from amqp_rpc.broker.node import Node
from tests import nodes
from tests.ids import ADDRESS
from tests.stores import RedisServer, require_redis

pytest_plugins = ["tests.served_by"]

# If the run was started in the background of a script, its programs would ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# On a busy machine an example takes longer than the 200 ms that hypothesis allows by default.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

#: The fixtures that start a server or use one, and the marker that each of their tests gets, also where another fixture
#: asks for them.
SERVER_MARKERS = {
    "broker": "rabbitmq",
    "all_nodes": "rabbitmq",
    "redis_url": "redis",
    "redis_server": "redis",
}

#: Of a test that failed, in whatever phase.
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if unstable := [item.nodeid for item in items if ADDRESS.search(item.nodeid)]:
        raise pytest.UsageError(f"the name of a test has an address, which differs between processes: {unstable[0]}")
    for item in items:
        for fixture in SERVER_MARKERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(SERVER_MARKERS[fixture])
        if {"node", "node_with", "new_node"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("node")
        if item.get_closest_marker("node"):
            item.add_marker("rabbitmq")
    items[:] = dealt(items, workers=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    if nodes.URL:
        skip = pytest.mark.skip(reason="needs a RabbitMQ node of its own, and AMQP_RPC_TEST_URL gives only a URL")
        for item in items:
            if item.get_closest_marker("node"):
                item.add_marker(skip)


def dealt(items: list[pytest.Item], *, workers: int) -> list[pytest.Item]:
    """Tests in an order in which no long one is the last one alone, and all workers have their share of them.

    With ``--dist worksteal`` each worker gets one block of them, and whoever is done first gets the end of another's.
    So each block begins with tests that take long; those of one file stay together, since they share nodes.
    """
    files: defaultdict[Path, list[pytest.Item]] = defaultdict(list)
    short = []
    for item in items:
        if seconds_of(item):
            files[item.path].append(item)
        else:
            short.append(item)
    blocks: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for tests in sorted(files.values(), key=lambda tests: -sum(map(seconds_of, tests))):
        min(blocks, key=lambda block: sum(map(seconds_of, block))).extend(tests)
    left = len(items)
    for number, block in enumerate(blocks):
        size = left // (workers - number)
        left -= size
        room = max(0, size - len(block))
        block.extend(short[:room])
        del short[:room]
    return [item for block in blocks for item in block] + short


def seconds_of(item: pytest.Item) -> float:
    """About how long a test takes that takes long; 0 for all others."""
    if (slow := item.get_closest_marker("slow")) is not None:
        return float(slow.kwargs["seconds"])
    if item.get_closest_marker("ends_node") is not None:
        return 10.0
    return 3.0 if item.get_closest_marker("node") is not None else 0.0


@pytest.fixture(scope="session")
def all_nodes() -> Iterator[nodes.Nodes]:
    made = nodes.Nodes()
    yield made
    made.close()


@pytest.fixture(scope="session")
def broker(all_nodes: nodes.Nodes) -> Iterator[str]:
    """The URL of the one broker that all tests of a run share; started when the first test asks for it."""
    if nodes.URL:
        yield nodes.URL
        return
    if (container := nodes.container()) is not None:
        yield f"amqp://guest:guest@{container.get_container_host_ip()}:{container.get_exposed_port(5672)}/"
        container.stop()
        return
    require_node()
    node = all_nodes.new()
    node.start(timeout=nodes.START_TIMEOUT)
    yield node.url
    node.close()


@pytest.fixture
def url(broker: str) -> str:
    """The AMQP URL of the broker that all tests share."""
    return broker


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def node(request: pytest.FixtureRequest, all_nodes: nodes.Nodes) -> Iterator[Node]:
    """A running node that this test may control, and, where it is marked ``ends_node``, also stop, kill and start.

    Later tests get the same one with all that is in it, unless this test fails or leaves it ended. So a test names its
    queues as no other does, and undoes what it sets.
    """
    require_node()
    node = all_nodes.lend()
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("ends_node") is None:
            for name in ("stop", "kill"):
                patch.setattr(node, name, lambda: pytest.fail("mark a test that ends its node: ends_node"))
        yield node
    all_nodes.give_back(node, whole=FAILED not in request.node.stash)


@pytest.fixture
def node_with(request: pytest.FixtureRequest, all_nodes: nodes.Nodes) -> Iterator[Callable[..., Node]]:
    """Lend a running node with some of `Node`'s options; as with `node`, later tests that want the same get it."""
    require_node()
    lent: list[tuple[Node, dict[str, object]]] = []

    def lend(**options: object) -> Node:
        lent.append((all_nodes.lend(**options), options))
        return lent[-1][0]

    yield lend
    for node, options in lent:
        all_nodes.give_back(node, whole=FAILED not in request.node.stash, **options)


@pytest.fixture
def vhost(node: Node, queue_name: str) -> Iterator[str]:
    """The URL of a virtual host that nothing has been declared in, on `node`."""
    node.ctl("add_vhost", queue_name, *(("--default-queue-type", nodes.QUEUE_TYPE) if nodes.QUEUE_TYPE else ()))
    node.ctl("set_permissions", "-p", queue_name, "guest", ".*", ".*", ".*")
    yield f"{node.url}{queue_name}"
    node.ctl("delete_vhost", queue_name)


@pytest.fixture
def new_node(all_nodes: nodes.Nodes) -> Iterator[Callable[..., Node]]:
    """Make and start a node for this test alone, for what `node` can't be used for; takes `Node`'s options."""
    require_node()
    made: list[Node] = []

    def make(*, start: bool = True, **options: object) -> Node:
        node = all_nodes.new(**options)
        made.append(node)
        if start:
            node.start(timeout=nodes.START_TIMEOUT)
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture
def queue_name() -> str:
    """A name that no other test uses: what a test declares is its own."""
    return f"test.{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of the one Redis that the tests of a run share."""
    require_redis()
    with RedisServer() as server:
        yield server.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis for this test alone, to be killed and started at will."""
    require_redis()
    with RedisServer() as server:
        yield server


def require_node() -> None:
    """Skip at home where there is no RabbitMQ, and fail in CI: a green run that tested nothing would lie."""
    if (reason := nodes.missing()) is not None:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


class Unreadable:
    """A header that is valid AMQP and that pika can't read: one that ended connections, and came back for ever."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded


UNREADABLE = {
    "a timestamp of the year 60 000": b"T" + struct.pack(">Q", 2**60),
    "a time in a table": b"F" + struct.pack(">I", 11) + b"\1tT" + struct.pack(">Q", 2**60),
}


@pytest.fixture(params=UNREADABLE.values(), ids=UNREADABLE)
def unreadable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Unreadable:
    original = pika.data.encode_value

    def encode(pieces: list[bytes], value: Any) -> int:
        if isinstance(value, Unreadable):
            pieces.append(value.encoded)
            return len(value.encoded)
        return original(pieces, value)

    monkeypatch.setattr(pika.data, "encode_value", encode)
    return Unreadable(request.param)
